"""Runs batches of messages and read pointers: resolve, lock conversations too, read, decide, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import UNSET

from handlers.deed import Answer, BatchResult, Deed, delivered, derived_id, fresh_id
from handlers.errors import Refusal
from handlers.inbox.envelope import timestamp_of
from handlers.keys import Keys
from handlers.messaging import ids, rules
from handlers.messaging.rows import PREVIEW, READ, event_of, live_envelope, preview_of, read_of
from handlers.messaging.rules import TYPES, Books, Chat, Participant
from handlers.messaging.wire import ReadAck, ReadRequest, SendAck, SendRequest
from handlers.wire import encode
from storage import conversations, gathered, heads, inbox, messages
from storage.conversations import Advance, Pointer
from storage.db import is_lock_timeout
from storage.heads import LockedConversation
from storage.inbox import StoredEvent
from storage.messages import Asked, AskedPointer, ListedMessage, Reading, StoredMessage
from storage.statement import micros, write_together

if TYPE_CHECKING:
    from asyncpg import Connection

SEND: Final = "message:send"
GATHER_ABOVE: Final = 16  # participants, above which previews and reads are gathered
MOST_TOLD: Final = 1_000  # events of one batch, about: what is behind waits for the next


class Publisher(Protocol):
    """fanout.publisher.Publisher: tells connections here and on other nodes of what nobody keeps."""

    def users(
        self, user_ids: Sequence[int], envelope: bytes, *, topic: str | None = None, but: object | None = None
    ) -> None:
        """An envelope for these users' connections: those that have joined `topic`, where one is named, and never
        `but`."""
        ...


@dataclass(slots=True)
class MessagingConcern:
    """The heads to lock: who acts, and who is told of it at once."""

    user_ids: set[int]


class MessagingHandler:
    """`message:send` and `message:read`. `wake_settler` is called where something was gathered; `on_sent` with the
    sender and the conversation of each message, so that nobody is shown typing what has arrived.

    Every step is one statement for the whole batch, however many take part.
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        wake_settler: Callable[[], None],
        on_sent: Callable[[int, str], None],
        gather_above: int = GATHER_ABOVE,
    ) -> None:
        self._publisher = publisher
        self._wake_settler = wake_settler
        self._on_sent = on_sent
        self._gather_above = gather_above
        self._skips_locked = False

    async def resolve(self, conn: Connection, deeds: Sequence[Deed]) -> MessagingConcern:
        """Lock those who act, and in small conversations that they take part in everybody."""
        named = _named(deeds)
        few = await conversations.list_few_participants(conn, named, self._gather_above + 1) if named else {}
        concerned: set[int] = set()
        for deed in deeds:
            concerned.add(deed.user_id)
            others = few.get(deed.request.conversation_id, ())
            if len(others) <= self._gather_above and deed.user_id in others:
                concerned.update(others)
        return MessagingConcern(concerned)

    async def run(
        self, conn: Connection, deeds: Sequence[Deed], _: MessagingConcern, heads: dict[int, int]
    ) -> BatchResult:
        """Carry out the deeds all of whose heads and conversations are locked; the others wait for the next batch, and
        with them the later ones of their users."""
        ready = [deed for deed in deeds if deed.user_id in heads]
        batch = _Batch(heads)
        if ready:
            chats, held = await self._lock(conn, _named(ready))
            await batch.read(conn, ready, chats, held, self._gather_above)
            batch.decide(ready)
            await batch.write(conn)
        answers = [Answer(deed, batch.answers.get(deed)) for deed in deeds]
        afterwards: list[Callable[[], None]] = [partial(self._tell, *sent) for sent in batch.sent]
        if batch.books.gathered:
            afterwards.append(self._wake_settler)
        return BatchResult(answers, delivered(batch.events), afterwards)

    async def _lock(self, conn: Connection, named: set[str]) -> tuple[dict[str, LockedConversation], set[str]]:
        """The conversations, and those of them that somebody else holds.

        Where that takes too long the lane runs the batch again, which then passes them over: a node that stands still
        must not stop those who talk elsewhere.
        """
        if not named:
            return {}, set()
        skips, self._skips_locked = self._skips_locked, False
        try:
            locked = await heads.lock_conversations(conn, named, skip_locked=skips)
        except Exception as error:
            self._skips_locked = is_lock_timeout(error)
            raise
        missing = named - locked.keys()
        held = await conversations.list_existing(conn, missing) if skips and missing else set[str]()
        return locked, held

    def _tell(self, deed: Deed, conversation_id: str, recipients: list[int], message: ListedMessage) -> None:
        """Those who look at the conversation, and the sender's other connections, whatever they look at."""
        envelope = live_envelope(conversation_id, message)
        self._publisher.users(recipients, envelope, topic=topic_of(conversation_id))
        self._publisher.users([deed.user_id], envelope, but=deed.order_key)
        self._on_sent(deed.user_id, conversation_id)


