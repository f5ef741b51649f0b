"""The demo: two people, a few videos, and the page where they meet at `/`."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
from aiohttp import web

from gateway.http.client import MODULE
from handlers.directory.handler import DirectoryHandler
from handlers.directory.wire import PutUserRequest, PutVideoRequest
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

VIEWER: Final = 7
CREATOR: Final = 8
PEOPLE: Final = {
    VIEWER: PutUserRequest(username="ada", display_name="Ada", roles=["viewer"], following_count=120),
    CREATOR: PutUserRequest(username="grace", display_name="Grace", roles=["creator"], followers_count=1500),
}
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
    videos: list[DemoVideo]


class Demo:
    """Seeds the stage and serves the page. Its tokens are for everybody who can reach the page: never in `serve`."""

    def __init__(self, *, directory: DirectoryHandler, secret: str, claims: dict[str, str]) -> None:
        self._directory = directory
        self._secret = secret
        self._claims = claims

    async def seed(self) -> None:
        """Create the people and videos, or leave them as they are."""
        for user_id, person in PEOPLE.items():
            await self._directory.put_user(user_id, person, "demo")
        for video_id, title in VIDEOS.items():
            await self._directory.put_video(video_id, PutVideoRequest(owner_id=CREATOR, title=title))

    def routes(self) -> list[web.RouteDef]:
        """The page, its files and the stage; the client is there in any case (gateway.http.client)."""
        files = [file for file in FILES.iterdir() if file.suffix in CONTENT_TYPES and file != MODULE]
        pages = [web.get(f"/{file.name}", _file_handler(file)) for file in files]
        return [web.get("/", _file_handler(FILES / "index.html")), web.get("/demo.json", self._stage), *pages]

    async def _stage(self, _: web.Request) -> web.Response:
        phones = [self._phone(user_id, person) for user_id, person in PEOPLE.items()]
        videos = []
        for video_id in VIDEOS:
            view: Any = await self._directory.get_video(video_id)
            totals = view.total_likes, view.total_views, view.total_shares, view.total_comments
            videos.append(DemoVideo(video_id, view.title, view.owner_id, *totals))
        return web.Response(body=encode(DemoStage(phones, videos)), content_type="application/json", headers=SECURITY)

    def _phone(self, user_id: int, person: PutUserRequest) -> DemoPhone:
        assert not isinstance(person.roles, msgspec.UnsetType)
        now = int(time.time())
        claims = {**self._claims, "sub": str(user_id), "iat": now, "exp": now + TOKEN_TTL_S, "jti": uuid.uuid4().hex}
        token = jwt.encode(claims, self._secret, algorithm="HS256")
        return DemoPhone(user_id, str(person.display_name), token, person.roles[0])


def _file_handler(file: Path) -> Any:
    body = file.read_bytes()
    content_type = CONTENT_TYPES[file.suffix]

    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=SECURITY)

    return handle
