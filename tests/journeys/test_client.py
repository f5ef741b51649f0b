"""The reference client `/applause.js` on a network that loses acks: nothing is lost, nothing is paid twice."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.support.apps import App, Device, start_device
from tests.support.clients import PATIENCE_S
from tests.support.network import Fate, Network
from tests.support.server import Gateway, running
from tests.support.stage import VIEWER, Stage, action_id

HASTE_MS: Final = 300  # for answers that do not come
DAY_MS: Final = 86_400_000
FATES: Final[tuple[Fate, ...]] = ("pass", "drop", "cut", "half-close", "late")

transports = pytest.mark.parametrize("official", [False, True], ids=["own", "official"])
storages = pytest.mark.parametrize("slow", [False, True], ids=["localStorage", "AsyncStorage"])


class Shelf:
    """The client as a server gives it, the devices that it runs on, and a storage that survives them."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self._stage = stage
        self._folder = folder
        self._devices: list[Device] = []
        self.storage = folder / "storage"

    async def app(self, user: int, url: str = "", *tokens: str, device: Device | None = None, **options: Any) -> App:
        """An app of `user` that begins to connect; on a device of its own unless one is given."""
        device = device or await self.device()
        name = f"app-{len(device.phones)}"
        app = App(device, name)
        device.phones[name] = app
        self._stage.phones.append((user, app))
        server = self._stage.server
        await app.begin(url or server.url, *(tokens or [server.token(user)]), **options)
        return app

    async def device(self) -> Device:
        module = self._folder / "applause.mjs"
        if not module.exists():
            module.write_text(await served_client(self._stage.server))
        device = await start_device(module)
        self._devices.append(device)
        return device

    def path(self, name: str) -> Path:
        """Where the storage holds what is under a key that ends so."""
        return next(self.storage.glob(f"*%3A{name}"), self.storage / name)

    def kept(self, name: str) -> Any:
        """What is kept so; an empty list where nothing is."""
        path = self.path(name)
        return json.loads(path.read_text()) if path.exists() else []

    async def close(self) -> None:
        await asyncio.gather(*(device.stop() for device in self._devices))


@pytest.fixture
async def shelf(stage: Stage, tmp_path: Path) -> AsyncIterator[Shelf]:
    """Devices on the server that the journeys share."""
    shelf = Shelf(stage, tmp_path)
    yield shelf
    await shelf.close()


async def served_client(server: Gateway) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/applause.js") as response:
        assert response.status == 200
        return await response.text()


async def viewer_and_videos(stage: Stage, count: int) -> tuple[int, list[str]]:
    """Somebody who earns, and videos that nobody of theirs owns."""
    viewer, creator = await stage.person(follows=VIEWER), await stage.person()
    return viewer, [await stage.video(creator) for _ in range(count)]


def earned(app: App) -> list[tuple[str, str]]:
    """(action, video) of what was paid, in the order of the inbox."""
    return [(event["data"]["action"], event["data"]["metadata"]["videoId"]) for event in app.events("points_earned")]


def like(video: str) -> tuple[str, dict[str, Any]]:
    return "video:like", {"videoId": video}


# -- actions -----------------------------------------------------------------------------------------------------------


@transports
async def test_a_network_that_loses_acks_loses_no_action_and_pays_none_twice(
    stage: Stage, shelf: Shelf, official: bool
) -> None:
    viewer, videos = await viewer_and_videos(stage, 10)
    lots = random.Random(official)
    async with Network(stage.server.port) as network:
        app = await shelf.app(viewer, network.url, official=official, ackTimeoutMs=HASTE_MS)
        await app.online()
        network.meet([*FATES, *lots.choices(FATES, k=25)])
        actions = [(event, {"videoId": video}) for video in videos for event in ("video:like", "video:share")]
        answers = await asyncio.gather(*await app.acts(*actions))

        assert {answer["ok"] for answer in answers} == {True}
        assert len(network.lost) > 5
        settled = [(one["event"], one["payload"]["videoId"]) for one in app.of("settled")]
        assert settled == [(event, payload["videoId"]) for event, payload in actions], "in the order of `act`"
        assert sum(one["ack"].get("replayed", False) for one in app.of("settled")) > 3
        assert await stage.balance(viewer) == (10 * 1 + 10 * 2, 20)
        await app.caught_up(20)
        assert earned(app) == [(f"{event.replace(':', '_')}d", video) for event, video in settled]
        assert [event["seq"] for event in app.events()] == list(range(1, 21))
        async with stage.server.database() as conn:
            assert await conn.fetchval("SELECT count(*) FROM requests WHERE user_id = $1", viewer) == 20
        assert (await app.snapshot())["outbox"] == []
        await app.close()


