"""Likes, views, shares and comments: recorded, paid once for ever (comments: each, up to a cap a day), told to the
creator.

Invariants
- One engagement row per (actor, video, kind), guarded by the actor's head; its flags say what it has
  paid, so that unlike and like again pays once, and somebody who becomes eligible later is still paid.
- A total moves only under its creator's head: at once where the creator is quiet, else by the settler. Comments are
  told one by one, so they always hold that head, and their numbers rise in the order of commit.
- flags = ledger entries + waiting accruals; totals = engagements - waiting changes (`applause audit`).
"""
