"""A server that lies is found out, and the exit status says so."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.crew import Checked, Door
from loadtest.phone import Address
from loadtest.promises import Kept, check_replays, check_totals, check_witnesses
from loadtest.witness import CHAIN, NO_GAP, Witness
from tests.loadtest.fake import NOTHING_STORED, SECRET, OnRequest, faking, paid

KEPT = [Kept(number, "video:like", b'{"videoId":"v","actionId":"12345678"}', 100) for number in range(1, 31)]
PATIENCE_S = 0.3


def door(port: int) -> Door:
    return Door(Address("127.0.0.1", port, b'42["resumed"'), SECRET)


def answering(status: int, body: Any) -> OnRequest:
    return lambda method, path, asked: (status, body)


async def test_a_server_that_acknowledges_without_storing_ends_with_status_1(tmp_path: Path) -> None:
    async with faking(paid) as port:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "loadtest", "likes", "--url", f"http://127.0.0.1:{port}",
            "--token-secret", SECRET, "--seconds", "0.5", "--connections", "4", "--rate", "50",
            "--patience", "0.3", "--json", "report.json", "--html", "report.html",
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
    assert process.returncode == 1, out + err
    problems = json.loads((tmp_path / "report.json").read_text())["problems"]
    for found in ("promise 1, acknowledged actions", "promise 1, videos' totals", "promise 3, balances"):
        assert any(found in problem for problem in problems), problems
    assert b"PROBLEM: promise 1" in out
    assert "Not as promised" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("status", "body", "broken"),
    [
        (200, {"ok": True, "replayed": True, "data": {"award": {"points": 1, "newBalance": 9}}}, (0, 0)),
        (200, {"ok": True, "data": {"award": {"points": 1, "newBalance": 9}}}, (30, 0)),  # done anew
        (200, {"ok": True, "replayed": True, "data": {"award": {"points": 2, "newBalance": 9}}}, (0, 30)),
        (200, {"ok": True, "replayed": True, "data": {"award": None}}, (0, 30)),
        (409, {"code": "idempotency_conflict"}, (30, 0)),
        (200, ["nonsense"], (30, 0)),
    ],
)
async def test_a_retry_must_be_a_replay_of_the_first(status: int, body: Any, broken: tuple[int, int]) -> None:
    async with faking(paid, answering(status, body)) as port:
        stored, once = await check_replays(door(port), KEPT)
    assert (stored.count, once.count) == (30, 30)
    assert (stored.broken, once.broken) == broken
    assert len(stored.examples) <= 5


@pytest.mark.parametrize(
    ("seq", "balance", "broken"), [(3, 4.5, (0, 0)), (4, 4.5, (1, 0)), (2, 4.5, (1, 0)), (3, 4.49, (0, 1))]
)
async def test_inbox_and_balance_must_be_as_told(seq: int, balance: float, broken: tuple[int, int]) -> None:
    witness = Witness(7, Checked(4, NO_GAP), Checked(3, CHAIN))
    witness.seq, witness.balance, witness.earned, witness.acked = 3, 450, 100, 100
    stored = NOTHING_STORED | {"seq": seq, "balances": [{"currency": "LYK", "balance": balance, "reserved": 0}]}
    async with faking(paid, answering(200, stored)) as port:
        heads, balances = await check_witnesses(door(port), {7: witness}, PATIENCE_S)
    assert (heads.broken, balances.broken) == broken


async def test_what_is_on_its_way_is_waited_for() -> None:
    witness = Witness(7, Checked(4, NO_GAP), Checked(3, CHAIN))
    witness.seq = 1
    asked = 0

    def late(method: str, path: str, body: Any) -> tuple[int, Any]:
        nonlocal asked
        asked += 1
        if asked == 3:
            witness.seq = 2  # the event has arrived
        return 200, NOTHING_STORED | {"seq": 2}

    async with faking(paid, late) as port:
        heads, _ = await check_witnesses(door(port), {7: witness}, 30.0)
    assert heads.broken == 0


@pytest.mark.parametrize(("expected", "broken"), [(24, 0), (25, 1), (23, 1)])
async def test_totals_must_come_to_what_was_acknowledged(expected: int, broken: int) -> None:
    totals = {"totalLikes": 1, "totalViews": 2, "totalShares": 3, "totalComments": 2}
    async with faking(paid, answering(200, totals)) as port:
        checked = await check_totals(door(port), ["a", "b", "c"], expected, PATIENCE_S)
    assert checked.broken == broken