@transports
async def test_what_was_done_offline_is_sent_in_order_and_toggles_stay_toggles(
    stage: Stage, shelf: Shelf, official: bool
) -> None:
    viewer, [video] = await viewer_and_videos(stage, 1)
    async with Network(stage.server.port) as network:
        app = await shelf.app(viewer, network.url, official=official)
        await app.online()
        await app.tell("close")
        await app.hear("disconnect")
        toggles = [(f"video:{verb}", {"videoId": video}) for verb in ("like", "unlike", "like", "unlike")]
        tasks = await app.acts(*toggles)
        assert [one["event"] for one in (await app.snapshot())["outbox"]] == [event for event, _ in toggles]
        await app.tell("reopen")
        answers = await asyncio.gather(*tasks)
        assert [answer["data"]["total"] for answer in answers] == [1, 0, 1, 0]
        assert [answer["data"].get("reason") for answer in answers] == [None, None, "already_paid", None]
        await app.close()


@storages
@transports
async def test_the_outbox_survives_a_killed_process(stage: Stage, shelf: Shelf, official: bool, slow: bool) -> None:
    viewer, videos = await viewer_and_videos(stage, 4)
    kept = {"folder": shelf.storage, "slow": slow, "official": official}
    async with Network(stage.server.port) as network:
        device = await shelf.device()
        app = await shelf.app(viewer, network.url, device=device, **kept)
        await app.online()
        network.meet(["drop"])
        await app.acts(like(videos[0]))
        async with asyncio.timeout(PATIENCE_S):
            while not network.lost:  # it is stored and paid, and nobody knows
                await asyncio.sleep(0.01)
        await app.acts(*map(like, videos[1:]))
        await app.hear("notification")
        async with asyncio.timeout(PATIENCE_S):
            while len(shelf.kept("outbox")) < 4:
                await asyncio.sleep(0.01)
        waiting = [one["actionId"] for one in app.of("outbox")[-1]]
        await device.kill()
        assert (await stage.balance(viewer))[0] == 1

        again = await shelf.app(viewer, **kept)
        settled = await again.hear("settled", 4)
        assert [one["actionId"] for one in settled] == waiting
        assert [one["ack"].get("replayed", False) for one in settled] == [True, False, False, False]
        await again.caught_up(4)
        assert await stage.balance(viewer) == (4, 4)
        assert (await again.snapshot())["outbox"] == []


@transports
async def test_a_connection_that_is_dead_without_a_word_is_left(stage: Stage, shelf: Shelf, official: bool) -> None:
    viewer, [video] = await viewer_and_videos(stage, 1)
    async with Network(stage.server.port) as network:
        app = await shelf.app(viewer, network.url, official=official, ackTimeoutMs=HASTE_MS)
        await app.online()
        network.dark = True
        [task] = await app.acts(like(video))
        await app.hear("disconnect")
        network.dark = False
        network.cut()
        assert (await task)["data"]["award"]["points"] == 1
        assert await stage.balance(viewer) == (1, 1)
        await app.close()


async def test_a_final_refusal_leaves_the_outbox_and_the_next_is_sent(stage: Stage, shelf: Shelf) -> None:
    viewer, [video] = await viewer_and_videos(stage, 1)
    app = await shelf.app(viewer)
    unknown = app.act("video:like", videoId="nowhere")
    wrong = app.act("video:like", videoId=7)
    assert (await app.act("video:like", videoId=video))["ok"]
    for task, code in ((unknown, "not_found"), (wrong, "invalid_payload")):
        error = (await task)["error"]
        assert (error["code"], error["field"], error["retryable"]) == (code, "videoId", False)
    assert [one["ack"]["ok"] for one in app.of("settled")] == [False, False, True]
    assert (await app.snapshot())["outbox"] == []


async def test_what_could_never_be_sent_is_refused_at_once(stage: Stage, shelf: Shelf) -> None:
    """An action that breaks the connection would do so again after each reload."""
    viewer, [video] = await viewer_and_videos(stage, 1)
    for official in (False, True):
        app = await shelf.app(viewer, official=official)
        large, reserved = app.act("video:comment", videoId=video, text="€" * 22_000), app.act("disconnect")
        assert [(await task)["error"]["code"] for task in (large, reserved)] == ["payload_too_large", "unknown_event"]
        assert (await app.act("video:like", videoId=video))["ok"]
        assert app.of("refused") == []


