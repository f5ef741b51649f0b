"""Egress: each committed entry of the ledger as a record of the topic `ledger`, for analytics.

    publisher.py    one node at a time: page after page, and how far it is
    sender.py       a page on its way to Kafka
    watch.py        how far it is behind, told by every node
    counts.py       the numbers
    wiring.py       what of this runs, where this node takes part

Invariants
- A record is sent only when Kafka has acknowledged all earlier entries of its user, or right behind them in one batch.
  So whatever dies, is repeated, or wakes up late: the first record of each entry comes behind the first records of all
  earlier ones of its user. Who drops what is not above the last `n` of an account has each entry once.
- The place moves on when Kafka has acknowledged what is before it, by whoever holds the lease, which only saves work.
- Nothing is asked of an action, which does not know of all this: what comes next is read from the ledger itself.
"""
