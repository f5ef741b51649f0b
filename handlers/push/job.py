"""The job that pushes: who is due, what is new to them, and what became of it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from handlers.push import rules
from handlers.push.provider import Answer, Provider
from handlers.push.rules import Push
from storage import heads, push_devices, push_due, push_news
from storage.push_devices import Device, Undelivered
from storage.push_due import Postponed
from storage.statement import write_together

if TYPE_CHECKING:
    from asyncpg import Connection

LEASE_S: Final = 180.0  # who is being told is left alone for as long; then whoever did it has died
ERRAND_S: Final = 60.0  # then nothing more is begun: the last push may take a minute, too
FIRST_RETRY_S: Final = 5.0
LONGEST_RETRY_S: Final = 600.0
LONGEST_PAUSE_S: Final = 60.0


class Limits(NamedTuple):
    """What is pushed, and how much at once. `recheck_s`: by then a connection that is dead is known to be."""

    types: tuple[str, ...]
    after_s: float
    recheck_s: float
    max_age_s: float
    most_events: int
    in_flight: int
    timeout_s: float


class _Errand(NamedTuple):
    """What one user is to be told, up to where their inbox is `head`."""

    user_id: int
    head: int
    tries: int
    devices: list[tuple[Device, list[Push]]]


@dataclass(slots=True)
class _Outcome:
    """What became of it, to be written down."""

    errand: _Errand
    gone: list[tuple[int, bytes]] = field(default_factory=list)
    undelivered: list[Undelivered] = field(default_factory=list)
    retry_after_s: float = 0.0


class _Look(NamedTuple):
    """What a look at some users came to."""

    pushed: dict[int, int]  # up to where nothing is to be pushed to them any more
    errands: list[_Errand]
    postponed: list[Postponed]
    done: list[int]
    refused: list[tuple[int, bytes]]


class PushJob:
    """Pushes to who is due, on whichever node; any number of nodes at once.

    `devices_of` names the device of each connection of a user, on whichever node; where that is not known nobody is
    pushed until it is. `spawn` owns what is on its way, one task a user, so that a provider that hangs holds up nobody
    else; `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        devices_of: Callable[[int], Awaitable[list[str]]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._provider = provider
        self._devices_of = devices_of
        self._spawn = spawn
        self._limits = limits
        self._clock = clock
        self._sending = 0
        self._outcomes: list[_Outcome] = []
        self._paused_until = 0.0
        self.is_leaving = False  # nobody else is taken any more
        self.results: Counter[str] = Counter()  # for the metrics: pushes by result, and users by what a look came to
        self.looks: Counter[str] = Counter()

    @property
    def in_flight(self) -> int:
        """Users who are being told now, or of whom it is not yet written down."""
        return self._sending + len(self._outcomes)

    async def run(self, conn: Connection) -> None:
        """Write down what has become of pushes, and take who is due. May be cut off anywhere."""
        await self._settle(conn)
        free = self._limits.in_flight - self.in_flight
        if free > 0 and not self.is_leaving and self._clock() >= self._paused_until:
            await self._take(conn, free)

    # -- who is due ------------------------------------------------------------------------------

    async def _take(self, conn: Connection, most: int) -> None:
        due = await push_due.list_due(conn, self._limits.after_s, most)
        if not due:
            return
        connected = {user_id: devices for user_id in due if (devices := await self._devices_of(user_id))}
        async with conn.transaction():
            seqs = await heads.lock(conn, due, skip_locked=True)
            tries = await push_due.list_still_due(conn, seqs, self._limits.after_s)
            look = await self._look(conn, {user_id: seqs[user_id] for user_id in tries}, tries, connected)
            if look.refused:  # by itself: a statement changes a row once
                await write_together(conn, push_devices.delete_tokens(look.refused))
            leases = [Postponed(errand.user_id, LEASE_S, errand.tries) for errand in look.errands]
            await write_together(
                conn,
                [
                    *push_devices.mark_pushed(look.pushed),
                    *push_due.postpone([*leases, *look.postponed]),
                    *push_due.delete(look.done),
                ],
            )
        for errand in look.errands:
            self._sending += 1
            self._spawn(self._tell(errand))

    async def _look(
        self,
        conn: Connection,
        seqs: Mapping[int, int],
        tries: Mapping[int, int],
        connected: Mapping[int, list[str]],
    ) -> _Look:
        """What is to be done about each of these, whose heads are locked at `seqs`."""
        look = _Look({}, [], [], [], [])
        acked = await push_devices.list_acked(conn, seqs)
        for user_id in seqs.keys() & connected.keys():
            self.looks["connected"] += 1
            head = seqs[user_id]
            look.pushed[user_id] = rules.arrived(head, connected[user_id], acked.get(user_id, {}))
            if look.pushed[user_id] >= head:
                look.done.append(user_id)
            else:
                look.postponed.append(Postponed(user_id, self._limits.recheck_s, tries[user_id]))
        away = {user_id: seqs[user_id] for user_id in seqs.keys() - connected.keys()}
        told = await self._news(conn, away, acked, look.refused)
        for user_id, head in away.items():
            look.pushed[user_id] = head
            if devices := told.get(user_id):
                self.looks["pushed"] += 1
                look.errands.append(_Errand(user_id, head, tries[user_id], devices))
            else:
                self.looks["quiet"] += 1
                look.done.append(user_id)
        return look

    async def _news(
        self,
        conn: Connection,
        seqs: Mapping[int, int],
        acked: Mapping[int, Mapping[str, int]],
        refused: list[tuple[int, bytes]],
    ) -> dict[int, list[tuple[Device, list[Push]]]]:
        """user -> device -> what to tell it, of those where there is anything. Adds devices that must not be told."""
        after: dict[int, int] = {}
        devices: list[tuple[Device, int]] = []
        for device in await push_devices.list_devices(conn, seqs):
            if device.is_refused:
                refused.append((device.user_id, device.token_key))
                continue
            own = max(device.pushed_seq, acked.get(device.user_id, {}).get(device.device_id, 0))
            if device.is_suspended or own >= seqs[device.user_id]:
                continue
            devices.append((device, own))
            furthest = max(own, seqs[device.user_id] - push_news.LOOK_BACK)
            after[device.user_id] = min(furthest, after.get(device.user_id, furthest))
        if not devices:
            return {}
        limits = self._limits
        rows = await push_news.list_news(conn, list(after.items()), limits.types, limits.max_age_s, limits.most_events)
        news: dict[int, list[rules.News]] = {}
        for row in rows:
            data = _data_of(row.data)
            news.setdefault(row.user_id, []).append(rules.News(row.seq, row.id, row.type, row.event_type, data))
        standings = await _standings(conn, news)
        told: dict[int, list[tuple[Device, list[Push]]]] = {}
        for device, own in devices:
            mine = rules.pushes(
                news.get(device.user_id, []),
                own,
                device.seen_seq,
                standings.get(device.user_id, {}),
                limits.most_events,
            )
            if mine:
                told.setdefault(device.user_id, []).append((device, mine))
        return told

    # -- telling them ----------------------------------------------------------------------------

    async def _tell(self, errand: _Errand) -> None:
        outcome = _Outcome(errand)
        deadline = self._clock() + ERRAND_S
        try:
            for device, pushes in errand.devices:
                await self._tell_device(outcome, device, pushes, deadline)
        finally:
            self._sending -= 1
            self._outcomes.append(outcome)

    async def _tell_device(self, outcome: _Outcome, device: Device, pushes: Sequence[Push], deadline: float) -> None:
        """In the order of `seq`, so that what is left can be told from what is told by one number."""
        reached = device.pushed_seq
        for push in pushes:
            if self._clock() > deadline:
                answer = Answer("later")
            else:
                answer = await self._send(rules.message_of(push, device.token, device.platform, self._ttl_s))
                self.results[answer.result] += 1
            if answer.result == "gone":
                outcome.gone.append((device.user_id, device.token_key))
                return
            if answer.result == "later":
                if answer.is_away:
                    self._paused_until = self._clock() + min(max(answer.retry_after_s, 1.0), LONGEST_PAUSE_S)
                outcome.retry_after_s = max(outcome.retry_after_s, answer.retry_after_s)
                place = Undelivered(device.user_id, device.device_id, reached, outcome.errand.head)
                outcome.undelivered.append(place)
                return
            reached = push.seq

    async def _send(self, message: dict[str, Any]) -> Answer:
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await self._provider.send(message)
        except TimeoutError:
            return Answer("unknown")

    @property
    def _ttl_s(self) -> int:
        return int(self._limits.max_age_s)

    # -- what became of it -----------------------------------------------------------------------

    async def _settle(self, conn: Connection) -> None:
        """Write it down; of those whose head somebody else holds the next time."""
        outcomes = list(self._outcomes)
        if not outcomes:
            return
        async with conn.transaction():
            seqs = await heads.lock(conn, {each.errand.user_id for each in outcomes}, skip_locked=True)
            written = [each for each in outcomes if each.errand.user_id in seqs]
            postponed = {each.errand.user_id: again for each in written if (again := _again(each, seqs))}
            await write_together(
                conn,
                [
                    *push_devices.restore([place for each in written for place in each.undelivered]),
                    *push_devices.delete_tokens({token for each in written for token in each.gone}),
                    *push_due.postpone(list(postponed.values())),
                    *push_due.delete({each.errand.user_id for each in written} - postponed.keys()),
                ],
            )
        self._outcomes = [each for each in self._outcomes if each not in written]


def _again(outcome: _Outcome, seqs: Mapping[int, int]) -> Postponed | None:
    """When to look at the user again; None: when there is something new."""
    errand = outcome.errand
    if outcome.undelivered:
        pause_s = min(FIRST_RETRY_S * 2 ** min(errand.tries, 10), LONGEST_RETRY_S) * random.uniform(0.5, 1.0)
        return Postponed(errand.user_id, max(pause_s, outcome.retry_after_s), errand.tries + 1)
    return Postponed(errand.user_id, 0.0, 0) if seqs[errand.user_id] > errand.head else None


def _data_of(text: str | None) -> Mapping[str, Any]:
    data = msgspec.json.decode(text) if text is not None else None
    return data if isinstance(data, dict) else {}


async def _standings(
    conn: Connection, news: Mapping[int, Collection[rules.News]]
) -> dict[int, dict[str, rules.Standing]]:
    """user -> conversation -> where they stand, of all conversations that there is a message of."""
    places = {
        (user_id, str(event.data["conversationId"]))
        for user_id, events in news.items()
        for event in events
        if event.type == rules.MESSAGE
    }
    standings: dict[int, dict[str, rules.Standing]] = {}
    if places:
        for (user_id, name), found in (await push_news.list_standings(conn, places)).items():
            standings.setdefault(user_id, {})[name] = rules.Standing(*found)
    return standings
