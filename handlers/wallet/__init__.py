"""Wallets: balances, the history of entries, what is spent and given, and the events that tell of it.

Invariants
- `balance` equals the sum of the account's entries, is never negative, and the chain of before and
  after is unbroken; `n` counts without a gap. Only storage.ledger.post writes balances.
- A movement between a user and the platform is one entry whose counter-account implies the opposite half; one between
  two users is two entries with a `transfer_id` in common, each naming the other's wallet. Each transfer sums to zero.
- Of two spends of the last coin one wins, whatever doors, batches and nodes they come through: the heads of all whose
  balance changes are held.
- What a backend takes, gives back or corrects is in the audit log, in the same transaction.
"""
