"""What sending and reading comes to: values in, values out, one deed after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import regex

TYPES: Final = ("text", "image", "video", "audio", "gif", "sticker")  # stored by their place
TEXT: Final = 0
_PREVIEWS: Final = ("", "📷 Photo", "🎥 Video", "🎵 Audio", "GIF", "Sticker")
PREVIEW_CHARACTERS: Final = 50

# Whole grapheme clusters. Possessive: there is nothing to try again.
_BEGINNING: Final = regex.compile(rf"\X{{0,{PREVIEW_CHARACTERS}}}+")


def preview(message_type: int, content: str | None) -> str:
    """What a list shows of a message: the first 50 characters of a text, as people count them, else what it is."""
    if message_type != TEXT or content is None:
        return _PREVIEWS[message_type]
    if len(content) <= PREVIEW_CHARACTERS:
        return content
    if content.isascii() and "\r" not in content:
        return content[:PREVIEW_CHARACTERS]
    return str(_BEGINNING.match(content)[0])


def is_direct(participants: int, title: str | None) -> bool:
    """Two without a title are a direct conversation."""
    return participants == 2 and title is None


@dataclass(slots=True)
class Participant:
    """How far one of them has read, and how many messages of their own lie behind that."""

    read_number: int
    own_after: int
    own_now: int = 0  # of own_after those that this batch has added


@dataclass(slots=True)
class Chat:
    """A conversation under its lock."""

    id: str
    is_direct: bool
    last_number: int
    previewed_number: int
    participants: dict[int, Participant]
    is_gathered: bool  # there are too many of them to be told at once

    def unread(self, user_id: int) -> int:
        """Messages behind the read pointer that others wrote."""
        reader = self.participants[user_id]
        return self.last_number - reader.read_number - reader.own_after


@dataclass(slots=True)
class Preview:
    """One `message_preview` to one recipient."""

    user_id: int
    seq: int
    unread: int


@dataclass(slots=True)
class ReadNotice:
    """One `message_read`: to the reader with what is unread now, to others without."""

    user_id: int
    seq: int
    unread: int | None


@dataclass(slots=True)
class Books:
    """Everything that a batch reads and changes."""

    seqs: dict[int, int]  # of locked users
    chats: dict[str, Chat]
    moved: set[tuple[str, int]] = field(default_factory=set)  # (conversation, user): pointers to be stored
    gathered: set[tuple[str, int | None]] = field(default_factory=set)  # (conversation, reader; None: a message)


def send(books: Books, chat: Chat, sender_id: int) -> list[Preview]:
    """The next message of a conversation; whom to tell of it at once. All these are locked."""
    chat.last_number += 1
    sender = chat.participants[sender_id]
    sender.own_after += 1
    sender.own_now += 1
    books.moved.add((chat.id, sender_id))
    if chat.is_gathered:
        books.gathered.add((chat.id, None))
        return []
    chat.previewed_number = chat.last_number
    return [
        Preview(user_id, _next_seq(books, user_id), chat.unread(user_id))
        for user_id in chat.participants
        if user_id != sender_id
    ]


def moves(chat: Chat, reader_id: int, number: int) -> bool:
    """Whether reading that message moves the pointer: never back."""
    return number > chat.participants[reader_id].read_number


def range_to_count(last_number: int, reader: Participant, number: int) -> tuple[int, int]:
    """(after, upto): where to count the reader's own messages, so that `own_behind` knows how many lie behind
    `number`. The shorter of both sides, and nothing where there are none or nothing is left."""
    if reader.own_after == 0 or not reader.read_number < number < last_number:
        return 0, 0
    if number - reader.read_number <= last_number - number:
        return reader.read_number, number
    return number, last_number


def own_behind(last_number: int, reader: Participant, number: int, counted: int) -> int:
    """Own messages behind `number`, of those that were there when `counted` was."""
    if reader.own_after == 0 or number >= last_number:
        return 0
    return counted if range_to_count(last_number, reader, number)[0] == number else reader.own_after - counted


def read(books: Books, chat: Chat, reader_id: int, number: int, behind: int) -> list[ReadNotice]:
    """Move a pointer forward; whom to tell of it at once. `behind`: own messages behind it that were stored before."""
    reader = chat.participants[reader_id]
    reader.read_number = number
    reader.own_after = behind + reader.own_now
    books.moved.add((chat.id, reader_id))
    told = [ReadNotice(reader_id, _next_seq(books, reader_id), chat.unread(reader_id))]
    if chat.is_gathered:
        books.gathered.add((chat.id, reader_id))
        return told
    others = [user_id for user_id in chat.participants if user_id != reader_id]
    return told + [ReadNotice(user_id, _next_seq(books, user_id), None) for user_id in others]


def _next_seq(books: Books, user_id: int) -> int:
    books.seqs[user_id] += 1
    return books.seqs[user_id]
