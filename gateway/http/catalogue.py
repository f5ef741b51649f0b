"""`/v1/items/{id}` and `/v1/awards/{action}`: what things cost and what actions pay."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from gateway.http.door import Door, Reply, Visit
from gateway.http.problems import meet_expectation
from gateway.http.queries import cursor_of, limit_of
from handlers.catalogue.handler import CatalogueHandler
from handlers.catalogue.wire import PutAwardRequest, PutItemRequest
from handlers.errors import Refusal

_VERSION: Final = r"[0-9]{1,9}"


def catalogue_routes(door: Door, catalogue: CatalogueHandler) -> list[web.RouteDef]:
    """Items are shown to everybody and kept by backends; awards are for admins."""

    async def put_item(visit: Visit, request: PutItemRequest) -> Reply:
        return Reply(await catalogue.put_item(visit.item_id(), request, visit.caller.subject))

    async def get_item(visit: Visit) -> Reply:
        return Reply(await catalogue.get_item(visit.item_id()))

    async def put_award(visit: Visit, request: PutAwardRequest) -> Reply:
        _require_admin(visit)
        return Reply(await catalogue.put_award(_action(visit), request, visit.caller.subject))

    async def get_award(visit: Visit) -> Reply:
        _require_admin(visit)
        return Reply(await catalogue.get_award(_action(visit)))

    async def get_history(visit: Visit) -> Reply:
        _require_admin(visit)
        cursor, limit = cursor_of(visit.request, _VERSION), limit_of(visit.request)
        return Reply(await catalogue.get_award_history(_action(visit), cursor, limit))

    item, award = "/v1/items/{id}", "/v1/awards/{action}"
    return [
        web.get(item, door.reads(get_item), expect_handler=meet_expectation),
        web.put(item, door.writes(put_item, PutItemRequest, backends_only=True), expect_handler=meet_expectation),
        web.get(award, door.reads(get_award, backends_only=True), expect_handler=meet_expectation),
        web.put(award, door.writes(put_award, PutAwardRequest, backends_only=True), expect_handler=meet_expectation),
        web.get(f"{award}/history", door.reads(get_history, backends_only=True), expect_handler=meet_expectation),
    ]


def _action(visit: Visit) -> str:
    action = visit.request.match_info["action"]
    if "\0" in action:  # PostgreSQL's text can't hold it, so there is none of that name
        raise Refusal("not_found", "There is no award for such an action.", field="action")
    return action


def _require_admin(visit: Visit) -> None:
    if "admin" not in visit.caller.roles:
        raise Refusal("forbidden", "This is for admins.")