def topic_of(conversation_id: str) -> str:
    """The topic of the connections on which this conversation is open."""
    return f"chat:{conversation_id}"


def _named(deeds: Sequence[Deed]) -> set[str]:
    """The conversations that the deeds name, as far as such ids can be."""
    return {deed.request.conversation_id for deed in deeds if ids.is_id(deed.request.conversation_id)}


_NO_CONVERSATION: Final = Refusal("not_found", "There is no such conversation.", field="conversationId")
_NO_MESSAGE: Final = Refusal("not_found", "There is no such message.", field="messageId")


@dataclass(slots=True)
class _Waiting:
    """Whose deeds wait for the next batch: everything behind one that does, or all, once there is enough."""

    users: set[int] = field(default_factory=set)
    everybody: bool = False


class _Batch:
    """One batch under its locks: the books, the request keys, and what is to be written."""

    def __init__(self, seqs: Mapping[int, int]) -> None:
        self._before = seqs
        self._keys = Keys()
        self._held: set[str] = set()
        self._readings: dict[Deed, Reading] = {}
        self._pointers: dict[Deed, tuple[bool, int]] = {}  # whether there is such a message, own ones behind it
        self._now: datetime
        self._last: dict[str, tuple[ListedMessage, str]] = {}  # of each conversation, with its preview
        self._messages: list[StoredMessage] = []
        self.books = Books(seqs=dict(seqs), chats={})
        self.answers: dict[Deed, bytes | Refusal] = {}
        self.events: list[StoredEvent] = []
        self.sent: list[tuple[Deed, str, list[int], ListedMessage]] = []

    # -- read ------------------------------------------------------------------------------------

    async def read(
        self,
        conn: Connection,
        deeds: Sequence[Deed],
        locked: Mapping[str, LockedConversation],
        held: set[str],
        gather_above: int,
    ) -> None:
        """What the deeds need to know, in statements after the locks."""
        self._held = held
        people = await conversations.list_participants(conn, locked) if locked else {}
        for each in locked.values():
            part = {user: Participant(read, own) for user, read, own in people.get(each.id, ())}
            self.books.chats[each.id] = Chat(
                each.id, each.is_direct, each.last_number, each.previewed_number, part, len(part) > gather_above
            )
        await self._read_sends(conn, [deed for deed in deeds if deed.event == SEND])
        await self._read_pointers(conn, [deed for deed in deeds if deed.event != SEND])

    async def _read_sends(self, conn: Connection, deeds: Sequence[Deed]) -> None:
        if not deeds:
            return
        asked = [Asked(deed.user_id, deed.action_id, self._other(deed)) for deed in deeds]
        for deed, reading in zip(deeds, await messages.list_readings(conn, asked), strict=True):
            self._now = reading.now
            self._readings[deed] = reading
            if reading.fingerprint is not None and reading.outcome is not None:
                self._keys.enter(deed, reading.fingerprint, reading.outcome)

    def _other(self, deed: Deed) -> int | None:
        """The other one of a direct conversation."""
        chat = self._chat(deed)
        if chat is None or not chat.is_direct:
            return None
        return next((user_id for user_id in chat.participants if user_id != deed.user_id), None)

    async def _read_pointers(self, conn: Connection, deeds: Sequence[Deed]) -> None:
        asked: dict[Deed, AskedPointer] = {}
        for deed in deeds:
            request: ReadRequest = deed.request
            chat = self._chat(deed)
            if chat is not None and ids.is_id(request.message_id):
                number = ids.number_of(request.message_id)
                span = rules.range_to_count(chat.last_number, chat.participants[deed.user_id], number)
                asked[deed] = AskedPointer(chat.id, number, request.message_id, deed.user_id, *span)
        if not asked:
            return
        rows = await messages.list_pointers(conn, list(asked.values()))
        for (deed, pointer), (now, is_there, counted) in zip(asked.items(), rows, strict=True):
            self._now = now
            chat = self.books.chats[pointer.conversation_id]
            reader = chat.participants[deed.user_id]
            behind = rules.own_behind(chat.last_number, reader, pointer.number, counted)
            self._pointers[deed] = is_there, behind

    def _chat(self, deed: Deed) -> Chat | None:
        """The conversation that the deed names; None where its user does not take part."""
        chat = self.books.chats.get(deed.request.conversation_id)
        return chat if chat is not None and deed.user_id in chat.participants else None

    # -- decide ----------------------------------------------------------------------------------

    def decide(self, deeds: Sequence[Deed]) -> None:
        """One deed after the other."""
        waiting = _Waiting()
        for deed in deeds:
            if waiting.everybody or deed.user_id in waiting.users:
                continue
            outcome = self._answer(deed)
            if outcome is None:
                waiting.users.add(deed.user_id)
            else:
                self.answers[deed] = outcome
            waiting.everybody = len(self.events) >= MOST_TOLD

    def _answer(self, deed: Deed) -> bytes | Refusal | None:
        """What comes of one deed; None where it has to wait for a lock."""
        is_send = deed.event == SEND
        if is_send and (kept := self._keys.replay(deed)) is not None:
            return kept
        if deed.request.conversation_id in self._held:
            return None
        chat = self._chat(deed)
        if chat is None:
            return _NO_CONVERSATION
        if not (chat.is_gathered or chat.participants.keys() <= self.books.seqs.keys()):
            return None  # somebody has joined since, or somebody else holds a head
        return self._send(deed, chat) if is_send else self._read(deed, chat)

    def _send(self, deed: Deed, chat: Chat) -> bytes | Refusal:
        request: SendRequest = deed.request
        reading = self._readings[deed]
        if reading.is_blocked:
            return _NO_CONVERSATION
        previews = rules.send(self.books, chat, deed.user_id)
        origin = f"{deed.user_id}/{deed.action_id}/{self._now}"
        number = chat.last_number
        message = ListedMessage(
            ids.message_id(number, f"{origin}/message"), number, deed.user_id, reading.username, reading.picture_url,
            TYPES.index(request.message_type), request.content, request.media_url, self._now,
        )  # fmt: skip
        text = rules.preview(message.message_type, message.content)
        for told in previews:
            data = preview_of(chat.id, message, text, told.unread)
            event_id = derived_id(f"{origin}/preview/{told.user_id}")
            self.events.append(event_of(told.user_id, told.seq, event_id, PREVIEW, data, self._now))
        self._last[chat.id] = message, text
        self._messages.append(_stored(chat.id, message))
        self.sent.append((deed, chat.id, [user for user in chat.participants if user != deed.user_id], message))
        ack = SendAck(str(message.id), number, timestamp_of(self._now))
        outcome = b'{"ok":true,"data":%b}' % encode(ack)
        self._keys.keep(deed, outcome, self._now)
        return outcome

    def _read(self, deed: Deed, chat: Chat) -> bytes | Refusal:
        request: ReadRequest = deed.request
        is_there, behind = self._pointers.get(deed, (False, 0))
        if not is_there:
            return _NO_MESSAGE
        number = ids.number_of(request.message_id)
        if rules.moves(chat, deed.user_id, number):
            data = read_of(chat.id, request.message_id, deed.user_id, self._now)
            for told in rules.read(self.books, chat, deed.user_id, number, behind):
                data.unread_count = UNSET if told.unread is None else told.unread
                self.events.append(event_of(told.user_id, told.seq, fresh_id(), READ, data, self._now))
        reader = chat.participants[deed.user_id]
        return b'{"ok":true,"data":%b}' % encode(ReadAck(reader.read_number, chat.unread(deed.user_id)))

    # -- write -----------------------------------------------------------------------------------

    async def write(self, conn: Connection) -> None:
        """Store all that the deeds came to in one statement."""
        books = self.books
        if not books.moved:
            return
        seqs = {user_id: seq for user_id, seq in books.seqs.items() if seq != self._before[user_id]}
        await write_together(
            conn,
            [
                *self._keys.writes(),
                *messages.insert_messages(self._messages),
                *conversations.advance([self._advance(chat_id) for chat_id in self._last]),
                *conversations.move([self._pointer(*place) for place in sorted(books.moved)]),
                *gathered.insert_gathered(books.gathered),
                *inbox.append(self.events, seqs),
            ],
        )

    def _advance(self, chat_id: str) -> Advance:
        chat, (message, text) = self.books.chats[chat_id], self._last[chat_id]
        at_us = micros(message.created_at)
        return Advance(chat_id, chat.last_number, chat.previewed_number, message.id, text, at_us)

    def _pointer(self, chat_id: str, user_id: int) -> Pointer:
        reader = self.books.chats[chat_id].participants[user_id]
        return Pointer(chat_id, user_id, reader.read_number, reader.own_after)


def _stored(conversation_id: str, message: ListedMessage) -> StoredMessage:
    return StoredMessage(
        conversation_id, message.number, message.id, message.sender_id, message.message_type, message.content,
        message.media_url, micros(message.created_at),
    )  # fmt: skip
