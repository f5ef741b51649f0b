"""What a user was told: every durable event, in `seq` order without a gap.

Invariants
- Replay equals live: one renderer makes an event's envelope, from the very row that is stored.
- A ledger entry is its user's event: it is read from the ledger and never stored twice.
"""
