"""Wallets: balances, the history of entries, and the events that tell of them.

Invariants
- `balance` equals the sum of the account's entries, is never negative, and the chain of before and
  after is unbroken; `n` counts without a gap. Only storage.ledger.post writes balances.
"""
