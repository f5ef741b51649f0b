"""The broker over PostgreSQL's LISTEN and NOTIFY: several nodes with nothing but the database.

A transaction with NOTIFY holds one lock of the whole instance until its commit ends, so none of the product's does:
notices are gathered for a few milliseconds and sent after the commit, on a connection of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import asyncpg

from fanout.broker import Announced, Listeners
from fanout.notices import PAYLOAD_MAX, Compare, Gathered, Large, Notice, Wording, tell
from fanout.postgres import AWAY, connect
from fanout.tasks import Backoff, Spawn

CHANNEL = "applause_fanout"
GATHER_S = 0.005
PING_EVERY_S = 5.0  # how long a listening connection may be silently dead, plus a command's time-out
LARGE_KEEP_S = 60.0
FLUSH_S = 1.0  # what `stop` spends on the last notices
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 5.0

NOTIFY = "SELECT pg_notify($1, notice) FROM unnest($2::text[]) AS notice"
INSERT_LARGE = "INSERT INTO large_notices (body) VALUES ($1) RETURNING id"
LIST_LARGE = "SELECT body FROM large_notices WHERE id = ANY($1::bigint[]) ORDER BY id"
TRIM_LARGE = "DELETE FROM large_notices WHERE created_at < clock_timestamp() - make_interval(secs => $1)"

log = logging.getLogger(__name__)


class PostgresBroker:
    """See `Broker`. One connection listens, another talks; each is made anew when it breaks, with back-off. After the
    listening one was, others' hints are missing: `on_compare`. After the talking one was, others are told to."""

    def __init__(
        self, *, dsn: str, node: str, listeners: Listeners, spawn: Spawn, large_keep_s: float = LARGE_KEEP_S
    ) -> None:
        """`node` is unique to this run of this process, and one word."""
        self._dsn = dsn
        self._listeners = listeners
        self._spawn = spawn
        self._large_keep_s = large_keep_s
        self._wording = Wording(node)
        self._gathered = Gathered()
        self._to_say = asyncio.Event()
        self._heard: asyncio.Event = asyncio.Event()  # a large notice is to be fetched, or the connection ended
        self._large: list[int] = []
        self._trim_owed = True
        self._trim_timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        first = await self._open_listening()
        await self._say(first, [Compare()])  # so that the others know of this node before presence tells them
        self._to_say.set()  # trims what an earlier run has left
        self._tasks = [self._spawn(self._keep_listening(first)), self._spawn(self._keep_talking())]

    async def stop(self) -> None:
        if not self._tasks:
            return
        listening, talking = self._tasks
        listening.cancel()
        self._stopping = True
        self._to_say.set()
        await asyncio.wait([talking], timeout=FLUSH_S)
        talking.cancel()
        await asyncio.wait(self._tasks)
        if self._trim_timer is not None:
            self._trim_timer.cancel()
        self._tasks = []

    def announce_events(self, events: Sequence[Announced]) -> None:
        self._gathered.add_heads([(event.user_id, event.seq) for event in events])
        self._to_say.set()

    def publish_topic(self, topic: str, envelope: bytes) -> None:
        self._gathered.add_topic(topic, envelope)
        self._to_say.set()

    def publish_users(self, user_ids: Sequence[int], envelope: bytes, topic: str | None = None) -> None:
        self._gathered.add_users(user_ids, envelope, topic)
        self._to_say.set()

    def announce_replaced(self, user_id: int, device_id: str, generation: int) -> None:
        self._gathered.add_replaced(user_id, device_id, generation)
        self._to_say.set()

    # Talking

    async def _keep_talking(self) -> None:
        backoff = Backoff(first=RETRY_FIRST_S, most=RETRY_MOST_S)
        while not self._stopping:
            connection = None
            try:
                connection = await connect(self._dsn, "applause talk")
                backoff.reset()
                await self._talk(connection)
            except AWAY as error:
                log.warning("broker can't talk: %s", type(error).__name__)
                await asyncio.sleep(backoff.next())
            finally:
                _end(connection)

    async def _talk(self, connection: asyncpg.Connection) -> None:
        while True:
            await self._to_say.wait()
            if not self._stopping:
                await asyncio.sleep(GATHER_S)
            self._to_say.clear()
            gathered, self._gathered = self._gathered, Gathered()
            try:
                await self._say(connection, gathered.notices())
            except AWAY:
                self._gathered.add_compare()  # for the heads that are lost with it
                self._to_say.set()
                raise
            if self._trim_owed:
                await connection.execute(TRIM_LARGE, self._large_keep_s)
                self._trim_owed = False
            if self._stopping and not self._gathered:  # it may have been told more while it spoke
                return

    async def _say(self, connection: asyncpg.Connection, notices: list[Notice]) -> None:
        texts = [await self._fit(connection, self._wording.write(notice)) for notice in notices]
        if texts:
            await connection.execute(NOTIFY, CHANNEL, texts)

    async def _fit(self, connection: asyncpg.Connection, text: str) -> str:
        """The text itself, or, where NOTIFY can't carry it, where the others find it."""
        if len(text.encode()) <= PAYLOAD_MAX:
            return text
        notice = Large(await connection.fetchval(INSERT_LARGE, text))
        if self._trim_timer is None:
            self._trim_timer = asyncio.get_running_loop().call_later(self._large_keep_s + 1, self._owe_trim)
        return self._wording.write(notice)

    def _owe_trim(self) -> None:
        self._trim_timer, self._trim_owed = None, True
        self._to_say.set()

    # Listening

    async def _keep_listening(self, connection: asyncpg.Connection | None) -> None:
        backoff = Backoff(first=RETRY_FIRST_S, most=RETRY_MOST_S)
        while True:
            try:
                if connection is None:
                    connection = await self._open_listening()
                    self._listeners.on_compare()  # only now: whatever is said from here on is heard
                backoff.reset()
                await self._listen(connection)
            except AWAY as error:
                log.warning("broker can't listen: %s", type(error).__name__)
            finally:
                _end(connection)
            connection = None
            await asyncio.sleep(backoff.next())

    async def _open_listening(self) -> asyncpg.Connection:
        connection = await connect(self._dsn, "applause listen")
        connection.add_termination_listener(lambda _: self._heard.set())
        try:
            await connection.add_listener(CHANNEL, self._hear)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _listen(self, connection: asyncpg.Connection) -> None:
        """Runs until the connection is found dead, which raises. Notices come in through `_hear` meanwhile."""
        while True:
            try:
                async with asyncio.timeout(PING_EVERY_S):
                    await self._heard.wait()
            except TimeoutError:
                await connection.execute("SELECT 1")
            self._heard.clear()
            if connection.is_closed():
                raise ConnectionError("the listening connection has ended")
            wanted, self._large = self._large, []
            if wanted:
                for row in await connection.fetch(LIST_LARGE, wanted):
                    self._understand(row["body"])

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._understand(str(payload))

    def _understand(self, text: str) -> None:
        try:
            notice = self._wording.read(text)
        except ValueError:  # of a newer version, or of somebody else on the channel
            log.debug("broker heard a notice that it doesn't know")
            return
        if isinstance(notice, Large):
            self._large.append(notice.id)
            self._heard.set()
        elif notice is not None:
            tell(notice, self._listeners)


def _end(connection: asyncpg.Connection | None) -> None:
    """At once: nobody needs a farewell, and a polite close can hang on a dead peer."""
    if connection is not None and not connection.is_closed():
        connection.terminate()
