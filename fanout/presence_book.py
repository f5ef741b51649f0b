"""The book of presence in Redis: which entries stand there, and how they are written and read. See `RedisPresence`.

    {prefix}:u:{user}          hash    {incarnation}:{generation} -> device
    {prefix}:n:{incarnation}   set     {user}:{generation}: all that the node has entered, for whoever takes it out
    {prefix}:nodes             set     incarnations that have entered anything
    {prefix}:complete          hash    incarnation -> the run of Redis in which all of its connections are there

Scripts, each one step for all who look: one call with hundreds of keys costs a node a sixth of what as many commands in
a pipeline do.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from fanout.redis import RedisLink

CHUNK: Final = 500  # connections or users in one step: about a millisecond of Redis
CLAIM_S: Final = 10

# KEYS: nodes, node, users...  ARGV: incarnation, (user, generation, device)...
ENTER: Final = """
redis.call('SADD', KEYS[1], ARGV[1])
for i = 3, #KEYS do
    local at = 3 * i - 7
    redis.call('HSET', KEYS[i], ARGV[1] .. ':' .. ARGV[at + 1], ARGV[at + 2])
    redis.call('SADD', KEYS[2], ARGV[at] .. ':' .. ARGV[at + 1])
end"""

# KEYS: node, users...  ARGV: incarnation, (user, generation)...
ERASE: Final = """
for i = 2, #KEYS do
    local at = 2 * i - 2
    redis.call('HDEL', KEYS[i], ARGV[1] .. ':' .. ARGV[at + 1])
    redis.call('SREM', KEYS[1], ARGV[at] .. ':' .. ARGV[at + 1])
end"""

# KEYS: complete  ARGV: incarnation, what stands there, mark  Returns whether it was so.
MARK: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
    return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1"""

# KEYS: complete, users...  Returns the marks, then each user's fields.
LOOK: Final = """
local found = {redis.call('HGETALL', KEYS[1])}
for i = 2, #KEYS do
    found[i] = redis.call('HKEYS', KEYS[i])
end
return found"""

# KEYS: complete, users...  Returns the marks, then each user's fields and devices.
LOOK_CLOSELY: Final = LOOK.replace("HKEYS", "HGETALL")

# KEYS: users...  ARGV: incarnation, generations...  Returns how many entries are not there.
MISSING: Final = """
local missing = 0
for i = 1, #KEYS do
    missing = missing + 1 - redis.call('HEXISTS', KEYS[i], ARGV[1] .. ':' .. ARGV[i + 1])
end
return missing"""

# KEYS: users...  ARGV: (device, generation)...  Returns (index, newest generation) of those with a newer one.
NEWER: Final = """
local found = {}
for i = 1, #KEYS do
    local newest = 0
    local entries = redis.call('HGETALL', KEYS[i])
    for j = 1, #entries, 2 do
        if entries[j + 1] == ARGV[2 * i - 1] then
            newest = math.max(newest, tonumber(string.match(entries[j], '%d+$')))
        end
    end
    if newest > tonumber(ARGV[2 * i]) then
        found[#found + 1] = i
        found[#found + 1] = newest
    end
end
return found"""

Marks = dict[str, str]
"""incarnation -> run"""


class Entry(NamedTuple):
    """One connection as it stands there."""

    generation: int
    device_id: str
    incarnation: str


