"""Door 3: what other backends write to Kafka.

    topics.py       the topics and what each is for
    member.py       this node in the consumer group: which partitions are its own, their records, how far they are
    partition.py    one partition: its records in their order, those that can't be read put aside
    deeds.py        one whose records are deeds of the lane: events and commands; how many may be there at once
    directory.py    one whose records are of the directory, which is outside the lane
    records.py      a record's bytes as a deed
    commit.py       what goes into a batch's own commit: offsets, and answers that are to be sent
    offsets.py      how far partitions are, outside of batches, asked until the database answers
    dead_letters.py what could not be read
    wire.py         what letters and answers look like
    outbox.py       answers to commands
    sender.py       records on their way to Kafka
    door.py         all of this, put together
    wiring.py       and started, where this node takes part

Invariants
- A partition's offset is stored in the transaction of what its records came to, from where that transaction believes it
  to be. Whoever is wrong about that stores nothing, begins again from what is stored, and is right then.
- A record is passed over only when it was carried out, answered, or Kafka has acknowledged its dead letter.
- Kafka's own commit comes afterwards, for its tools; nobody here reads it.
"""
