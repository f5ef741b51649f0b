"""Conversations on a real database, with what their people know from events and acknowledgements alone."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from handlers.deed import BatchResult, Deed, Delivered
from handlers.inbox.envelope import render
from handlers.messaging.conversations import ConversationsHandler
from handlers.messaging.handler import MessagingHandler
from handlers.messaging.rules import TYPES, preview
from handlers.messaging.settler import GroupSettler
from handlers.messaging.wire import CreateConversationRequest
from handlers.wire import encode
from storage import heads, requests, users
from tests.support.deeds import deed, readable, run_batch

if TYPE_CHECKING:
    import asyncpg

_texts = itertools.count(1)


def send(user: int, conversation: str, text: str = "", **fields: Any) -> Deed:
    """A text, or whatever `fields` say."""
    body = {"messageType": "text", "content": text or f"text {next(_texts)}", **fields}
    given = {name: value for name, value in body.items() if value is not None}
    return deed(user, "message:send", conversationId=conversation, **given)


def read(user: int, conversation: str, message: str) -> Deed:
    """Everything up to the message."""
    return deed(user, "message:read", conversationId=conversation, messageId=message)


async def all_are_due(conn: asyncpg.Connection) -> None:
    """Every large group is to be told what was gathered for it, however lately it was told. Waits as everybody does."""
    async with conn.transaction():
        await heads.lock_conversations(conn, [row[0] for row in await conn.fetch("SELECT id::text FROM conversations")])
        await conn.execute("UPDATE conversations SET previewed_at = NULL, reads_told_at = NULL")


class Room:
    """A list of conversations as a client keeps it: rows by id, changed by events and own acknowledgements."""

    def __init__(self, user: int) -> None:
        self.user = user
        self.rows: dict[str, dict[str, Any]] = {}

    def hear(self, event: dict[str, Any]) -> None:
        """One event of the inbox."""
        data = event["data"]
        if event["type"] == "conversation_changed":
            if self.user not in data["participantIds"]:
                self.rows.pop(data["conversationId"], None)
                return
            row = self.rows.setdefault(data["conversationId"], {"unreadCount": 0, "lastNumber": -1})
            row["participantIds"], row["title"] = data["participantIds"], data["title"]
            self._advance(row, data, data["lastNumber"], data["lastMessageAt"])
        elif (row := self.rows.get(data["conversationId"])) is not None:
            if event["type"] == "message_preview":
                row["unreadCount"] = data["unreadCount"]
                self._advance(row, data, data["number"], data["timestamp"])
            elif data["readerId"] == self.user:
                row["unreadCount"] = data["unreadCount"]

    def sent(self, request: Any, ack: dict[str, Any]) -> None:
        """The acknowledgement of a message of one's own."""
        if (row := self.rows.get(request.conversation_id)) is not None:
            text = preview(TYPES.index(request.message_type), request.content)
            shown = {"lastMessage": text, "lastMessageId": ack["messageId"]}
            self._advance(row, shown, ack["number"], ack["timestamp"])

    def list(self) -> dict[str, dict[str, Any]]:
        return self.rows

    @staticmethod
    def _advance(row: dict[str, Any], data: dict[str, Any], number: int, at: str | None) -> None:
        if number > row["lastNumber"]:
            row["lastMessage"], row["lastMessageId"] = data["lastMessage"], data["lastMessageId"]
            row["lastNumber"], row["lastMessageAt"] = number, at


