"""What backends may ask about one user: `/v1/users/{id}/wallet` and `/v1/users/{id}/inbox`."""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from gateway.http.door import Door, Reply, Visit
from gateway.http.problems import meet_expectation
from handlers.wire import Message


class Balances(Protocol):
    """handlers.wallet.handler.WalletHandler."""

    async def get_balances(self, user_id: int) -> tuple[Message, int]:
        """All balances and the inbox head, in one snapshot; Refusal `not_found`."""
        ...


class InboxStates(Protocol):
    """handlers.inbox.handler.InboxHandler."""

    async def get_state(self, user_id: int) -> Message:
        """How far the inbox and the user's devices are; Refusal `not_found`."""
        ...


def account_routes(door: Door, *, wallet: Balances, inbox: InboxStates) -> list[web.RouteDef]:
    """The routes about a user's accounts, for backends."""

    async def get_wallet(visit: Visit) -> Reply:
        return Reply(*await wallet.get_balances(visit.user_id()))

    async def get_inbox(visit: Visit) -> Reply:
        return Reply(await inbox.get_state(visit.user_id()))

    return [
        web.get("/v1/users/{id}/wallet", door.reads(get_wallet, backends_only=True), expect_handler=meet_expectation),
        web.get("/v1/users/{id}/inbox", door.reads(get_inbox, backends_only=True), expect_handler=meet_expectation),
    ]
