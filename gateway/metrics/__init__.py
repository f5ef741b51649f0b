"""Prometheus metrics: readers over the plain numbers that each part keeps (`gateway/counts.py`), at each scrape.

    families.py     a number, several by label, a histogram: as a family
    doors.py        what comes in and goes out: socket, HTTP, Kafka
    work.py         what is done meanwhile: the lane, the pool, what is due
    fan_out.py      who hears of it, here and on other nodes
    registry.py     all that one node shows, with its process and build

Names begin with `applause_`, units are base units, no label tells a user, and every label's values are few: events of
the verb table (what a client makes up is `other`), codes of closed lists, templates of routes.
"""
