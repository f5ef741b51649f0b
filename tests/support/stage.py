"""A journey's cast: people and videos of its own on a server that others use too, and what must hold at the end."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Final

from tests.support.clients import PATIENCE_S, Client, JsPhone, Node, Phone, start_node
from tests.support.server import Gateway

CREATOR: Final = 1000  # followers from which on a creator earns
VIEWER: Final = 100  # follows from which on a viewer earns

_numbers = itertools.count(1001)
_actions = itertools.count(1)


def action_id() -> str:
    """One that nobody has used."""
    return f"action-{next(_actions):06}"


class Stage:
    """Makes people, videos and phones. `close` proves what must hold of whatever happened to them."""

    def __init__(self, server: Gateway) -> None:
        self.server = server
        self.people: set[int] = set()
        self.phones: list[tuple[int, Client]] = []
        self._node: Node | None = None

    # -- the cast ----------------------------------------------------------------------------------------------------

    async def person(self, *, follows: int = 0, followers: int = 0, **fields: Any) -> int:
        """A user that a backend has told the server of."""
        user = next(_numbers)
        counts = {"followingCount": follows, "followersCount": followers}
        answer = await self.server.ask("PUT", f"/v1/users/{user}", {"username": f"user_{user}", **counts, **fields})
        assert answer.status == 200, answer
        self.people.add(user)
        return user

    def stranger(self) -> int:
        """The id of a user whom nobody has told the server of."""
        user = next(_numbers)
        self.people.add(user)
        return user

    async def video(self, owner: int, title: str = "Sunrise") -> str:
        """A video of `owner`."""
        video = f"video-{next(_numbers)}"
        answer = await self.server.ask("PUT", f"/v1/videos/{video}", {"ownerId": owner, "title": title})
        assert answer.status == 200, answer
        return video

    async def phone(self, user: int, **auth: Any) -> Phone:
        """python-socketio's client of `user`, connected and resumed."""
        phone = Phone()
        self.phones.append((user, phone))
        await phone.connect(self.server.url, {"token": self.server.token(user), **auth})
        await phone.hear("resumed")
        return phone

    async def js_phone(self, user: int, *, follow: bool = False, **auth: Any) -> JsPhone:
        """The official JavaScript client of `user`, connected and resumed."""
        phone = await self.js_caller(user)
        await phone.connect(self.server.url, {"token": self.server.token(user), **auth}, follow=follow)
        await phone.hear("resumed")
        return phone

    async def js_caller(self, user: int) -> JsPhone:
        """The same, not connecting yet."""
        if self._node is None:
            self._node = await start_node()
        name = f"phone-{len(self._node.phones)}"
        phone = self._node.phones[name] = JsPhone(self._node, name)
        self.phones.append((user, phone))
        return phone

    # -- what backends see -------------------------------------------------------------------------------------------

    async def balance(self, user: int) -> tuple[float, int]:
        """(LYK, inbox `seq`) of one snapshot."""
        answer = await self.server.ask("GET", f"/v1/users/{user}/wallet")
        assert answer.status == 200, answer
        balances = {row["currency"]: row["balance"] for row in answer.body["balances"]}
        return balances.get("LYK", 0), int(answer.headers["X-Inbox-Seq"])

    async def inbox(self, user: int) -> Any:
        """`{seq, oldestSeq, connected, devices}`."""
        answer = await self.server.ask("GET", f"/v1/users/{user}/inbox")
        assert answer.status == 200, answer
        return answer.body

    async def gone(self, user: int) -> None:
        """Return when no connection of theirs is left."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.inbox(user))["connected"]:
                await asyncio.sleep(0.01)

    async def settled(self, creator: int) -> None:
        """Return when nothing waits for the settler to tell this creator of."""
        async with self.server.database() as conn, asyncio.timeout(PATIENCE_S):
            while await conn.fetchval("SELECT EXISTS (SELECT FROM accruals WHERE creator_id = $1)", creator):
                await asyncio.sleep(0.05)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Replay equals fetch equals what was heard live, old state and events make the new state, and the audit
        finds nothing."""
        known = [user for user in sorted(self.people) if await self._is_known(user)]
        await asyncio.gather(*(self._check_person(user) for user in known))
        assert await self.server.findings() == []

    async def close(self) -> None:
        """All phones away."""
        await asyncio.gather(*(phone.close() for _, phone in self.phones))
        if self._node is not None:
            await self._node.stop()

    async def _is_known(self, user: int) -> bool:
        return (await self.server.ask("GET", f"/v1/users/{user}")).status == 200

    async def _check_person(self, user: int) -> None:
        balance, seq = await self.balance(user)
        reader = Phone()
        await reader.connect(self.server.url, {"token": self.server.token(user), "lastSeq": "0"})
        await reader.hear("resumed")
        fetched = await fetch_all(reader)
        assert [event["seq"] for event in fetched] == list(range(1, len(fetched) + 1))
        replayed = reader.events()[: len(fetched)]
        assert replayed == fetched[: len(replayed)]
        assert len(replayed) >= seq
        assert folded(fetched[:seq]) == balance
        for phone in [phone for owner, phone in self.phones if owner == user]:
            await _check_heard(phone, fetched)
        await reader.close()


async def fetch_all(phone: Client) -> list[Any]:
    """The whole inbox, page by page."""
    events: list[Any] = []
    while True:
        answer = await phone.call("inbox:fetch", {"afterSeq": len(events), "limit": 500})
        if not answer["ok"] and answer["error"]["code"] == "rate_limited":
            await asyncio.sleep(answer["error"]["retryAfterMs"] / 1000)
            continue
        assert answer["ok"], answer
        page = answer["data"]
        assert page["complete"]
        events += page["events"]
        if not page["events"]:
            return events


def folded(events: list[Any]) -> float:
    """The balance that these events make, each one's before being the last one's after."""
    balance = 0.0
    for event in events:
        if event["eventType"].startswith("wallet:"):
            assert event["data"]["previousBalance"] == balance, event
            balance = event["data"]["newBalance"]
    return balance


async def _check_heard(phone: Client, fetched: list[Any]) -> None:
    """What a phone heard live is what is stored: each connection in order, nothing twice, no gap up to its end."""
    if phone.connected:
        await phone.caught_up(len(fetched))
    for stretch in phone.stretches():
        first = stretch.events[0]["seq"] if stretch.events else 0
        known = [event for event in stretch.events if event["seq"] <= len(fetched)]
        assert known == fetched[first - 1 :][: len(known)] if known else True
        assert [event["seq"] for event in stretch.events] == list(range(first, first + len(stretch.events)))
