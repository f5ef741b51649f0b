"""Two nodes on one database with official clients on either, for what must go from one to the other."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import jwt

from tests.support.clients import JsPhone, Node, start_node
from tests.support.cluster import SECRET, NodeProcess, cluster
from tests.support.processes import nothing_broke
from tests.support.server import Answer


class Pair:
    """The nodes, and whoever is connected to them."""

    def __init__(self, nodes: list[NodeProcess], driver: Node) -> None:
        self.nodes = nodes
        self._driver = driver
        self.phones: list[JsPhone] = []

    def token(self, subject: object, *roles: str, **claims: Any) -> str:
        now = int(time.time())
        given = {"sub": str(subject), "roles": roles, "iat": now, "exp": now + 600, "jti": uuid.uuid4().hex}
        claims = given | claims
        return jwt.encode(claims, SECRET, algorithm="HS256")

    async def ask(
        self, method: str, path: str, body: object = None, *, user: int | None = None, node: int = 0
    ) -> Answer:
        """One HTTP request of a user, or of a backend where none is named."""
        token = self.token("backend", "service") if user is None else self.token(user)
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.nodes[node].url + path, headers=headers, json=body) as response,
        ):
            content = await response.read()
            return Answer(response.status, json.loads(content) if content else None, response.headers)

    async def knock(self, user: int, node: int = 0, *, follow: bool = False, **auth: Any) -> JsPhone:
        """The official client of a user, on its way in."""
        name = f"phone-{len(self._driver.phones)}"
        phone = self._driver.phones[name] = JsPhone(self._driver, name)
        self.phones.append(phone)
        await phone.connect(self.nodes[node].url, {"token": self.token(user), **auth}, follow=follow)
        return phone

    async def phone(self, user: int, node: int = 0, *, follow: bool = False, **auth: Any) -> JsPhone:
        """The official client of a user, connected and resumed; the user comes into being by it."""
        phone = await self.knock(user, node, follow=follow, **auth)
        await phone.hear("resumed")
        return phone


@asynccontextmanager
async def pair(dsn: str, folder: Path, nodes: int = 2, **settings: object) -> AsyncIterator[Pair]:
    """The nodes, which must stop well and have logged no fault."""
    driver = await start_node()
    try:
        async with cluster(dsn, folder, nodes, **settings) as started:
            made = Pair(started, driver)
            yield made
            await asyncio.gather(*(phone.close() for phone in made.phones))
        for node in started:
            nothing_broke(node.log)
    finally:
        await driver.stop()