class Book:
    """All calls raise what a lost Redis raises (`fanout.redis.AWAY`); what they did until then is unknown."""

    def __init__(self, url: str, prefix: str) -> None:
        self._link = RedisLink(url)
        self._do, self._run = self._link.do, self._link.run_script
        self._prefix = prefix
        self._complete = f"{prefix}:complete"
        self._nodes = f"{prefix}:nodes"
        script = self._link.script
        self._enter, self._erase, self._mark, self._look = script(ENTER), script(ERASE), script(MARK), script(LOOK)
        self._look_closely, self._missing, self._newer = script(LOOK_CLOSELY), script(MISSING), script(NEWER)

    @property
    def run(self) -> str:
        """Which run of Redis it is, as of the newest connection."""
        return self._link.run

    @property
    def policy(self) -> str:
        """What Redis does when it is full."""
        return self._link.policy

    async def begin_mark(self, incarnation: str) -> str:
        """In its place a word that no other has: `set_mark` finds it unless Redis was emptied since."""
        word = f"entering {secrets.token_hex(8)}"
        await self._do("HSET", self._complete, incarnation, word)
        return word

    async def set_mark(self, incarnation: str, word: str, run: str) -> bool:
        """Whether all that was entered since `begin_mark` is there."""
        return bool(await self._run(self._mark, [self._complete], [incarnation, word, run]))

    async def write(self, incarnation: str, entries: Sequence[tuple[int, int, str]]) -> None:
        """(user, generation, device)"""
        for chunk in chunks(entries):
            keys = [self._nodes, self._node(incarnation), *(self._user(user) for user, _, _ in chunk)]
            await self._run(self._enter, keys, [incarnation, *(each for entry in chunk for each in entry)])

    async def erase(self, incarnation: str, entries: Sequence[tuple[int, int]]) -> None:
        """(user, generation). Those of other nodes, and unknown ones, stay as they are."""
        for chunk in chunks(entries):
            keys = [self._node(incarnation), *(self._user(user) for user, _ in chunk)]
            await self._run(self._erase, keys, [incarnation, *(each for entry in chunk for each in entry)])

    async def list_entered(self, incarnation: str) -> list[tuple[int, int]]:
        """(user, generation) of all that a node has entered."""
        return [_pair(member) for member in await self._do("SMEMBERS", self._node(incarnation))]

    async def count_entered(self, incarnation: str) -> int:
        """Connections that a node has entered."""
        count: int = await self._do("SCARD", self._node(incarnation))
        return count

    async def count_missing(self, incarnation: str, entries: Sequence[tuple[int, int]]) -> int:
        """Of (user, generation), at most `CHUNK`."""
        keys = [self._user(user) for user, _ in entries]
        missing: int = await self._run(self._missing, keys, [incarnation, *(own for _, own in entries)])
        return missing

    async def look(self, user_ids: Collection[int]) -> tuple[Marks, dict[int, set[str]]]:
        """(marks that held throughout, user -> incarnations with a connection of theirs)"""
        held: set[tuple[str, str]] | None = None
        found: dict[int, set[str]] = {}
        for chunk in chunks(user_ids) if user_ids else [()]:
            flat, *fields = await self._run(self._look, [self._complete, *map(self._user, chunk)])
            marks = set(_pairs(flat))
            held = marks if held is None else held & marks
            for user_id, own in zip(chunk, fields, strict=True):
                if own:
                    found[user_id] = {field.partition(":")[0] for field in own}
        return dict(held or ()), found

    async def connections_of(self, user_ids: Sequence[int]) -> tuple[Marks, list[list[Entry]]]:
        """(marks, of each user the connections, oldest first), of at most `CHUNK` users"""
        keys = [self._complete, *map(self._user, user_ids)]
        marks, *found = await self._run(self._look_closely, keys)
        return dict(_pairs(marks)), [sorted(map(_entry, _pairs(entries))) for entries in found]

    async def newer(self, connections: Sequence[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
        """(user, device, generation) -> (user, device, newest generation) of those with a newer one."""
        found = []
        for chunk in chunks(connections):
            keys = [self._user(user) for user, _, _ in chunk]
            flat = await self._run(self._newer, keys, [each for _, *rest in chunk for each in rest])
            found += [(*chunk[index - 1][:2], newest) for index, newest in _pairs(flat)]
        return found

    async def list_nodes(self) -> set[str]:
        """Incarnations that have entered anything and were not taken out."""
        return set(await self._do("SMEMBERS", self._nodes))

    async def claim(self, incarnation: str) -> bool:
        """Whether to take that one out is up to the caller, for some seconds."""
        return bool(await self._do("SET", self._claim(incarnation), "", "NX", "EX", CLAIM_S))

    async def take_out(self, incarnation: str) -> None:
        """All of a node: first its entries, last what leads to them."""
        while members := await self._do("SRANDMEMBER", self._node(incarnation), CHUNK):
            await self.erase(incarnation, [_pair(member) for member in members])
        await self._do("HDEL", self._complete, incarnation)
        await self._do("SREM", self._nodes, incarnation)
        await self._do("DEL", self._claim(incarnation))

    async def close(self) -> None:
        await self._link.close()

    def _claim(self, incarnation: str) -> str:
        return f"{self._prefix}:claim:{incarnation}"

    def _user(self, user_id: int) -> str:
        return f"{self._prefix}:u:{user_id}"

    def _node(self, incarnation: str) -> str:
        return f"{self._prefix}:n:{incarnation}"


T = TypeVar("T")


def chunks(entries: Collection[T]) -> Iterator[Sequence[T]]:
    """At most `CHUNK` in each, in their order."""
    whole = tuple(entries)
    for at in range(0, len(whole), CHUNK):
        yield whole[at : at + CHUNK]


def _pair(member: str) -> tuple[int, int]:
    user, _, generation = member.partition(":")
    return int(user), int(generation)


def _entry(written: tuple[str, str]) -> Entry:
    field, device_id = written
    incarnation, _, generation = field.partition(":")
    return Entry(int(generation), device_id, incarnation)


def _pairs(flat: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)
