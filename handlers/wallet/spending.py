"""Runs batches of spends: gifts, purchases, boosts, and what backends take, give back and correct."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from handlers.deed import Answer, BatchResult, Deed, delivered, derived_id
from handlers.errors import Refusal
from handlers.keys import Keys
from handlers.money import DECIMALS, LYK, as_number
from handlers.wallet import rules
from handlers.wallet.rules import Books, Movement, Spend
from handlers.wallet.wire import (
    AwardCommand,
    BoostRequest,
    CorrectionRequest,
    DeductionRequest,
    GiftRequest,
    PurchaseRequest,
    SpendAck,
)
from handlers.wire import encode, minor_of
from storage import audit_log, heads, inbox, items, ledger, videos
from storage.audit_log import LogEntry
from storage.items import StoredItem
from storage.ledger import Entry
from storage.statement import write_together

if TYPE_CHECKING:
    from asyncpg import Connection

ByBackend = DeductionRequest | CorrectionRequest | AwardCommand
Request = GiftRequest | PurchaseRequest | BoostRequest | ByBackend

# Where value of a backend's verb goes to or comes from; of all others the platform issues it, or takes it back.
_COUNTER_ACCOUNTS: Final = {"withdrawal": ledger.PAYOUTS, "refund": ledger.PURCHASES}


@dataclass(slots=True)
class SpendingConcern:
    """Those users who exist, of all whom the deeds name."""

    user_ids: set[int]


class SpendingHandler:
    """`wallet:gift`, `wallet:purchase`, `wallet:boost`; of backends `wallet:deduct`, `wallet:correct`, `wallet:award`.

    `max_amount` is the most that one of them may move, in whole units of any currency; an item's price was bounded when
    it was set.
    """

    def __init__(self, *, max_amount: int) -> None:
        self._max_amount = max_amount

    async def resolve(self, conn: Connection, deeds: Sequence[Deed]) -> SpendingConcern:
        """Find out which of the users exist: they are to be locked."""
        named = {user_id for deed in deeds for user_id in _concerned(deed)}
        return SpendingConcern({user_id for user_id, *_ in await heads.list_heads(conn, named)})

    async def run(
        self, conn: Connection, deeds: Sequence[Deed], concern: SpendingConcern, heads: dict[int, int]
    ) -> BatchResult:
        """Carry out the deeds whose users are locked, one after the other; the others wait for the next batch, and with
        them the later ones of the same user, connection or partition."""
        answers: dict[Deed, bytes | Refusal | None] = {}
        ready: list[Deed] = []
        waiting: set[object] = set()
        for deed in deeds:
            missing = concern.user_ids.intersection(_concerned(deed)) - heads.keys()
            if missing or deed.user_id in waiting or deed.order_key in waiting:
                waiting |= {deed.user_id, deed.order_key} - {None}
                answers[deed] = None
            else:
                ready.append(deed)
        batch = _Batch(self._max_amount, heads)
        await batch.read(conn, ready)
        for deed in ready:
            answers[deed] = batch.answer(deed)
        entries = await batch.write(conn)
        return BatchResult([Answer(deed, answers[deed]) for deed in deeds], delivered(entries))


def _concerned(deed: Deed) -> set[int]:
    request: Request = deed.request
    return {deed.user_id, request.to_user_id} if isinstance(request, GiftRequest) else {deed.user_id}


class _Batch:
    """One batch under its locks: wallets, request keys, what can be bought, and what is to be written."""

    def __init__(self, max_amount: int, heads: dict[int, int]) -> None:
        self._max_amount = max_amount
        self._heads = heads
        self._books = Books(seqs={}, wallets={}, suspended=set())
        self._keys = Keys(lasting=True)
        self._items: dict[str, StoredItem] = {}
        self._videos: set[str] = set()
        self._log: list[tuple[Deed, Movement]] = []
        self._now: datetime | None = None

    async def read(self, conn: Connection, deeds: Sequence[Deed]) -> None:
        """Enter what is stored of these deeds, in statements that begin after the locks."""
        if not deeds:
            return
        await self._keys.read(conn, deeds)
        requests: list[Request] = [deed.request for deed in deeds]
        if item_ids := {request.item_id for request in requests if isinstance(request, PurchaseRequest)}:
            self._items = await items.list_items(conn, item_ids)
        if video_ids := {request.video_id for request in requests if isinstance(request, BoostRequest)}:
            self._videos = await videos.list_present(conn, video_ids)
        await self._read_wallets(conn, deeds)

    async def _read_wallets(self, conn: Connection, deeds: Sequence[Deed]) -> None:
        named = {(user_id, self._currency(deed)) for deed in deeds for user_id in _concerned(deed)}
        books = self._books
        for wallet in await ledger.list_wallets(conn, sorted(named)):
            self._now = self._now or wallet.now
            books.seqs[wallet.user_id] = self._heads[wallet.user_id]
            books.wallets[wallet.user_id, wallet.currency] = rules.Wallet(wallet.balance, wallet.reserved, wallet.n)
            if wallet.status == "suspended":
                books.suspended.add(wallet.user_id)

    def _currency(self, deed: Deed) -> str:
        request: Request = deed.request
        if isinstance(request, ByBackend):
            return request.currency
        if isinstance(request, PurchaseRequest) and request.item_id in self._items:
            return self._items[request.item_id].currency
        return LYK

    def answer(self, deed: Deed) -> bytes | Refusal:
        """Decide one deed, or answer it as its key was answered before."""
        kept = self._keys.replay(deed)
        if kept is not None:
            return kept
        try:
            self._check(deed)
        except Refusal as refusal:
            return refusal  # it leaves no trace
        assert self._now is not None
        outcome = rules.decide(self._books, self._spend(deed, self._now))
        if isinstance(outcome, Movement):
            self._log.append((deed, outcome))
            ack = _ack(outcome)
            self._keys.keep(deed, ack, self._now)
            return ack
        return self._keys.keep_refusal(deed, _refusal(outcome, self._currency(deed)), self._now)

    def _check(self, deed: Deed) -> None:
        """Raise Refusal where the deed names what is not there, or more than may be moved at once."""
        request: Request = deed.request
        currency = self._currency(deed)
        if currency not in DECIMALS:
            raise Refusal("invalid_payload", "There is no such currency.", field="currency")
        if (deed.user_id, currency) not in self._books.wallets:
            raise Refusal("not_found", "There is no such user.", field="userId")
        if isinstance(request, GiftRequest) and (request.to_user_id, currency) not in self._books.wallets:
            raise Refusal("not_found", "There is no such user.", field="toUserId")
        if isinstance(request, PurchaseRequest):
            if request.item_id not in self._items:
                raise Refusal("not_found", "There is no such item.", field="itemId")
        elif abs(minor_of(request.amount, "amount")) > self._max_amount * 10 ** DECIMALS[currency]:
            raise Refusal("invalid_payload", f"At most {self._max_amount} can be moved at once.", field="amount")
        if isinstance(request, BoostRequest) and request.video_id not in self._videos:
            raise Refusal("not_found", "There is no such video.", field="videoId")

    def _spend(self, deed: Deed, now: datetime) -> Spend:
        """The deed as what the rules judge."""
        request: Request = deed.request
        caller = deed.user_id if deed.subject is None else deed.subject
        terms: dict[str, Any] = {
            "user_id": deed.user_id,
            "currency": self._currency(deed),
            "origin": f"{caller}/{deed.action_id}/{now}",  # a key comes free again after days
        }
        if isinstance(request, GiftRequest):
            return _gift(request, terms)
        if isinstance(request, PurchaseRequest):
            return _purchase(self._items[request.item_id], terms)
        if isinstance(request, BoostRequest):
            return _boost(request, terms)
        return _by_backend(request, terms)

    async def write(self, conn: Connection) -> list[Entry]:
        """Store all that the deeds came to in one statement; returns the entries, which are the events too."""
        if not self._keys.has_news or self._now is None:
            return []
        entries = [_entry(movement, self._now) for movement in self._books.movements]
        advanced = {entry.user_id: entry.seq for entry in entries}
        log = [_log_entry(deed, movement, self._now) for deed, movement in self._log]
        await write_together(
            conn,
            [*self._keys.writes(), *ledger.post(entries), *inbox.append([], advanced), *audit_log.append(log)],
        )
        return entries


def _gift(request: GiftRequest, terms: dict[str, Any]) -> Spend:
    note = {"note": request.note} if request.note is not None else {}
    giver: int = terms["user_id"]
    return Spend(
        **terms,
        change=-minor_of(request.amount, "amount"),
        action="gift_sent",
        counter_account=ledger.user_account(request.to_user_id),
        metadata={"toUserId": request.to_user_id, **note},
        payee_id=request.to_user_id,
        payee_account=ledger.user_account(giver),
        payee_metadata={"fromUserId": giver, **note},
    )


def _purchase(item: StoredItem, terms: dict[str, Any]) -> Spend:
    return Spend(
        **terms,
        change=-item.price,
        action="purchase",
        counter_account=ledger.PURCHASES,
        metadata={"itemId": item.id, "itemName": item.name},
    )


def _boost(request: BoostRequest, terms: dict[str, Any]) -> Spend:
    return Spend(
        **terms,
        change=-minor_of(request.amount, "amount"),
        action="boost_post",
        counter_account=ledger.PURCHASES,
        metadata={"videoId": request.video_id},
    )


def _by_backend(request: ByBackend, terms: dict[str, Any]) -> Spend:
    amount = minor_of(request.amount, "amount")
    return Spend(
        **terms,
        change=-amount if isinstance(request, DeductionRequest) else amount,
        action=request.action,
        counter_account=_COUNTER_ACCOUNTS.get(request.action, ledger.ISSUANCE),
        metadata=request.metadata or {},
        reason=request.reason,
        is_own=False,
    )


def _ack(movement: Movement) -> bytes:
    decimals = DECIMALS[movement.currency]
    data = SpendAck(str(derived_id(movement.origin)), as_number(movement.balance_after, decimals))
    return b'{"ok":true,"data":%b}' % encode(data)


def _refusal(outcome: rules.TooLittle | rules.Blocked | rules.Full, currency: str) -> Refusal:
    if isinstance(outcome, rules.TooLittle):
        need, have = (as_number(each, DECIMALS[currency]) for each in (outcome.need, outcome.have))
        return Refusal("insufficient_funds", "There is not enough in the wallet.", need=need, have=have)
    if isinstance(outcome, rules.Blocked):
        return Refusal("fraud_blocked", "This can't be done with oneself, or by or with somebody suspended.")
    return Refusal("conflict", "The wallet can't hold that much.", field="amount")


def _entry(movement: Movement, now: datetime) -> Entry:
    return Entry(
        movement.user_id,
        movement.seq,
        movement.currency,
        movement.n,
        derived_id(movement.origin),
        movement.action,
        movement.points,
        movement.balance_before,
        movement.balance_after,
        movement.counter_account,
        movement.reason,
        encode(movement.metadata).decode(),
        now,
        derived_id(movement.transfer) if movement.transfer is not None else None,
    )


def _log_entry(deed: Deed, movement: Movement, now: datetime) -> LogEntry:
    """What somebody did to a wallet, with the transaction's id, by which the audit finds one for the other."""
    who = str(deed.user_id) if deed.subject is None else deed.subject
    decimals = DECIMALS[movement.currency]
    before = {"currency": movement.currency, "balance": as_number(movement.balance_before, decimals)}
    after = {
        "currency": movement.currency,
        "balance": as_number(movement.balance_after, decimals),
        "action": movement.action,
        "points": as_number(movement.points, decimals),
        "reason": movement.reason,
        "transactionId": str(derived_id(movement.origin)),
    }
    return LogEntry(who, deed.event, f"user:{movement.user_id}", encode(before).decode(), encode(after).decode(), now)
