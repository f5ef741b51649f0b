"""Wallets, items and deeds for tests of spending on a real database."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any, Final

import msgspec

from handlers.deed import Deed, Delivered, fingerprint
from handlers.errors import Refusal
from handlers.wallet.spending import SpendingHandler
from handlers.wallet.wire import BoostRequest, CorrectionRequest, DeductionRequest, GiftRequest, PurchaseRequest
from storage import items, requests, users
from storage.items import StoredItem
from storage.users import UserChange
from tests.support.deeds import run_batch
from tests.support.videos import upsert_video

if TYPE_CHECKING:
    from asyncpg import Connection

REQUESTS: Final[dict[str, type[msgspec.Struct]]] = {
    "wallet:gift": GiftRequest,
    "wallet:purchase": PurchaseRequest,
    "wallet:boost": BoostRequest,
    "wallet:deduct": DeductionRequest,
    "wallet:correct": CorrectionRequest,
}
ANN: Final = 1
BEN: Final = 2
CLEO: Final = 3
SUSPENDED: Final = 9
BACKEND: Final = "shop"
MAX_AMOUNT: Final = 1_000_000
_ids = itertools.count(1)


async def seed_wallets(conn: Connection, **lyk: int) -> None:
    """Ann, Ben, Cleo and somebody suspended, a video `a` of Ben's, a rose for 2.50 LYK; `ann=5` gives Ann 5 LYK."""
    await requests.maintain_partitions(conn)
    people = [UserChange(id=user, username=f"user_{user}") for user in (ANN, BEN, CLEO)]
    people.append(UserChange(id=SUSPENDED, username="suspended", status="suspended"))
    async with conn.transaction():
        await users.upsert_users(conn, people)
        await upsert_video(conn, "a", BEN, "A")
        await items.upsert_item(conn, StoredItem("rose", "A rose", 250, "LYK"))
    given = [corrected({"ann": ANN, "ben": BEN, "cleo": CLEO}[name], amount) for name, amount in lyk.items()]
    await Spends(conn).data(*given)


class Asked:
    """One deed with the answers that it got."""

    def __init__(self, user_id: int, event: str, payload: bytes, subject: str | None) -> None:
        self.answers: list[Any] = []
        self.done = asyncio.Event()
        self.deed = Deed(
            user_id=user_id,
            event=event,
            request=msgspec.json.decode(payload, type=REQUESTS[event]),
            fingerprint=fingerprint(event, payload),
            received_at=asyncio.get_running_loop().time(),
            order_key=None if subject else user_id,
            answer=self._take,
            subject=subject,
        )

    def _take(self, body: bytes) -> None:
        self.answers.append(json.loads(body))
        self.done.set()

    @property
    def answer(self) -> Any:
        """The one answer that there must be."""
        assert len(self.answers) == 1, self.answers
        return self.answers[0]


def asked(user_id: int, event: str, *, subject: str | None = None, **payload: Any) -> Asked:
    """A deed as a door makes it, with an action id of its own unless one is given."""
    payload.setdefault("actionId", f"spend-{next(_ids):08}")
    return Asked(user_id, event, json.dumps(payload).encode(), subject)


def gift(giver: int, receiver: int, amount: float, **payload: Any) -> Asked:
    return asked(giver, "wallet:gift", toUserId=receiver, amount=amount, **payload)


def purchase(buyer: int, item: str = "rose", **payload: Any) -> Asked:
    return asked(buyer, "wallet:purchase", itemId=item, **payload)


def boost(user_id: int, amount: float, video: str = "a", **payload: Any) -> Asked:
    return asked(user_id, "wallet:boost", videoId=video, amount=amount, **payload)


def deducted(user_id: int, amount: float, *, subject: str = BACKEND, **payload: Any) -> Asked:
    payload = {"reason": "Spam", **payload}
    return asked(user_id, "wallet:deduct", subject=subject, userId=user_id, amount=amount, **payload)


def corrected(user_id: int, amount: float, *, subject: str = BACKEND, **payload: Any) -> Asked:
    payload = {"reason": "As promised", **payload}
    return asked(user_id, "wallet:correct", subject=subject, userId=user_id, amount=amount, **payload)


class Spends:
    """Runs batches as the lane does, one transaction each, on a connection of its own."""

    def __init__(self, conn: Connection, *, max_amount: int = MAX_AMOUNT) -> None:
        self._conn = conn
        self._handler = SpendingHandler(max_amount=max_amount)
        self.events: list[Delivered] = []

    async def run(self, *batch: Asked, skip_locked: bool = False, meanwhile: Any = None) -> list[Any]:
        """The answers in the order of the deeds: acks, Refusals that left no trace, or None for the next batch."""
        deeds = [each.deed for each in batch]
        result = await run_batch(self._conn, self._handler, deeds, skip_locked=skip_locked, meanwhile=meanwhile)
        self.events += result.events
        return [
            answer.outcome if isinstance(answer.outcome, Refusal | None) else json.loads(answer.outcome)
            for answer in result.answers
        ]

    async def data(self, *batch: Asked) -> list[Any]:
        """`run`, which must succeed: the data of each ack."""
        answers = await self.run(*batch)
        assert all(isinstance(answer, dict) and answer["ok"] for answer in answers), answers
        return [answer["data"] for answer in answers]


def codes(answers: list[Any]) -> list[str]:
    """Each answer in a word: `ok`, a refusal's code, `later`."""
    words = []
    for answer in answers:
        if isinstance(answer, Refusal):
            words.append(answer.code)
        elif answer is None:
            words.append("later")
        else:
            words.append("ok" if answer["ok"] else answer["error"]["code"])
    return words


async def lyk_of(conn: Connection) -> dict[int, int]:
    """user -> minor units, of those who have any."""
    rows = await conn.fetch("SELECT user_id, balance FROM accounts WHERE currency = 'LYK' AND balance > 0")
    return {row[0]: row[1] for row in rows}
