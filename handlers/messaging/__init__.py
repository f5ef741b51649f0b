"""Messages: who talks with whom, what was said, and how far everybody has read.

Invariants
- The messages of a conversation are numbered without a gap, under the conversation's lock; a message exists once per
  request key, and its id carries its number.
- There is one direct conversation per pair: its id follows from the two. Its participants stay.
- Unread is counted, never stored: last_number - read_number - own_after. Whoever joins has read everything.
- Only those who take part as of the conversation's lock hear of a message, also those whose chat is open.
- What changes a row of somebody's list of conversations is an event in their inbox, or their own acknowledgement:
  an old list with the events since then is a fresh list.
- In a group above a limit previews are gathered durably and given at most once a second, reads once in three; the rest
  is told in the transaction of its cause.
"""
