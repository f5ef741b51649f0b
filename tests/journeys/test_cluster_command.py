"""`applause cluster`, as somebody tries it: two phones on different nodes, a node killed, the whole ended."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import redis.asyncio as redis

from storage.embedded import running_dsn
from tests.support.clients import Phone
from tests.support.folders import own_environment
from tests.support.processes import none_is_left, postmaster_of, runs
from tests.support.services import need_kafka, need_valkey

READY: Final = "Ctrl-C ends all."
START_S: Final = 110.0  # Kafka's Java on a busy machine
STOP_S: Final = 40.0
PATIENCE_S: Final = 60.0


class Command:
    """The running command, by what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, data_dir: Path) -> None:
        self.process = process
        self.output = output
        self.data_dir = data_dir

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def urls(self) -> list[str]:
        return re.findall(r"^node \d +(http://\S+)", self.text, re.MULTILINE)

    def pid(self, name: str) -> int:
        found = re.search(rf"^{name} .* process (\d+)", self.text, re.MULTILINE)
        assert found is not None
        return int(found[1])

    def pids(self) -> list[int]:
        return [*map(int, re.findall(r" process (\d+)", self.text)), postmaster_of(self.data_dir)]

    def ports(self) -> list[int]:
        ports = re.findall(r"^(?:node \d|PostgreSQL|Valkey|Kafka) .*?127\.0\.0\.1:(\d+)", self.text, re.MULTILINE)
        return list(map(int, ports))

    def token(self, username: str) -> str:
        found = re.search(rf"^{username} +(\S+)$", self.text, re.MULTILINE)
        assert found is not None
        return found[1]

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, STOP_S)


@asynccontextmanager
async def cluster(data_dir: Path, *options: str) -> AsyncIterator[Command]:
    """The command when it says that all is ready."""
    output = data_dir.with_suffix(f".{time.monotonic_ns()}.txt")
    arguments = ["cluster", "--port", "0", "--data-dir", str(data_dir), *options]
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "gateway", *arguments], stdout=file, stderr=file, env=own_environment()
        )
    command = Command(process, output, data_dir)
    try:
        await until(lambda: READY in command.text or process.poll() is not None, START_S)
        assert process.poll() is None, command.text
        yield command
    finally:
        process.kill()
        process.wait()


async def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(patience_s):
        while not condition():
            await asyncio.sleep(0.05)


async def phone_of(command: Command, username: str, url: str) -> Phone:
    phone = Phone()
    await phone.connect(url, {"token": command.token(username)})
    await phone.hear("resumed")
    return phone


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.timeout(300)
async def test_phones_on_different_nodes_and_nothing_left_behind(tmp_path: Path) -> None:
    need_kafka()
    need_valkey()
    data_dir = tmp_path / "data"
    async with cluster(data_dir) as command:
        first, second, third = command.urls()
        ada, grace = await phone_of(command, "ada", first), await phone_of(command, "grace", second)
        like = await ada.do("video:like", videoId="sunrise", actionId="the-first-like")
        assert (like["total"], like["award"]["points"]) == (1, 1)
        [told] = await grace.told("video_like")
        assert told["data"]["actorId"] == 7

        os.kill(command.pid("node 3"), signal.SIGKILL)
        os.kill(command.pid("Valkey"), signal.SIGKILL)
        await until(lambda: command.text.count('"cluster.ended"') == 2)
        await until(lambda: answers(int(third.rpartition(":")[2])))
        late = await phone_of(command, "grace", third)
        await ada.do("video:share", videoId="sunrise", actionId="the-first-share")
        assert (await late.told("video_share"))[0]["data"]["actorId"] == 7
        address = re.search(r"^Valkey +(\S+)", command.text, re.MULTILINE)
        assert address is not None
        async with redis.from_url(address[1]) as client:
            assert await client.ping()

        pids, ports = command.pids(), command.ports()
        assert len(ports) == 6
        assert all(map(answers, ports))
        command.process.send_signal(signal.SIGINT)
        assert await command.ended() == 0
        assert not any(map(runs, pids))
        assert not any(map(answers, ports))
        for client in (ada, grace, late):
            assert client.of("closing")[-1]["code"] == "draining", "nodes end first, and in order"
    assert running_dsn(data_dir) is None

    async with cluster(data_dir) as command:  # the same data again, and this time there is no order
        again = await phone_of(command, "ada", command.urls()[1])
        assert (await again.do("video:like", videoId="sunrise", actionId="again-it-is-liked"))["already"]
        pids = command.pids()
        command.process.kill()
        await until(lambda: not any(map(runs, pids)))
        await none_is_left(data_dir)


@pytest.mark.timeout(300)
async def test_without_kafka_the_nodes_speak_over_postgresql(tmp_path: Path) -> None:
    async with cluster(tmp_path / "data", "--no-kafka") as command:
        assert "Kafka  " not in command.text
        first, second, _ = command.urls()
        ada, grace = await phone_of(command, "ada", first), await phone_of(command, "grace", second)
        await ada.do("video:like", videoId="bread", actionId="the-first-like")
        await grace.told("video_like")
        pids = command.pids()
        command.process.terminate()
        assert await command.ended() == 0
        assert not any(map(runs, pids))


def test_what_is_missing_is_said_before_anything_starts(tmp_path: Path) -> None:
    java, jar_folder = tmp_path / "java", tmp_path / "jars"
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.2\"' >&2\n")
    java.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "cluster", "--data-dir", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
        env=own_environment() | {"PATH": str(tmp_path), "APPLAUSE_CLUSTER__KAFKA_JARS": str(jar_folder)},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "no Maven" in done.stderr
    assert str(jar_folder) in done.stderr
    assert "--no-kafka" in done.stderr
    assert not (tmp_path / "data" / "pg").exists()


def test_it_takes_no_database_of_others(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "cluster", "--data-dir", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
        env=own_environment() | {"DATABASE_URL": "postgresql://127.0.0.1:1/a"},
    )
    assert done.returncode == 78
    assert "database.url" in done.stderr
