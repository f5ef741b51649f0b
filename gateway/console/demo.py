"""The demo: two people, a friend of theirs, a few videos, and the page where they meet at `/`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
from aiohttp import web

from gateway.http.client import MODULE
from handlers.directory.handler import DirectoryHandler
from handlers.directory.wire import PutUserRequest, PutVideoRequest
from handlers.messaging.conversations import ConversationsHandler
from handlers.messaging.wire import CreateConversationRequest
from handlers.wire import Message, encode

FILES: Final = Path(__file__).parent
TOKEN_TTL_S: Final = 3600
CONTENT_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# The page loads nothing from elsewhere, and nothing may be slipped into it.
SECURITY: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

CarryOut = Callable[[int, str, bytes], Awaitable[bytes]]  # gateway.dispatch.Dispatch.carry_out

VIEWER: Final = 7
CREATOR: Final = 8
FRIEND: Final = 9
PEOPLE: Final = {
    VIEWER: PutUserRequest(username="ada", display_name="Ada", roles=["viewer"], following_count=120),
    CREATOR: PutUserRequest(username="grace", display_name="Grace", roles=["creator"], followers_count=1500),
}
WITHOUT_PHONE: Final = {FRIEND: PutUserRequest(username="alan", display_name="Alan")}
GROUP: Final = "Sunday bakers"
# Who says what: to Ada alone, then to all in the group.
HELLO: Final = "Seen Grace’s new video? That light!"
IN_GROUP: Final = ((FRIEND, "Rye or wheat this Sunday?"), (CREATOR, "Rye. I’ll bring the starter."))
VIDEOS: Final = {
    "sunrise": "Sunrise over the bay",
    "bread": "Bread, from scratch",
    "compiler": "A compiler in an afternoon",
}


class DemoPhone(Message):
    user_id: int
    name: str
    token: str
    role: str


class DemoPerson(Message):
    user_id: int
    name: str
    role: str


class DemoVideo(Message):
    video_id: str
    title: str
    owner_id: int
    likes: int
    views: int
    shares: int
    comments: int


class DemoStage(Message):
    """`GET /demo.json`: who is on stage, with fresh tokens."""

    phones: list[DemoPhone]
    people: list[DemoPerson]
    videos: list[DemoVideo]


class Demo:
    """Seeds the stage and serves the page. Its tokens are for everybody who can reach the page: never in `serve`."""

    def __init__(
        self,
        *,
        directory: DirectoryHandler,
        conversations: ConversationsHandler,
        carry_out: CarryOut,
        secret: str,
        claims: dict[str, str],
    ) -> None:
        self._directory = directory
        self._conversations = conversations
        self._carry_out = carry_out
        self._secret = secret
        self._claims = claims

    async def seed(self) -> None:
        """Create the people, videos and first messages, or leave them as they are."""
        for user_id, person in (PEOPLE | WITHOUT_PHONE).items():
            await self._directory.put_user(user_id, person, "demo")
        for video_id, title in VIDEOS.items():
            await self._directory.put_video(video_id, PutVideoRequest(owner_id=CREATOR, title=title))
        await self._seed_chats()

    async def _seed_chats(self) -> None:
        """A friend's hello to Ada, and a group. Of several nodes that start at once, the one whose hello is the first
        makes the group: the others' is a replay."""
        pair = await self._conversations.create(FRIEND, CreateConversationRequest([VIEWER]))
        row, _ = await self._conversations.fetch(FRIEND, pair.conversation_id)
        if row.last_number > 0 or await self._say(FRIEND, pair.conversation_id, HELLO, key="hello"):
            return
        group = await self._conversations.create(FRIEND, CreateConversationRequest([VIEWER, CREATOR], GROUP))
        for number, (user_id, text) in enumerate(IN_GROUP):
            await self._say(user_id, group.conversation_id, text, key=f"group.{number}")

    async def _say(self, user_id: int, conversation_id: str, text: str, *, key: str) -> bool:
        """Whether it had been said before."""
        body = {"conversationId": conversation_id, "messageType": "text", "content": text, "actionId": f"demo.{key}"}
        ack = msgspec.json.decode(await self._carry_out(user_id, "message:send", msgspec.json.encode(body)))
        return bool(ack.get("replayed", False))

    def routes(self) -> list[web.RouteDef]:
        """The page, its files and the stage; the client is there in any case (gateway.http.client)."""
        files = [file for file in FILES.iterdir() if file.suffix in CONTENT_TYPES and file != MODULE]
        pages = [web.get(f"/{file.name}", _file_handler(file)) for file in files]
        return [web.get("/", _file_handler(FILES / "index.html")), web.get("/demo.json", self._stage), *pages]

    async def _stage(self, _: web.Request) -> web.Response:
        phones = [self._phone(user_id, person) for user_id, person in PEOPLE.items()]
        people = [_person(user_id, person) for user_id, person in (PEOPLE | WITHOUT_PHONE).items()]
        videos = []
        for video_id in VIDEOS:
            view: Any = await self._directory.get_video(video_id)
            totals = view.total_likes, view.total_views, view.total_shares, view.total_comments
            videos.append(DemoVideo(video_id, view.title, view.owner_id, *totals))
        body = encode(DemoStage(phones, people, videos))
        return web.Response(body=body, content_type="application/json", headers=SECURITY)

    def _phone(self, user_id: int, person: PutUserRequest) -> DemoPhone:
        assert not isinstance(person.roles, msgspec.UnsetType)
        now = int(time.time())
        claims = {**self._claims, "sub": str(user_id), "iat": now, "exp": now + TOKEN_TTL_S, "jti": uuid.uuid4().hex}
        token = jwt.encode(claims, self._secret, algorithm="HS256")
        return DemoPhone(user_id, str(person.display_name), token, person.roles[0])


def _person(user_id: int, person: PutUserRequest) -> DemoPerson:
    return DemoPerson(user_id, str(person.display_name), person.roles[0] if person.roles else "friend")


def _file_handler(file: Path) -> Any:
    body = file.read_bytes()
    content_type = CONTENT_TYPES[file.suffix]

    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=SECURITY)

    return handle