async def test_a_full_outbox_says_so(stage: Stage, shelf: Shelf) -> None:
    viewer, videos = await viewer_and_videos(stage, 3)
    app = await shelf.app(viewer, outboxLimit=2)
    await app.online()
    await app.tell("close")
    tasks = await app.acts(*map(like, videos[:2]))
    error = (await app.act("video:like", videoId=videos[2]))["error"]
    assert (error["code"], error["retryable"]) == ("outbox_full", True)
    await app.tell("reopen")
    assert all(answer["ok"] for answer in await asyncio.gather(*tasks))
    assert (await app.act("video:like", videoId=videos[2]))["ok"]


async def test_who_is_limited_waits_and_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path / "data", LIMITS__ACTIONS_PER_SECOND=2) as server:
        stage = Stage(server)
        shelf = Shelf(stage, tmp_path)
        try:
            viewer, videos = await viewer_and_videos(stage, 7)
            app = await shelf.app(viewer)
            answers = await asyncio.gather(*await app.acts(*map(like, videos)))
            assert {answer["ok"] for answer in answers} == {True}
            assert [video for _, video in earned(app)] == videos
        finally:
            await stage.close()
            await shelf.close()


async def test_an_action_that_waited_longer_than_the_server_remembers_is_given_up(stage: Stage, shelf: Shelf) -> None:
    viewer, videos = await viewer_and_videos(stage, 2)
    device = await shelf.device()
    app = await shelf.app(viewer, "http://127.0.0.1:9", device=device, folder=shelf.storage)
    await app.acts(*map(like, videos))
    await device.kill()
    outbox = shelf.kept("outbox")
    outbox[0]["at"] -= 7 * DAY_MS
    shelf.path("outbox").write_text(json.dumps(outbox))

    again = await shelf.app(viewer, folder=shelf.storage)
    old, new = await again.hear("settled", 2)
    assert (old["ack"]["error"]["code"], old["ack"]["error"]["outcome"]) == ("expired", "unknown")
    assert new["ack"]["ok"]
    assert await stage.balance(viewer) == (1, 1)


# -- events ------------------------------------------------------------------------------------------------------------


@storages
@transports
async def test_an_app_that_was_killed_goes_on_exactly_where_its_handlers_were(
    stage: Stage, shelf: Shelf, official: bool, slow: bool
) -> None:
    viewer, videos = await viewer_and_videos(stage, 6)
    acting = await stage.phone(viewer)

    async def happen(video: str) -> None:
        await acting.do("video:like", videoId=video, actionId=action_id())

    kept = {"folder": shelf.storage, "slow": slow, "official": official}
    device = await shelf.device()
    app = await shelf.app(viewer, device=device, **kept)
    await app.online()
    assert app.of("reload") == [{"seq": 0, "epoch": app.welcome["epoch"], "first": True}]
    await happen(videos[0])
    await happen(videos[1])
    await app.caught_up(2)
    while (await app.snapshot())["lastSeq"] != 2 or (shelf.kept("place") or {"seq": 0})["seq"] != 2:
        await asyncio.sleep(0.01)
    await app.tell("listen", name="notification", how="never")
    await happen(videos[2])
    await happen(videos[3])
    await app.caught_up(4)
    assert (await app.snapshot())["lastSeq"] == 2, "the handlers have not come to an end"
    await device.kill()
    await happen(videos[4])

    again = await shelf.app(viewer, **kept)
    await again.online()
    assert (again.welcome["complete"], again.of("reload")) == (True, [])
    assert [event["seq"] for event in again.events()] == [3, 4, 5]
    assert again.of("resumed") == [{"seq": 5, "replayed": 3}]
    await happen(videos[5])
    await again.caught_up(6)


