"""Door 3: what other backends write to Kafka.

    topics.py       the topics and what each is for
    member.py       this node in the consumer group: which partitions are its own, their records, how far they are
    partition.py    one partition: its records in their order, those that can't be read put aside
    deeds.py        one whose records are deeds of the lane: events and commands
    room.py         how much of theirs may be in the lane at once
    directory.py    one whose records are of the directory, which is outside the lane
    records.py      a record's bytes as a deed
    offsets.py      how far partitions are, asked until the database answers
    places.py       before a batch commits: the partitions move with it
    letters.py      what could not be read
    outbox.py       answers to commands
    sender.py       records on their way to Kafka

Invariants
- A partition's offset is stored in the transaction of what its records came to, from where that transaction believes it
  to be. Whoever is wrong about that stores nothing, begins again from what is stored, and is right then.
- A record is passed over only when it was carried out, answered, or Kafka has acknowledged its dead letter.
- Kafka's own commit comes afterwards, for its tools; nobody here reads it.
"""
