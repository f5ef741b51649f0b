"""`/v1/conversations` and `/v1/blocks`: what a person does with their chats outside the socket."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import web

from gateway.http.actions import Actions
from gateway.http.door import Door, Reply, Visit
from gateway.http.problems import meet_expectation
from gateway.http.queries import cursor_of, limit_of
from gateway.payloads import decode
from handlers.caller import Caller
from handlers.errors import Refusal
from handlers.messaging.conversations import LIST_CURSOR, MESSAGES_CURSOR, ConversationsHandler
from handlers.messaging.wire import CreateConversationRequest, PostMessageRequest
from handlers.wire import encode

KnowUser = Callable[[Caller, str | None], Awaitable[None]]

_POSTED: Final = msgspec.json.Decoder(PostMessageRequest)
_OPENING: Final = re.compile(rb"\s*\{")


def conversation_routes(
    door: Door, conversations: ConversationsHandler, *, actions: Actions, know_user: KnowUser
) -> list[web.RouteDef]:
    """The routes about conversations. `know_user` sees to it that the caller exists, as a first connect would."""

    async def own_id(visit: Visit) -> int:
        if visit.caller.user_id is None:
            raise Refusal("not_found", "This token is no user's.")
        await know_user(visit.caller, visit.claims.username)
        return visit.caller.user_id

    async def get_list(visit: Visit) -> Reply:
        cursor, limit = cursor_of(visit.request, LIST_CURSOR), limit_of(visit.request)
        return Reply(*await conversations.list(await own_id(visit), cursor, limit))

    async def post_list(visit: Visit, request: CreateConversationRequest) -> Reply:
        return Reply(await conversations.create(await own_id(visit), request))

    async def get_one(visit: Visit) -> Reply:
        return Reply(*await conversations.fetch(await own_id(visit), visit.item_id()))

    async def get_messages(visit: Visit) -> Reply:
        cursor, limit = cursor_of(visit.request, MESSAGES_CURSOR), limit_of(visit.request)
        return Reply(*await conversations.list_messages(await own_id(visit), visit.item_id(), cursor, limit))

    async def post_message(visit: Visit, payload: bytes) -> bytes:
        decode(_POSTED, payload)  # strict: the conversation is the path's to name
        named = _OPENING.sub(b'{"conversationId":%b,' % encode(visit.item_id()), payload, count=1)
        return await actions.carry_out(await own_id(visit), "message:send", named)

    async def put_participant(visit: Visit) -> Reply:
        await conversations.add(await own_id(visit), visit.item_id(), visit.user_id("userId"))
        return Reply(None)

    async def delete_participant(visit: Visit) -> Reply:
        await conversations.remove(await own_id(visit), visit.item_id(), visit.user_id("userId"))
        return Reply(None)

    async def put_block(visit: Visit) -> Reply:
        await conversations.block(await own_id(visit), visit.user_id("userId"))
        return Reply(None)

    async def delete_block(visit: Visit) -> Reply:
        await conversations.unblock(await own_id(visit), visit.user_id("userId"))
        return Reply(None)

    place = "/v1/conversations"
    participant, block = f"{place}/{{id}}/participants/{{userId}}", "/v1/blocks/{userId}"
    return [
        web.get(place, door.reads(get_list), expect_handler=meet_expectation),
        web.post(place, door.writes(post_list, CreateConversationRequest), expect_handler=meet_expectation),
        web.get(f"{place}/{{id}}", door.reads(get_one), expect_handler=meet_expectation),
        web.get(f"{place}/{{id}}/messages", door.reads(get_messages), expect_handler=meet_expectation),
        web.post(f"{place}/{{id}}/messages", door.acts(post_message), expect_handler=meet_expectation),
        web.put(participant, door.reads(put_participant), expect_handler=meet_expectation),
        web.delete(participant, door.reads(delete_participant), expect_handler=meet_expectation),
        web.put(block, door.reads(put_block), expect_handler=meet_expectation),
        web.delete(block, door.reads(delete_block), expect_handler=meet_expectation),
    ]
