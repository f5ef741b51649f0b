"""Likes, views and shares: recorded, paid once for ever, told to the creator.

Invariants
- One engagement row per (actor, video, kind), guarded by the actor's head; its flags say what it has
  paid, so that unlike and like again pays once, and somebody who becomes eligible later is still paid.
- A total moves only under its creator's head: at once where the creator is quiet, else by the settler.
- flags = ledger entries + waiting accruals; totals = engagements - waiting changes (`applause audit`).
"""
