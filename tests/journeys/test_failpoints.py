"""The server dies by itself at the worst moments of an action: whoever repeats it hears the truth, it is paid once, and
every event arrives, once and in order."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from gateway.failpoints import POINTS, BadFailpoint, Failpoint, Failpoints, parse
from storage.audit import audit
from tests.support.books import all_is_told, expected_balances, expected_totals, faults, totals
from tests.support.crowd import Action, CheapPhone
from tests.support.engagements import CREATOR, FAN, OTHER_CREATOR, balances, seed
from tests.support.processes import none_is_left, nothing_broke
from tests.support.server import Gateway
from tests.support.stage import VIEWER, Stage, action_id

FANS: Final = 5
ACTIONS: Final = [
    (event, video) for video in "abc" for event in ("video:like", "video:view", "video:share", "video:unlike")
]
EXIT_BAD_CONFIGURATION: Final = 78
PATIENCE_S: Final = 20.0


class Play:
    """Fans and creators at a server that will die at its third batch, and at the one that comes after it."""

    def __init__(self, folder: Path, point: str) -> None:
        self._mortal = Gateway(folder / "data", FAILPOINTS=f"{point}=kill:3")
        self._next = Gateway(folder / "data")
        self.gateway = self._mortal

    async def begin(self) -> None:
        await asyncio.to_thread(self._mortal.start)
        async with self._mortal.database() as conn:
            await seed(conn, fans=FANS)
        secret = (self._mortal.data_dir / "secret").read_text()
        self.fans = [self._phone(FAN + number, secret) for number in range(FANS)]
        self.everybody = [*self.fans, self._phone(CREATOR, secret), self._phone(OTHER_CREATOR, secret)]
        for phone in self.everybody:
            phone.start()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(phone.online.wait() for phone in self.everybody))
        self._acting = [asyncio.create_task(self._act(fan)) for fan in self.fans]

    def _phone(self, user_id: int, secret: str) -> CheapPhone:
        return CheapPhone(user_id, secret, lambda: self.gateway.url)

    async def _act(self, fan: CheapPhone) -> None:
        for number, (event, video) in enumerate(ACTIONS):
            await fan.act(event, video, f"fan-{fan.user_id}-{number}")

    async def dies(self) -> None:
        """Return when it has killed itself, and nobody is connected any more."""
        assert await asyncio.to_thread(self._mortal.wait, PATIENCE_S) == -signal.SIGKILL
        await none_is_left(self._mortal.data_dir)
        await asyncio.gather(*(phone.stop() for phone in self.everybody))

    async def restart(self) -> None:
        """The next server on the same folder and port; nobody comes back yet."""
        self._next.port = self._mortal.port
        self.gateway = self._next
        await asyncio.to_thread(self._next.start)

    async def come_back(self) -> None:
        for phone in self.everybody:
            phone.online.clear()
            phone.start()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._acting)

    async def end(self) -> None:
        for task in self._acting:
            task.cancel()
        await asyncio.gather(*(phone.stop() for phone in self.everybody))
        await asyncio.to_thread(self.gateway.stop)

    def actions(self, *, acknowledged: bool) -> dict[str, Action]:
        """What was begun, by `actionId`."""
        begun = [action for fan in self.fans for action in fan.actions.values()]
        return {action.action_id: action for action in begun if action.done.is_set() == acknowledged}


@asynccontextmanager
async def play(folder: Path, point: str) -> AsyncIterator[tuple[Play, asyncpg.Connection]]:
    """Up to its death and restart; then, after what a test looks at, everybody comes back, and all must be well."""
    story = Play(folder, point)
    try:
        await story.begin()
        await story.dies()
        await story.restart()
        async with story.gateway.database() as conn:
            yield story, conn
            await story.come_back()
            await check(story, conn)
    finally:
        await story.end()
    nothing_broke(story.gateway.log)


async def check(story: Play, conn: asyncpg.Connection) -> None:
    """Each action was carried out once, each event heard once, and the same action again is the same answer."""
    did = {fan.user_id: list(ACTIONS) for fan in story.fans}
    await all_is_told(conn, story.everybody)
    assert faults(story.everybody) == []
    assert await balances(conn) == expected_balances(did)
    assert {phone.user_id: phone.points for phone in story.everybody} == expected_balances(did)
    assert await totals(conn) == expected_totals(did)
    done = story.actions(acknowledged=True)
    for fan in story.fans:
        for action in fan.actions.values():
            before = len(action.answers)
            await fan.send_soon(action)
            async with asyncio.timeout(PATIENCE_S):
                while len(action.answers) == before:
                    await asyncio.sleep(0.01)
            assert action.answers[-1]["replayed"]
    assert faults(story.everybody) == []
    assert await conn.fetchval("SELECT count(*) FROM requests") == len(done) == FANS * len(ACTIONS)
    assert await balances(conn) == expected_balances(did)
    assert await audit(conn) == []


async def stored(conn: asyncpg.Connection) -> set[str]:
    return {row[0] for row in await conn.fetch("SELECT action_id FROM requests")}


async def test_killed_with_an_action_received_nothing_of_it_has_happened(tmp_path: Path) -> None:
    async with play(tmp_path, "after_receipt") as (story, conn):
        known, in_doubt = await stored(conn), story.actions(acknowledged=False)
        assert in_doubt
        assert known == set(story.actions(acknowledged=True)), "what was acknowledged, and no more"
    assert not [each for each in in_doubt.values() if each.answers[0].get("replayed")], "each was carried out now"


async def test_killed_between_commit_and_acknowledgement_a_retry_is_a_replay(tmp_path: Path) -> None:
    async with play(tmp_path, "after_commit_before_ack") as (story, conn):
        known, in_doubt = await stored(conn), story.actions(acknowledged=False)
        assert set(story.actions(acknowledged=True)) <= known
        unheard = known & set(in_doubt)
        assert unheard, "somebody's action is stored, and they don't know"
    replayed = {each.action_id for each in in_doubt.values() if each.answers[0].get("replayed")}
    assert replayed == unheard


async def test_killed_between_acknowledgement_and_delivery_the_events_are_caught_up_with(tmp_path: Path) -> None:
    async with play(tmp_path, "after_commit_before_delivery") as (story, conn):
        acknowledged = story.actions(acknowledged=True)
        assert set(acknowledged) == await stored(conn), "the last acknowledgements have left, too"
        heads = dict(await conn.fetch("SELECT user_id, seq FROM heads"))
        behind = [fan for fan in story.fans if fan.last_seq < heads[fan.user_id]]
        assert behind, "somebody was told that they were paid, and has not heard of the event"
    assert all(not each.answers[0].get("replayed") for each in acknowledged.values())


async def test_a_pause_holds_up_the_answer_and_nothing_else(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "data", FAILPOINTS="after_receipt=pause:500ms")
    await asyncio.to_thread(gateway.start)
    stage = Stage(gateway)
    phone = await stage.phone(await stage.person(follows=VIEWER))
    video = await stage.video(await stage.person())
    began = time.monotonic()
    acting = asyncio.create_task(phone.do("video:like", videoId=video, actionId=action_id()))
    assert (await gateway.ask("GET", "/livez", token="")).status == 200
    assert not acting.done()
    await acting
    assert time.monotonic() - began >= 0.5
    await stage.close()
    assert gateway.stop() == 0
    assert "failpoints_armed" in gateway.log


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("after_recipe=kill", "did you mean after_receipt?"),
        ("nonsense", "there are after_receipt, after_commit_before_ack, after_commit_before_delivery"),
        ("after_receipt=explode", "a point is written POINT=kill, POINT=kill:N or POINT=pause:2s"),
        ("after_receipt=kill,after_receipt=kill:2", "given twice"),
    ],
)
def test_what_is_no_failpoint_stops_the_start(tmp_path: Path, given: str, said: str) -> None:
    done = Gateway(tmp_path / "data", FAILPOINTS=given).run("serve", "--port", "0")
    assert done.returncode == EXIT_BAD_CONFIGURATION
    assert said in done.stderr
    assert "failpoints" in done.stderr


@pytest.mark.parametrize(
    "text", ["kill:0", "kill:-1", "kill:x", "pause", "pause:2", "pause:2h", "pause:-1s", "", "kill:"]
)
def test_what_can_happen_is_two_things(text: str) -> None:
    with pytest.raises(BadFailpoint):
        parse([f"after_receipt={text}"])


def test_points_as_they_are_written() -> None:
    assert parse([]) == {}
    written = ["after_receipt=kill", "after_commit_before_ack = kill:3", "after_commit_before_delivery=pause:1.5s"]
    written.append("after_egress_before_place=pause:20ms")
    meant = [Failpoint(1, 0), Failpoint(3, 0), Failpoint(0, 1.5), Failpoint(0, 0.02)]
    assert parse(written) == dict(zip(POINTS, meant, strict=True))
    assert parse(["after_receipt=pause:250ms"]) == {"after_receipt": Failpoint(0, 0.25)}


async def test_a_point_that_is_not_set_is_passed() -> None:
    points = Failpoints(parse(["after_receipt=kill:2"]))
    await points.reach("after_receipt")
    await points.reach("after_commit_before_ack")
