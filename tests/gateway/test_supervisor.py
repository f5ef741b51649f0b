"""The supervisor: no task is lost, no death goes unnoticed."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from gateway import supervisor
from gateway.supervisor import Supervisor


async def forever(ended: list[str] | None = None, name: str = "") -> None:
    try:
        await asyncio.Event().wait()
    finally:
        if ended is not None:
            ended.append(name)


async def fail(after_s: float = 0) -> None:
    await asyncio.sleep(after_s)
    raise ValueError("no more")


async def test_a_service_that_fails_is_reported_with_its_reason() -> None:
    owner = Supervisor()
    owner.start("calm", forever())
    owner.start("broken", fail())
    death = await asyncio.wait_for(owner.died(), 1)
    assert str(death) == "the service broken ended by itself: ValueError: no more"
    assert isinstance(death.__cause__, ValueError)
    await owner.stop()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_service_that_just_ends_is_reported_too(cancelled: bool) -> None:
    owner = Supervisor()
    task = owner.start("brief", asyncio.sleep(60 if cancelled else 0))
    if cancelled:
        await asyncio.sleep(0)
        task.cancel()
    death = await asyncio.wait_for(owner.died(), 1)
    assert str(death) == "the service brief ended by itself: it returned"


async def test_who_waits_for_a_death_may_be_cancelled_and_another_may_wait() -> None:
    owner = Supervisor()
    owner.start("broken", fail(0.05))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(owner.died(), 0.01)
    assert (await asyncio.wait_for(owner.died(), 1)).name == "broken"


async def test_stopping_ends_everything_the_last_service_first() -> None:
    owner, ended = Supervisor(), list[str]()
    for name in ("first", "second"):
        owner.start(name, forever(ended, name))
    owner.spawn(forever(ended, "short"))
    await asyncio.sleep(0)
    await owner.stop()
    await owner.stop()
    assert ended == ["second", "first", "short"]
    with pytest.raises(TimeoutError):  # being stopped is no death
        await asyncio.wait_for(owner.died(), 0.01)


async def test_a_short_task_that_fails_is_logged_and_ends_nothing() -> None:
    with capture_logs() as logs:
        owner = Supervisor()
        owner.spawn(fail(), name="errand")
        await asyncio.sleep(0.01)
    assert [(each["event"], each["task"]) for each in logs] == [("task.failed", "errand")]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(owner.died(), 0.01)


async def test_a_task_that_does_not_end_is_named_and_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_PATIENCE_S", 0.01)
    let_go = asyncio.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    with capture_logs() as logs:
        owner = Supervisor()
        task = owner.start("stubborn", stubborn())
        await asyncio.sleep(0)
        await owner.stop()
    assert [(each["event"], each["task"]) for each in logs] == [("task.does_not_end", "stubborn")]
    let_go.set()
    await task
