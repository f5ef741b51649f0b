"""The directory: users and videos as the app's backend keeps them, and who I am.

Invariants
- A user has a head and a wallet from the same statement on that creates them.
- Fields left out of a change keep their value; a change with an older `version` changes nothing.
- A record of Kafka's, (source, id), is taken in once: a repetition undoes nothing that came after it.
- A video's owner exists, and is replaced only under the heads of both.
"""
