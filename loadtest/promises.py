"""Promises 1 to 4 of spec 8, asked of the server over its API once the load is over."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from loadtest.backend import Asked, Backend, RequestFailed
from loadtest.crew import Checked, Target
from loadtest.witness import Answer, Witness, cents

STORED: Final = "acknowledged actions, sent again over HTTP, answered as replayed with the same award"
BALANCES: Final = "balances equal to the last one told, and the points told equal to those in acks"
HEADS: Final = "phones that were told everything up to the head of their inbox"
TOTALS: Final = "videos' totals equal to the acknowledged actions"

KEPT: Final = 200  # actions that a part sends again in the end
AT_ONCE: Final = 8
AGAIN_S: Final = 0.25

TITLES: Final = {
    1: "What was acknowledged is stored",
    2: "An award is paid exactly once",
    3: "Balances equal the sum of their entries",
    4: "Events arrive in order, without a gap, once",
}


class Kept(msgspec.Struct):
    """An action that was acknowledged: whose, its payload, and what it paid (cents; None: nothing)."""

    user: int
    event: str
    payload: bytes
    paid: int | None


class Reservoir:
    """A few of many, each as likely as any other, without keeping the many."""

    def __init__(self, size: int = KEPT) -> None:
        self.all: list[Kept] = []
        self._size = size
        self._seen = 0

    def place(self) -> int | None:
        """Where to put the next one; None: it is not kept."""
        self._seen += 1
        if len(self.all) < self._size:
            return len(self.all)
        place = int(random.random() * self._seen)
        return place if place < self._size else None

    def put(self, place: int, kept: Kept) -> None:
        """Keep one, in place of another where there is one."""
        self.all[place : place + 1] = [kept]


class _Balance(msgspec.Struct):
    currency: str
    balance: float


class _Wallet(msgspec.Struct):
    balances: list[_Balance]

    @property
    def lyk(self) -> int:
        return next((cents(each.balance) for each in self.balances if each.currency == "LYK"), 0)


class _Inbox(msgspec.Struct):
    seq: int


class Totals(msgspec.Struct, rename="camel"):
    """A video's totals."""

    total_likes: int
    total_views: int
    total_shares: int
    total_comments: int

    @property
    def all(self) -> int:
        """Of every kind."""
        return self.total_likes + self.total_views + self.total_shares + self.total_comments


async def check_replays(target: Target, kept: Iterable[Kept]) -> list[Checked]:
    """Whether a retry of each is answered as the first try was, and pays nothing: promises 1 and 2."""
    checked = Checked(1, STORED)
    again = Checked(2, "the same retries, which pay nothing anew")
    waiting = iter(kept)

    async def some() -> None:
        for each in waiting:
            answer = await _repeat(target, each)
            checked.count += 1
            again.count += 1
            if isinstance(answer, str) or not answer.ok or not answer.replayed:
                checked.fault(f"user {each.user}, {each.event} {each.payload.decode()}: {answer}")
                continue
            paid = cents(answer.data.award.points) if answer.data and answer.data.award else None
            if paid != each.paid:
                again.fault(f"user {each.user}, {each.payload.decode()}: paid {each.paid}, then {paid} (cents)")

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return [checked, again]


async def check_witnesses(target: Target, witnesses: dict[int, Witness], patience_s: float) -> list[Checked]:
    """Whether each user's phone was told everything, and the balance that the server has: promises 3 and 4. What is
    still on its way is waited for."""
    heads, balances = Checked(4, HEADS), Checked(3, BALANCES)
    waiting = iter(witnesses.items())
    deadline = time.monotonic() + patience_s

    async def some() -> None:
        async with Backend(target.address.host, target.address.port, target.token("loadtest", "service")) as backend:
            for user, witness in waiting:
                await _check_witness(backend, user, witness, heads, balances, deadline)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return [heads, balances]


async def _check_witness(
    backend: Backend, user: int, witness: Witness, heads: Checked, balances: Checked, deadline: float
) -> None:
    heads.count += 1
    balances.count += 1
    while True:
        try:
            inbox = msgspec.json.decode(await backend.ask(Asked("GET", f"/v1/users/{user}/inbox", {})), type=_Inbox)
            wallet = msgspec.json.decode(await backend.ask(Asked("GET", f"/v1/users/{user}/wallet", {})), type=_Wallet)
        except (RequestFailed, msgspec.MsgspecError) as error:
            heads.fault(f"user {user}: {error}")
            return
        is_told = witness.seq == inbox.seq
        is_paid = witness.balance in (None, wallet.lyk) and witness.is_paid
        if (is_told and is_paid) or time.monotonic() > deadline:
            break
        await asyncio.sleep(AGAIN_S)
    if not is_told:
        heads.fault(f"user {user}: told up to {witness.seq}, the inbox ends at {inbox.seq}")
    if not is_paid:
        told = f"told {witness.balance}, {witness.earned} of it new; {witness.acked} in acks"
        balances.fault(f"user {user}: {told}; has {wallet.lyk} (cents)")


async def sum_of_totals(target: Target, videos: Iterable[str]) -> int:
    """All likes, views, shares and comments of these videos together, as a backend reads them."""
    waiting, total = iter(videos), 0

    async def some() -> int:
        own = 0
        async with Backend(target.address.host, target.address.port, target.token("loadtest", "service")) as backend:
            for video in waiting:
                answer = await backend.ask(Asked("GET", f"/v1/videos/{video}", {}))
                own += msgspec.json.decode(answer, type=Totals).all
        return own

    for own in await asyncio.gather(*(some() for _ in range(AT_ONCE))):
        total += own
    return total


async def check_totals(target: Target, videos: list[str], expected: int, patience_s: float) -> Checked:
    """Whether the videos' totals come to what was acknowledged, once what was gathered is settled: promise 1."""
    checked = Checked(1, TOTALS, count=expected)
    deadline, found = time.monotonic() + patience_s, -1
    try:
        while (found := await sum_of_totals(target, videos)) != expected and time.monotonic() < deadline:
            await asyncio.sleep(AGAIN_S)
    except (RequestFailed, msgspec.MsgspecError) as error:
        checked.fault(str(error))
    if found != expected:
        checked.fault(f"{expected:,} were acknowledged, the totals say {found:,}")
    return checked


async def _repeat(target: Target, kept: Kept) -> Answer | str:
    """The same action through another door."""
    asked = Asked("POST", f"/v1/actions/{kept.event}", msgspec.json.decode(kept.payload))
    async with Backend(target.address.host, target.address.port, target.token(str(kept.user))) as backend:
        try:
            return msgspec.json.decode(await backend.ask(asked), type=Answer)
        except (RequestFailed, msgspec.MsgspecError) as error:
            return str(error)
