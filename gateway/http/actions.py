"""Actions over HTTP: the same deeds through the same lane, with the same answers (spec 7)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from aiohttp import web

from gateway.http.door import Act, Door, Reply, Visit
from gateway.http.problems import meet_expectation
from handlers.caller import Caller
from handlers.errors import Refusal

_ACTION_ID: Final = re.compile(r"[A-Za-z0-9._:-]{8,64}")


class Actions(Protocol):
    """gateway.dispatch.Dispatch."""

    async def carry_out(self, user_id: int, event: str, payload: bytes) -> bytes:
        """A user's action: the whole acknowledgement."""
        ...

    async def carry_out_for(self, subject: str, event: str, payload: bytes) -> bytes:
        """A backend's action about a user: the whole acknowledgement."""
        ...


FetchOutcome = Callable[[Caller, str], Awaitable[bytes]]
KnowUser = Callable[[Caller, str | None], Awaitable[None]]


def action_routes(
    door: Door, *, actions: Actions, fetch_outcome: FetchOutcome, know_user: KnowUser, for_backends: dict[str, str]
) -> list[web.RouteDef]:
    """`POST /v1/actions/{event}`, `GET /v1/actions/{actionId}`, and backends' actions by path (`for_backends`: path ->
    event). `know_user` sees to it that the caller exists, as a first connect would."""

    async def post_action(visit: Visit, payload: bytes) -> bytes:
        user_id = visit.caller.user_id
        if user_id is None:
            raise Refusal("forbidden", "This token is no user's.")
        await know_user(visit.caller, visit.claims.username)
        return await actions.carry_out(user_id, visit.request.match_info["event"], payload)

    async def get_action(visit: Visit) -> Reply:
        action_id = visit.request.match_info["event"]
        if not _ACTION_ID.fullmatch(action_id):
            raise Refusal("invalid_payload", "An actionId has 8 to 64 of A-Z a-z 0-9 . _ : -", field="actionId")
        return Reply(await fetch_outcome(visit.caller, action_id))

    def post_for(event: str) -> Act:
        return lambda visit, payload: actions.carry_out_for(visit.caller.subject, event, payload)

    path = "/v1/actions/{event}"
    return [
        web.post(path, door.acts(post_action), expect_handler=meet_expectation),
        web.get(path, door.reads(get_action), expect_handler=meet_expectation),
        *(
            web.post(path, door.acts(post_for(event), backends_only=True), expect_handler=meet_expectation)
            for path, event in for_backends.items()
        ),
    ]
