"""Wallets and inboxes: one's own at `/v1/wallet` and `/v1/inbox`, any user's for backends (spec 7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from gateway.http.door import Door, Reply, Visit
from gateway.http.problems import meet_expectation
from gateway.http.queries import cursor_of, limit_of, number_of
from handlers.caller import Caller
from handlers.errors import Refusal
from handlers.inbox.wire import FetchRequest
from handlers.wallet.wire import HistoryRequest
from handlers.wire import Currency, Message

MOST_EVENTS: Final = 500  # as of `inbox:fetch`
_SEQ: Final = r"[0-9]{1,16}"

KnowUser = Callable[[Caller, str | None], Awaitable[None]]


class Balances(Protocol):
    """handlers.wallet.handler.WalletHandler."""

    async def get_balances(self, user_id: int, currency: str | None = None) -> tuple[Message, int]:
        """Balances and the inbox head, in one snapshot; Refusal `not_found`."""
        ...

    async def get_history(self, user_id: int, request: HistoryRequest) -> tuple[Message, int]:
        """A page of entries and the inbox head, in one snapshot."""
        ...


class Inboxes(Protocol):
    """handlers.inbox.handler.InboxHandler."""

    async def fetch(self, user_id: int, request: FetchRequest) -> Any:
        """A page of the inbox, with its `seq`."""
        ...

    async def get_state(self, user_id: int) -> tuple[Message, int]:
        """How far the inbox and the user's devices are, and the inbox head; Refusal `not_found`."""
        ...


def account_routes(door: Door, *, wallet: Balances, inbox: Inboxes, know_user: KnowUser) -> list[web.RouteDef]:
    """The routes about accounts. `know_user` sees to it that the caller exists, as a first connect would."""

    async def own_id(visit: Visit) -> int:
        if visit.caller.user_id is None:
            raise Refusal("not_found", "This token is no user's.")
        await know_user(visit.caller, visit.claims.username)
        return visit.caller.user_id

    async def get_own_wallet(visit: Visit) -> Reply:
        return Reply(*await wallet.get_balances(await own_id(visit), _currency_of(visit.request)))

    async def get_own_history(visit: Visit) -> Reply:
        request = HistoryRequest(_currency_of(visit.request), cursor_of(visit.request, _SEQ), limit_of(visit.request))
        return Reply(*await wallet.get_history(await own_id(visit), request))

    async def get_own_inbox(visit: Visit) -> Reply:
        request = FetchRequest(number_of(visit.request, "afterSeq") or 0, limit_of(visit.request, most=MOST_EVENTS))
        page = await inbox.fetch(await own_id(visit), request)
        return Reply(page, page.seq)

    async def get_wallet(visit: Visit) -> Reply:
        return Reply(*await wallet.get_balances(visit.user_id()))

    async def get_inbox(visit: Visit) -> Reply:
        return Reply(*await inbox.get_state(visit.user_id()))

    reads = {
        "/v1/wallet": door.reads(get_own_wallet),
        "/v1/wallet/transactions": door.reads(get_own_history),
        "/v1/inbox": door.reads(get_own_inbox),
        "/v1/users/{id}/wallet": door.reads(get_wallet, backends_only=True),
        "/v1/users/{id}/inbox": door.reads(get_inbox, backends_only=True),
    }
    return [web.get(path, handler, expect_handler=meet_expectation) for path, handler in reads.items()]


def _currency_of(request: web.Request) -> str | None:
    text = request.query.get("currency")
    if text is None:
        return None
    try:
        return msgspec.convert(text, Currency)
    except msgspec.ValidationError:
        raise Refusal("invalid_payload", "A currency has 3 to 8 letters from A to Z.", field="currency") from None
