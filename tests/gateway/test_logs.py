"""The log: one bounded line an event, which names what it is about, and never what was sent."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
import structlog

from gateway import logs
from tests.support.clients import PATIENCE_S
from tests.support.server import running
from tests.support.stage import VIEWER, Stage, action_id

ROOT: Final = Path(__file__).parents[2]
TOKEN: Final = jwt.encode({"sub": "7"}, "a secret of more than 32 bytes, really", algorithm="HS256")
PRIVATE: Final = "a very private text"


class Told:
    """What was written to the log."""

    def __init__(self, stream: io.StringIO) -> None:
        self.stream = stream

    def text(self) -> str:
        """All since the last call."""
        text = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        return text

    def lines(self) -> list[dict[str, Any]]:
        """The same, each line of which must be JSON and of bounded length."""
        lines = self.text().splitlines()
        assert all(len(line) <= logs.MAX_LINE for line in lines)
        return [json.loads(line) for line in lines]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """The log as configured, on a standard error that is read; afterwards as it was."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers, root.level
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure("info", "json")
    yield Told(stream)
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level


def test_our_lines_and_libraries_have_one_form(told: Told) -> None:
    structlog.get_logger().info("listening", port=8080)
    structlog.get_logger().debug("not told")
    logging.getLogger("fanout.broker").warning("broker can't talk: %s", "OSError")
    ours, theirs = told.lines()
    assert (ours["event"], ours["level"], ours["port"]) == ("listening", "info", 8080)
    assert (theirs["event"], theirs["level"]) == ("broker can't talk: OSError", "warning")
    assert theirs["logger"] == "fanout.broker"
    assert ours["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "value",
    [
        TOKEN,
        f"Authorization: Bearer {TOKEN}",
        {"token": TOKEN},
        [["x", TOKEN]],
        "bearer of-another-kind",
        "postgresql://applause:hunter2@db/a",
        f"Key is taken\nDETAIL: ({PRIVATE})",
        ValueError(f"first line\n{PRIVATE}"),
    ],
    ids=str,
)
def test_what_must_not_get_out_does_not(told: Told, value: object) -> None:
    structlog.get_logger().warning("x", value=value)
    logging.getLogger("library").warning("%s", value)
    written = str(told.lines())
    for secret in (TOKEN, TOKEN.rpartition(".")[2], "of-another-kind", "hunter2", PRIVATE):
        assert secret not in written


@pytest.mark.parametrize("value", ["x" * 100_000, ["x" * 1000] * 1000, {f"k{n}": "é" * 1000 for n in range(100)}])
def test_a_line_is_bounded_and_json_whatever_is_said(told: Told, value: object) -> None:
    structlog.get_logger().warning("long", value=value)
    structlog.get_logger().warning("many", **{f"v{number}": value for number in range(50)})
    logging.getLogger("library").warning("%s", value)
    first, many, _ = told.lines()
    assert first["event"] == "long"
    assert many["event"] == "many"


def test_of_an_exception_name_and_places_are_told(told: Told) -> None:
    try:
        raise KeyError(PRIVATE)
    except KeyError as error:
        structlog.get_logger().error("task.failed", exc_info=error)
        logging.getLogger("library").exception("it failed")
    ours, theirs = told.lines()
    for line in (ours, theirs):
        assert line["exception"].startswith("Traceback: test_logs.py:")
        assert line["exception"].endswith("test_of_an_exception_name_and_places_are_told > KeyError")
    assert PRIVATE not in str((ours, theirs))


def test_what_is_bound_to_a_request_is_named_by_every_line(told: Told) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-1", user_id=7):
        structlog.get_logger().error("http_fault")
        logging.getLogger("library").warning("oh")
    structlog.get_logger().error("http_fault")
    inside, library, outside = told.lines()
    assert (inside["request_id"], inside["user_id"], library["request_id"]) == ("r-1", 7, "r-1")
    assert "request_id" not in outside


def test_text_is_for_people(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", told.stream)
    logs.configure("info", "text")
    structlog.get_logger().info("listening", port=8080, token=TOKEN)
    line = told.text()
    assert "listening" in line
    assert "port=8080" in line
    assert not line.startswith("{")
    assert TOKEN not in line


def test_the_list_of_events_is_the_truth() -> None:
    """Every event that our code tells is in the list, and no other."""
    assert told_events() == set(logs.EVENTS)


def told_events() -> set[str]:
    """The first arguments of all calls of a structlog logger."""
    found: set[str] = set()
    for path in [each for room in ("gateway", "handlers", "storage", "fanout") for each in (ROOT / room).rglob("*.py")]:
        source = path.read_text()
        if "structlog.get_logger" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            owner = ast.unparse(node.func.value)
            if owner in ("log", "self._log") and node.func.attr in ("debug", "info", "warning", "error", "exception"):
                assert isinstance(node.args[0], ast.Constant), f"{path}: an event's name is a constant"
                found.add(str(node.args[0].value))
    return found


# -- a real server -----------------------------------------------------------------------------------------------------


async def test_only_what_is_slow_or_wrong_has_a_line_and_it_names_whose(tmp_path: Path) -> None:
    async with running(tmp_path / "data", LOG__SLOW_ACTION_MS=300) as server:
        stage = Stage(server)
        viewer = await stage.person(follows=VIEWER)
        videos = [await stage.video(await stage.person()) for _ in range(10)]
        phone = await stage.phone(viewer)
        for video in videos:
            await phone.do("video:like", videoId=video, actionId=action_id())
            await phone.call("video:like", {"videoId": video, "note": PRIVATE}) if video == videos[0] else None
            await server.ask("GET", "/v1/me", token=server.token(viewer))
        before = lines_of(server.log)
        assert [line["event"] for line in before] == ["listening"]

        slow = action_id()
        async with server.database() as conn:
            async with conn.transaction():
                await conn.execute("SELECT FROM heads WHERE user_id = $1 FOR UPDATE", viewer)
                waiting = asyncio.create_task(phone.call("video:view", {"videoId": videos[0], "actionId": slow}))
                await asyncio.sleep(0.4)
            assert (await waiting)["ok"]
            async with conn.transaction():
                await conn.execute("LOCK TABLE accounts")
                token = server.token(viewer)
                asked = asyncio.create_task(server.ask("GET", "/v1/wallet", token=token))
                await asyncio.sleep(0.4)
            answer = await asked
        lines = await until_told(server, "action_slow", "http_slow")
        action, request = (
            next(line for line in lines if line["event"] == each) for each in ("action_slow", "http_slow")
        )
        assert (action["action"], action["user_id"], action["action_id"]) == ("video:view", viewer, slow)
        assert action["took_ms"] >= 300
        assert (request["route"], request["method"], request["status"]) == ("/v1/wallet", "GET", 200)
        assert (request["user_id"], request["request_id"]) == (viewer, answer.headers["X-Request-Id"])
        await stage.close()
        assert server.stop() == 0
        assert PRIVATE not in server.log
        assert token not in server.log
        assert {line["event"] for line in lines_of(server.log)} <= set(logs.EVENTS)


def lines_of(log: str) -> list[dict[str, Any]]:
    """All lines but the one that tells people where it listens."""
    return [json.loads(line) for line in log.splitlines() if not line.startswith("Applause is ready at ")]


async def until_told(server: Any, *events: str) -> list[dict[str, Any]]:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not set(events) <= {line["event"] for line in lines_of(server.log)}:
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not all of {events} in:\n{server.log}")
    return lines_of(server.log)