@transports
async def test_cuts_neither_lose_nor_double_an_event(stage: Stage, shelf: Shelf, official: bool) -> None:
    viewer, videos = await viewer_and_videos(stage, 8)
    acting = await stage.phone(viewer)
    async with Network(stage.server.port) as network:
        app = await shelf.app(viewer, network.url, official=official)
        await app.online()
        await app.tell("listen", name="notification", how="never")  # what is still handled is not told again either
        for turn, video in enumerate(videos, 1):
            if turn % 3 == 0:
                network.cut()
            await acting.do("video:like", videoId=video, actionId=action_id())
            if turn % 3 == 0:
                await app.online(1 + turn // 3)
        await app.caught_up(8)
        assert [event["seq"] for event in app.events()] == list(range(1, 9))
        await app.close()


async def test_a_gap_is_told_until_the_app_has_reloaded(stage: Stage, shelf: Shelf) -> None:
    viewer, videos = await viewer_and_videos(stage, 4)
    acting = await stage.phone(viewer)
    device = await shelf.device()
    app = await shelf.app(viewer, device=device, folder=shelf.storage)
    await app.online()
    for video in videos[:3]:
        await acting.do("video:like", videoId=video, actionId=action_id())
    await app.caught_up(3)
    await app.tell("close")
    await app.hear("disconnect")
    async with stage.server.database() as conn:  # as if what follows had been trimmed
        await conn.execute("UPDATE heads SET oldest_seq = 5 WHERE user_id = $1", viewer)
    await acting.do("video:like", videoId=videos[3], actionId=action_id())
    await app.tell("listen", name="reload", how="fail")
    await app.tell("reopen")
    await app.online(2)
    assert await app.hear("uncaught") == ["reload failed"]
    assert app.events()[3:] == []
    assert (await app.snapshot())["lastSeq"] == 3
    await device.kill()

    again = await shelf.app(viewer, folder=shelf.storage)
    await again.online()
    gap = {"seq": 4, "epoch": again.welcome["epoch"], "first": False}
    assert [*app.of("reload")[1:], *again.of("reload")] == [gap, gap]
    assert (await again.snapshot())["lastSeq"] == shelf.kept("place")["seq"] == 4
    async with stage.server.database() as conn:
        await conn.execute("UPDATE heads SET oldest_seq = 1 WHERE user_id = $1", viewer)


# -- tokens and ends ---------------------------------------------------------------------------------------------------


@transports
async def test_a_token_is_renewed_before_its_end(stage: Stage, shelf: Shelf, official: bool) -> None:
    """One of 65 s five seconds on, one that is in its last minute already when half of it is over."""
    viewer, server = await stage.person(), stage.server
    device = await shelf.device()
    usual, short = [
        await shelf.app(viewer, "", server.token(viewer, ttl_s=ttl_s), server.token(viewer), device=device,
                        official=official)
        for ttl_s in (65, 4)
    ]  # fmt: skip
    began = time.monotonic()
    assert await short.hear("token", 2) == [{"fresh": False}, {"fresh": True}]
    assert time.monotonic() - began > 1
    assert await usual.hear("token", 2) == [{"fresh": False}, {"fresh": True}]
    await asyncio.sleep(max(0, began + 5 - time.monotonic()))  # beyond the end of the short one
    for app in (usual, short):
        assert (await app.do("wallet:get"))["balances"] is not None
        assert (app.of("closing"), app.of("disconnect"), len(app.of("token"))) == ([], [], 2)


@transports
async def test_a_token_that_is_refused_is_replaced_once(stage: Stage, shelf: Shelf, official: bool) -> None:
    viewer, server = await stage.person(), stage.server
    over, good = server.token(viewer, ttl_s=-5), server.token(viewer)
    device = await shelf.device()
    app = await shelf.app(viewer, "", over, good, device=device, official=official)
    await app.online()
    assert (app.of("token"), app.of("refused")) == ([{"fresh": False}, {"fresh": True}], [])

    other = await shelf.app(viewer, "", over, "no token", device=device, official=official)
    [refused] = await other.hear("refused")
    assert (refused["code"], len(other.of("token"))) == ("token_invalid", 2)
    assert (await other.snapshot())["state"] == "refused"
    await other.tell("tokens", tokens=[good])  # somebody has logged in again
    await other.tell("reopen")
    await other.online()


@transports
async def test_who_is_told_to_stay_away_does(stage: Stage, shelf: Shelf, official: bool) -> None:
    viewer, server = await stage.person(), stage.server
    app = await shelf.app(viewer, official=official, deviceId="phone")
    await app.online()
    await stage.phone(viewer, deviceId="phone")
    [refused] = await app.hear("refused")
    assert (refused["code"], app.of("closing")[0]["code"]) == ("replaced", "replaced")

    clumsy = await shelf.app(viewer, official=official)
    await clumsy.online()
    await asyncio.gather(*(clumsy.call("wallet:get", {"no": number}) for number in range(10)))
    assert (await clumsy.hear("refused"))[0]["code"] == "too_many_errors"

    await server.ask("PUT", f"/v1/users/{viewer}", {"username": "gone", "status": "suspended"})
    suspended = await shelf.app(viewer, official=official)
    assert (await suspended.hear("refused"))[0]["code"] == "user_suspended"
    for each in (app, clumsy, suspended):
        assert (await each.snapshot())["state"] == "refused"
        assert len(each.of("token")) == 1, "none of them has tried again"
    await server.ask("PUT", f"/v1/users/{viewer}", {"username": "back", "status": "active"})


@transports
async def test_a_server_that_goes_away_is_come_back_to(hasty_stage: Stage, tmp_path: Path, official: bool) -> None:
    stage, shelf = hasty_stage, Shelf(hasty_stage, tmp_path)
    try:
        viewer, videos = await viewer_and_videos(stage, 2)
        app = await shelf.app(viewer, official=official)
        assert (await app.act("video:like", videoId=videos[0]))["ok"]
        await asyncio.to_thread(stage.server.stop)
        await app.hear("disconnect")
        [closing] = app.of("closing")
        assert (closing["code"], closing["retryable"], "reconnectAfterMs" in closing) == ("draining", True, True)
        [task] = await app.acts(like(videos[1]))
        await asyncio.to_thread(stage.server.start)
        assert (await task)["data"]["award"]["points"] == 1
        await app.caught_up(2)
        assert app.of("resumed")[-1] == {"seq": 1, "replayed": 0}
        await app.close()
    finally:
        await shelf.close()


# -- several on one storage --------------------------------------------------------------------------------------------


@storages
async def test_a_second_tab_takes_over_and_the_first_can_take_back(stage: Stage, shelf: Shelf, slow: bool) -> None:
    viewer, videos = await viewer_and_videos(stage, 3)
    kept = {"folder": shelf.storage, "slow": slow}
    async with Network(stage.server.port) as network:
        first = await shelf.app(viewer, network.url, **kept)
        await first.online()
        await first.tell("close")
        await first.hear("disconnect")
        tasks = await first.acts(*map(like, videos[:2]))
        async with asyncio.timeout(PATIENCE_S):
            while len(shelf.kept("outbox")) < 2:
                await asyncio.sleep(0.01)

        second = await shelf.app(viewer, **kept)
        assert [one["ack"]["ok"] for one in await second.hear("settled", 2)] == [True, True]
        assert (await first.act("video:like", videoId=videos[2]))["error"]["code"] == "replaced"
        for error in [answer["error"] for answer in await asyncio.gather(*tasks)]:
            assert (error["code"], error["outcome"]) == ("replaced", "unknown")
        assert (await first.snapshot())["state"] == "refused"

        await first.tell("reopen")
        await first.online(2)
        assert (await second.hear("refused"))[0]["code"] == "replaced"
        assert (await first.act("video:like", videoId=videos[2]))["ok"]
        assert await stage.balance(viewer) == (3, 3)
        await first.close()


async def test_an_action_is_sent_as_the_user_who_made_it(stage: Stage, shelf: Shelf) -> None:
    viewer, [video] = await viewer_and_videos(stage, 1)
    other = await stage.person(follows=VIEWER)
    device = await shelf.device()
    app = await shelf.app(viewer, device=device, folder=shelf.storage)
    await app.online()
    await app.tell("close")
    await app.acts(like(video))
    await device.kill()

    stranger = await shelf.app(other, folder=shelf.storage)
    await stranger.online()
    assert stranger.of("reload") == [{"seq": 0, "epoch": stranger.welcome["epoch"], "first": True}]
    assert (await stranger.act("video:view", videoId=video))["ok"], "the other one's action holds nothing up"
    assert await stage.balance(viewer) == (0, 0)
    await stranger.close()

    back = await shelf.app(viewer, folder=shelf.storage)
    assert (await back.hear("settled"))[0]["event"] == "video:like"
    assert await stage.balance(viewer) == (1, 1)


async def test_forgetting_leaves_nothing(stage: Stage, shelf: Shelf) -> None:
    viewer, [video] = await viewer_and_videos(stage, 1)
    app = await shelf.app(viewer, folder=shelf.storage)
    await app.online()
    await app.tell("close")
    [task] = await app.acts(like(video))
    await app.tell("forget")
    await app.hear("forgotten")
    assert (await task)["error"]["code"] == "forgotten"
    assert [path.name for path in shelf.storage.iterdir()] == ["applause%3AdeviceId"]
    await app.tell("reopen")
    await app.online(2)
    assert (await app.act("video:like", videoId=video))["ok"]


# -- where it comes from -----------------------------------------------------------------------------------------------


async def test_every_gateway_serves_it_to_every_page(server: Gateway) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{server.url}/applause.js") as response:
            body = await response.read()
            assert response.content_type == "text/javascript"
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            tag = response.headers["ETag"]
        assert b"\nimport " not in body, "it is importable alone"
        async with http.get(f"{server.url}/applause.js", headers={"If-None-Match": tag}) as response:
            assert (response.status, response.headers["ETag"], await response.read()) == (304, tag, b"")
        async with http.head(f"{server.url}/applause.js") as response:
            assert (response.status, int(response.headers["Content-Length"])) == (200, len(body))