class Chats:
    """Runs batches and changes, and keeps all that was told: events, and what nobody keeps."""

    def __init__(
        self, conn: asyncpg.Connection, pool: asyncpg.Pool, *, gather_above: int = 16, most: int = 256
    ) -> None:
        self.conn = conn
        self.live: list[tuple[list[int], dict[str, Any], str | None, object]] = []
        self.events: list[Delivered] = []
        self.rooms: dict[int, Room] = {}
        self.wakes = 0
        self.settler = GroupSettler()
        self.sent: list[tuple[int, str]] = []
        self.handler = MessagingHandler(
            publisher=self, wake_settler=self._wake, on_sent=self._note_sent, gather_above=gather_above
        )
        self.conversations = ConversationsHandler(pool=pool, deliver=self.hear, most_participants=most)

    def users(
        self, user_ids: Sequence[int], envelope: bytes, *, topic: str | None = None, but: object | None = None
    ) -> None:
        """As of the publisher."""
        self.live.append((list(user_ids), json.loads(envelope), topic, but))

    async def settle(self, *, at_once: bool = True) -> int:
        """Tell groups what was gathered, until nothing is left that is due, or nothing at all; how many events."""
        before = len(self.events)
        if at_once:
            await all_are_due(self.conn)
        self.hear(await self.settler.settle(self.conn))
        while self.settler.is_behind:
            self.hear(await self.settler.settle(self.conn))
        return len(self.events) - before

    def _note_sent(self, user: int, conversation: str) -> None:
        self.sent.append((user, conversation))

    def _wake(self) -> None:
        self.wakes += 1

    def hear(self, events: Sequence[Delivered]) -> None:
        """Committed events."""
        self.events += events
        for event in events:
            self._room(event.user_id).hear(json.loads(render(event.row)))

    def _room(self, user: int) -> Room:
        return self.rooms.setdefault(user, Room(user))

    async def people(self, count: int) -> list[int]:
        """So many users, from 1 on."""
        await requests.maintain_partitions(self.conn)
        ids = list(range(1, count + 1))
        await users.insert_unknown_users(self.conn, ids, [None] * count)
        return ids

    async def talk(self, *people: int, title: str | None = None) -> str:
        """A conversation of these, made by the first."""
        request = CreateConversationRequest(list(people), title)
        return (await self.conversations.create(people[0], request)).conversation_id

    async def run(self, *deeds: Deed, **how: Any) -> list[Any]:
        """The answers in the order of the deeds: whole acks, refusals' codes, or None for the next batch."""
        return self.take(await run_batch(self.conn, self.handler, deeds, **how))

    def take(self, result: BatchResult) -> list[Any]:
        """A batch's result as the lane takes it: acknowledgements, events, and what is told afterwards."""
        answers = [readable(answer.outcome) for answer in result.answers]
        for (done, _), answer in zip(result.answers, answers, strict=True):
            if done.event == "message:send" and isinstance(answer, dict) and answer["ok"]:
                self._room(done.user_id).sent(done.request, answer["data"])
        self.hear(result.events)
        for tell in result.afterwards:
            tell()
        return answers

    async def data(self, *deeds: Deed) -> list[Any]:
        """`run`, which must succeed: the data of each ack."""
        answers = await self.run(*deeds)
        assert all(isinstance(answer, dict) and answer["ok"] for answer in answers), answers
        return [answer["data"] for answer in answers]

    async def say(self, user: int, conversation: str, text: str = "", **fields: Any) -> str:
        """One message; its id."""
        [data] = await self.data(send(user, conversation, text, **fields))
        return str(data["messageId"])

    def told(self, user: int, type_: str | None = None) -> list[Any]:
        """The envelopes of one user so far."""
        mine = [json.loads(render(event.row)) for event in self.events if event.user_id == user]
        return [envelope for envelope in mine if type_ in (None, envelope["type"])]

    def counts(self) -> dict[int, int]:
        """user -> events so far."""
        counts: dict[int, int] = defaultdict(int)
        for event in self.events:
            counts[event.user_id] += 1
        return dict(counts)

    async def listed(self, user: int) -> dict[str, dict[str, Any]]:
        """The fresh list, as rows by id."""
        page, _ = await self.conversations.list(user, None, 100)
        assert page.next_cursor is None
        rows = [json.loads(encode(row)) for row in page.conversations]
        return {row.pop("conversationId"): row for row in rows}

    async def check(self) -> None:
        """Old list + events + own acknowledgements = fresh list, for everybody."""
        for user, room in self.rooms.items():
            assert room.list() == await self.listed(user), f"user {user}"
