"""SIGTERM: what runs finishes, clients are told and come back by themselves, and nothing is lost."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.clients import wire
from tests.support.stage import VIEWER, Stage, action_id

EXIT_S = 15


async def test_the_official_client_comes_back_to_a_restarted_server_by_itself(hasty_stage: Stage) -> None:
    stage, server = hasty_stage, hasty_stage.server
    viewer = await stage.person(follows=VIEWER)
    creator = await stage.person()
    videos = await asyncio.gather(*(stage.video(creator) for _ in range(5)))
    browser = await stage.js_phone(viewer, follow=True)
    phone = await stage.phone(viewer)
    await phone.do("video:like", videoId=videos[0], actionId=action_id())
    await browser.caught_up(1)
    epoch = browser.welcome["epoch"]

    likes = [{"videoId": video, "actionId": action_id()} for video in videos[1:]]
    running = [asyncio.create_task(phone.call("video:like", like)) for like in likes]
    await asyncio.sleep(0)  # they are sent, and no answer is here yet
    began = time.monotonic()
    server.terminate()
    status = await asyncio.to_thread(server.wait)

    assert status == 0
    assert time.monotonic() - began < EXIT_S
    [closing] = await browser.hear("closing")
    assert (closing["code"], closing["retryable"]) == ("draining", True)
    assert 0 <= closing["reconnectAfterMs"] <= 1_000
    assert (await browser.hear("disconnect")) == ["transport close"], "without a DISCONNECT packet"
    await phone.hear("disconnect")
    answers = [task.result() for task in running if task.done()]
    for task in running:
        task.cancel()

    await asyncio.to_thread(server.start)
    await browser.until(lambda: len(browser.of("resumed")) >= 2, "coming back")
    assert (browser.welcome["complete"], browser.welcome["epoch"]) == (True, epoch)
    again = await stage.phone(viewer)
    for like, answer in zip(likes, answers, strict=False):
        repeated = await again.call("video:like", like)
        assert answer["ok"] is False or repeated == answer | {"replayed": True}, "what was acknowledged is stored"
    for like in likes:
        assert (await again.call("video:like", like))["ok"]
    await browser.caught_up(5)
    assert [event["seq"] for event in browser.events()] == [1, 2, 3, 4, 5]
    assert await stage.balance(viewer) == (5, 5)


async def test_a_drain_waits_for_what_runs_and_lets_nobody_in(hasty_stage: Stage) -> None:
    """An action is held up in the database; until it is through, the server drains: unready, and closed to new ones."""
    stage, server = hasty_stage, hasty_stage.server
    viewer = await stage.person(follows=VIEWER)
    video = await stage.video(await stage.person())
    phone, other = await stage.phone(viewer), await stage.phone(await stage.person())

    async with server.database() as conn, conn.transaction():
        await conn.execute("SELECT FROM heads WHERE user_id = $1 FOR UPDATE", viewer)
        running = asyncio.create_task(phone.call("video:like", {"videoId": video, "actionId": action_id()}))
        while not await conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
        server.terminate()
        while (await server.ask("GET", "/readyz", token="")).status != 503:
            await asyncio.sleep(0.02)
        with pytest.raises(Exception, match="503"):
            async with wire(server.url):
                pass
        assert (await other.fail("draining", "wallet:get"))["retryable"]
        await asyncio.sleep(0.4)  # it goes on waiting
        assert (running.done(), phone.of("closing")) == (False, [])

    assert (await running)["data"]["award"] == {"points": 1, "newBalance": 1}
    [closing] = await phone.hear("closing")
    assert closing["code"] == "draining"
    assert await asyncio.to_thread(server.wait) == 0
    await asyncio.to_thread(server.start)
    assert (await stage.balance(viewer))[0] == 1
