"""Presence in Redis: who is connected where, for a cluster whose nodes tell each other only what concerns them.

Who lives is a lease in PostgreSQL (see `Members`), and generations come from its sequence, so they only grow, also when
Redis is emptied. What stands in Redis (see `Book`) is believed of a node only while its mark there is of the run that
Redis is in: one that was emptied has no marks, and one that was restarted or promoted may have lost the last entries,
so it is another run. A node that finds its mark gone enters all its connections again, and sets the mark then; until
then it counts as holding everybody. A node that can't reach Redis says so in its row in PostgreSQL.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from itertools import islice
from typing import Final

import asyncpg

from fanout import postgres
from fanout.counts import PresenceCounts
from fanout.members import LEASE_S, RENEW_EVERY_S, Members
from fanout.presence import Held, Peer, Where, is_in_the_way
from fanout.presence_book import Book, Marks, chunks
from fanout.redis import AWAY, FORGETFUL
from fanout.tasks import Backoff, Spawn, end, set_or_late

GENERATIONS = "SELECT nextval('connection_generation') AS generation FROM generate_series(1, $1::integer)"

LOOK_S: Final = 0.25  # what a batch of events waits for an answer at most
LOOKS_APART_S: Final = 0.5  # between two looks at who lives
STOP_S: Final = 1.0
SHARE: Final = 5  # that part of the connections is looked at each time, so all within 30 s
LEAST_SHARE: Final = 1_000
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 2.0

log = logging.getLogger(__name__)


class Disturbed(Exception):
    """Redis was emptied or restarted, or something failed, while all connections were entered: once more."""


class RedisPresence:
    """See `Presence` and `Locator`. Keeps this node's connections in memory too, as what Redis must say of it."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        url: str,
        prefix: str,
        node: str,
        partitions: int,
        spawn: Spawn,
        family: str = "",
        lease_s: float = LEASE_S,
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        """`node` is unique to this run of this process, and `prefix` to this cluster; `family` is how the names of its
        parent's workers begin; `partitions` are there for single nodes."""
        self._pool = pool
        self._node = node
        self._spawn = spawn
        self._lease_s = lease_s
        self._renew_every_s = renew_every_s
        self._members = Members(pool=pool, node=node, family=family, lease_s=lease_s, partitions=partitions)
        self._incarnations: set[str] = set()
        self._book = Book(url, prefix)
        self._own: dict[int, tuple[int, str]] = {}  # generation -> (user, device)
        self._in_doubt = True  # Redis may say something else than `_own`
        self._doubts = 0  # times that it came to be so
        self._away = False  # Redis, as far as known: it is not asked by those who would have to wait for it
        self._looked_at = self._compared = 0
        # Held around every change of `_own` and its entries, so that like is compared with like.
        self._lock = asyncio.Lock()
        self._look = asyncio.Event()  # at who lives, now
        self._heal = asyncio.Event()  # what Redis says of this node, now
        self._tasks: list[asyncio.Task[None]] = []
        self.counts = PresenceCounts()

    @property
    def away(self) -> bool:
        """Whether Redis does not answer."""
        return self._away

    async def start(self) -> None:
        await self._renew()
        try:
            await self._look_after()
            await self._renew()  # its row says now that it is not in doubt
        except AWAY as error:
            self._lose(error)
        except Disturbed:
            pass  # and again in a moment
        if FORGETFUL in self._book.policy:
            log.warning("presence: Redis drops keys when it is full (maxmemory-policy); it should be noeviction")
        self._tasks = [self._spawn(self._keep_renewing()), self._spawn(self._keep_healing())]

    async def look(self) -> None:
        await self._renew()

    async def stop(self) -> None:
        await end(self._tasks)
        self._tasks = []
        async with self._lock:
            self._own.clear()
            try:
                async with asyncio.timeout(STOP_S):
                    await self._book.take_out(self._members.incarnation)
            except AWAY as error:
                log.warning("presence in Redis ends by the lease: %s", type(error).__name__)
            try:
                await self._members.leave(postgres.COMMAND_TIMEOUT_S)
            except postgres.AWAY as error:
                log.warning("presence ends by its lease: %s", type(error).__name__)
        await self._book.close()

    async def enter(self, connections: list[tuple[int, str]]) -> list[int]:
        async with self._lock:
            rows = await self._pool.fetch(GENERATIONS, len(connections), timeout=postgres.COMMAND_TIMEOUT_S)
            generations = [row["generation"] for row in rows]
            entries = [(user, own, device) for (user, device), own in zip(connections, generations, strict=True)]
            await self._attempt(lambda: self._book.write(self._members.incarnation, entries))
            self._own.update(zip(generations, connections, strict=True))
        return generations

    async def leave(self, connections: list[tuple[int, int]]) -> None:
        async with self._lock:
            gone = [(user, own) for user, own in connections if self._own.get(own, (None,))[0] == user]
            for _, generation in gone:
                self._own.pop(generation, None)
            await self._attempt(lambda: self._book.erase(self._members.incarnation, gone))

    def other_nodes(self) -> bool:
        return bool(self._members.others)

    def strangers(self) -> bool:
        return bool(self._members.strangers)

    async def newer(self, connections: list[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
        """Of many connections a part each time, so that all have had their turn within 30 s. None while Redis is away:
        what it will say then comes when it is back."""
        named = [each for each in connections if each[1]]
        share = max(LEAST_SHARE, len(named) // SHARE)
        at = self._compared if self._compared < len(named) else 0
        self._compared = at + share
        found: dict[tuple[int, str], int] = {}
        if not self._away:
            try:
                for user_id, device_id, newest in await self._book.newer(named[at : at + share]):
                    found[user_id, device_id] = newest
            except AWAY as error:
                self._lose(error)
        return [(user_id, device_id, newest) for (user_id, device_id), newest in found.items()]

    async def elsewhere(self, connections: list[tuple[int, str, int]]) -> list[int]:
        if self._away:
            return [0] * len(connections)
        living, counts = self._living() - {self._members.incarnation}, []
        try:
            for chunk in chunks(connections):
                _, found = await self._book.connections_of([user_id for user_id, _, _ in chunk])
                for each, entries in zip(chunk, found, strict=True):
                    counts.append(sum(old.incarnation in living and is_in_the_way(old[:2], each) for old in entries))
        except AWAY as error:
            self._lose(error)
            return [0] * len(connections)
        return counts

    async def connections_of(self, user_id: int) -> list[Held]:
        """Raises ConnectionError while it is not known."""
        if self._away:
            raise ConnectionError("Redis is away, and nothing else knows who is connected")
        try:
            marks, [found] = await self._book.connections_of([user_id])
        except AWAY as error:
            self._lose(error)
            raise ConnectionError("Redis does not answer") from error
        if {entry.incarnation for entry in found} - self._living() or self._unmarked(marks):
            await self._renew()  # somebody has just come, or gone
        if self._in_doubt or self._unmarked(marks):
            raise ConnectionError("connections are just being entered in Redis again")
        names = {member.incarnation: member.node for member in self._members.others}
        names[self._members.incarnation] = self._node
        return [Held(entry.device_id, names[entry.incarnation]) for entry in found if entry.incarnation in names]

    # Where users are

    @property
    def partition(self) -> int | None:
        return self._members.partition

    def is_own(self, incarnation: str) -> bool:
        return incarnation in self._incarnations

    def look_soon(self) -> None:
        self._look.set()

    async def nodes_of(self, user_ids: Collection[int]) -> Where | None:
        self.counts.asked += 1
        found = None
        if self._members.is_current and not self._away:
            try:
                async with asyncio.timeout(LOOK_S):
                    found = self._where(*await self._book.look(user_ids))
            except AWAY as error:
                self._lose(error)
        self.counts.unknown += found is None
        return found

    def _where(self, marks: Marks, nodes: dict[int, set[str]]) -> Where | None:
        if marks.get(self._members.incarnation) != self._book.run:
            self._heal.set()
        peers: dict[str, Peer] = {}
        unsure = []
        for member in self._members.strangers:
            if member.incarnation is not None and member.partition is not None:
                peer = peers[member.incarnation] = Peer(member.incarnation, member.partition)
                if member.in_doubt or marks.get(member.incarnation) != self._book.run:
                    unsure.append(peer)
        self.counts.peers, self.counts.unsure = len(peers), len(unsure)
        is_known = set().union(*nodes.values()) <= self._living()
        if unsure or not is_known:
            self.look_soon()  # somebody has just come, or gone
        if not is_known:
            return None
        return Where(
            holders={user: [peers[node] for node in own if node in peers] for user, own in nodes.items()},
            unsure=unsure,
            peers=len(peers),
        )

    def _unmarked(self, marks: Marks) -> bool:
        return any(marks.get(node) != self._book.run for node in self._living())

    def _living(self) -> set[str]:
        others = {member.incarnation for member in self._members.others if member.incarnation is not None}
        return others | {self._members.incarnation}

    # The lease

    async def _keep_renewing(self) -> None:
        while True:
            await set_or_late(self._look, self._renew_every_s)
            self._look.clear()
            try:
                async with asyncio.timeout(self._lease_s / 2):  # waiting for a connection of the pool included
                    await self._renew()
                    await self._members.sweep()
            except postgres.AWAY as error:
                log.warning("presence can't renew its lease: %s", type(error).__name__)
            await asyncio.sleep(min(LOOKS_APART_S, self._renew_every_s))

    async def _renew(self) -> None:
        if not await self._members.renew(in_doubt=self._in_doubt):
            self._incarnations.add(self._members.incarnation)
            self._doubt()

    # What Redis says of this node

    async def _keep_healing(self) -> None:
        backoff = Backoff(first=RETRY_FIRST_S, most=RETRY_MOST_S)
        while True:
            self._heal.clear()
            try:
                await self._look_after()
            except (*AWAY, Disturbed) as error:
                if not isinstance(error, Disturbed):
                    self._lose(error)
                await asyncio.sleep(backoff.next())
            else:
                backoff.reset()
                await set_or_late(self._heal, self._renew_every_s)

    async def _look_after(self) -> None:
        """Puts right what Redis says of this node, and takes out nodes that died. Raises where it can't."""
        marks, _ = await self._book.look(())
        if self._away:
            log.warning("presence: Redis is back")
            self._away = False
        is_marked = marks.get(self._members.incarnation) == self._book.run
        if self._in_doubt or not is_marked or await self._is_wrong():
            await self._enter_again()
            marks, _ = await self._book.look(())
        await self._sweep()
        self._where(marks, {})
        self.counts.answered_at = time.monotonic()

    async def _enter_again(self) -> None:
        """All connections, while others come and go: whoever does writes, too."""
        self._in_doubt = True
        before = self._doubts, self._book.run, self._members.incarnation
        doubts, run, incarnation = before
        word = await self._book.begin_mark(incarnation)
        for stored in chunks(await self._book.list_entered(incarnation)):
            async with self._lock:
                await self._book.erase(incarnation, [each for each in stored if each[1] not in self._own])
        async with self._lock:  # who is being entered just now is either in Redis or here
            entered = list(self._own)
        for generations in chunks(entered):
            async with self._lock:
                here = [(self._own[own][0], own, self._own[own][1]) for own in generations if own in self._own]
                await self._book.write(incarnation, here)
        is_undisturbed = before == (self._doubts, self._book.run, self._members.incarnation)
        if not is_undisturbed or not await self._book.set_mark(incarnation, word, run):
            raise Disturbed
        self._in_doubt = self._doubts != doubts
        self.counts.entered_again += 1
        self.look_soon()  # says so in the row

    async def _is_wrong(self) -> bool:
        """Counts the entries and looks at a part of them: somebody may have emptied a part of Redis, and a write that
        was given up may have arrived long after."""
        async with self._lock:
            if await self._book.count_entered(self._members.incarnation) != len(self._own):
                return True
        share = max(LEAST_SHARE, len(self._own) // SHARE)
        at = self._looked_at if self._looked_at < len(self._own) else 0
        self._looked_at = at + share
        for generations in chunks(list(islice(self._own, at, at + share))):
            async with self._lock:
                here = [(self._own[own][0], own) for own in generations if own in self._own]
                if await self._book.count_missing(self._members.incarnation, here):
                    return True
        return False

    async def _sweep(self) -> None:
        """Takes out whom the database does not know any more. Asked in this order, who is new is in no danger: its row
        is older than its entries."""
        entered = await self._book.list_nodes()
        if entered <= self._living():
            return
        try:
            dead = entered - await self._members.incarnations()
        except postgres.AWAY:
            return  # next time
        for incarnation in dead:
            if await self._book.claim(incarnation):
                await self._book.take_out(incarnation)

    async def _attempt(self, change: Callable[[], Awaitable[None]]) -> None:
        """A change in Redis. What fails is put right when all is entered again; who comes and goes does not wait."""
        if self._away:
            self._doubt()
            return
        try:
            await change()
        except BaseException as error:  # cancelled, too: perhaps it was carried out
            self._doubt()
            if not isinstance(error, AWAY):
                raise
            self._lose(error)

    def _doubt(self) -> None:
        self._in_doubt = True
        self._doubts += 1
        self._heal.set()
        self.look_soon()  # says so in the row

    def _lose(self, error: Exception) -> None:
        if not self._away:
            log.warning("presence: Redis is away (%s); events go to all nodes", type(error).__name__)
            self._away = True
        self._heal.set()
