"""Kafka and Valkey of our own: nothing acknowledged is lost, nothing is left behind, and one process has a folder."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import redis.asyncio as redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from gateway.cluster import jars, service
from gateway.cluster.kafka import EmbeddedKafka, kafka_missing
from gateway.cluster.service import EmbeddedService
from gateway.cluster.valkey import EmbeddedValkey, valkey_missing
from storage.child import EmbeddedFailed
from storage.folder import FolderBusy
from tests.support.processes import runs
from tests.support.services import need_kafka, need_valkey

PROJECT: Final = Path(__file__).parents[3]
TOPIC: Final = "kept"

# A process that runs a service until it is killed.
HOLDING: Final = """
import asyncio, sys
from pathlib import Path
from gateway.cluster.kafka import EmbeddedKafka
from gateway.cluster.valkey import EmbeddedValkey

async def hold():
    server = {"kafka": EmbeddedKafka, "valkey": EmbeddedValkey}[sys.argv[1]](Path(sys.argv[2]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(100)

asyncio.run(hold())
"""


@pytest.fixture(params=["kafka", "valkey"])
def kind(request: pytest.FixtureRequest) -> str:
    need_kafka() if request.param == "kafka" else need_valkey()
    return str(request.param)


def made(kind: str, folder: Path) -> EmbeddedService:
    return EmbeddedKafka(folder) if kind == "kafka" else EmbeddedValkey(folder)


async def write(server: EmbeddedService, *words: str) -> None:
    """Return when the server has acknowledged the words."""
    if isinstance(server, EmbeddedValkey):
        async with redis.from_url(server.url) as client:
            await client.rpush(TOPIC, *words)
        return
    admin = AIOKafkaAdminClient(bootstrap_servers=server.address)
    await admin.start()
    if TOPIC not in await admin.list_topics():
        await admin.create_topics([NewTopic(TOPIC, 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=server.address, acks="all") as producer:
        for word in words:
            await producer.send_and_wait(TOPIC, word.encode())


async def read(server: EmbeddedService) -> list[str]:
    if isinstance(server, EmbeddedValkey):
        async with redis.from_url(server.url, decode_responses=True) as client:
            return list(await client.lrange(TOPIC, 0, -1))
    partition = TopicPartition(TOPIC, 0)
    found: list[str] = []
    async with AIOKafkaConsumer(bootstrap_servers=server.address) as consumer:
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        end = (await consumer.end_offsets([partition]))[partition]
        while len(found) < end:
            found.append((await consumer.getone()).value.decode())
    return found


async def test_what_was_acknowledged_outlives_a_kill_and_a_stop(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / 'a folder with "quotes"'
    async with made(kind, folder) as server:
        address = server.address
        await write(server, "first", "second")
        os.kill(server.pid, signal.SIGKILL)
        await server.start()
        assert server.address == address
        await write(server, "third")
    async with made(kind, folder) as server:  # as another process would
        assert server.address == address
        assert await read(server) == ["first", "second", "third"]


async def test_it_ends_with_a_process_that_is_killed_and_the_next_one_starts_at_once(kind: str, tmp_path: Path) -> None:
    server = await asyncio.to_thread(server_of_a_killed_process, kind, tmp_path)
    async with made(kind, tmp_path) as successor:
        assert not runs(server)
        await write(successor, "first")
        os.kill(successor.pid, signal.SIGSTOP)
        pid = successor.pid
    assert not runs(pid), "a frozen one is ended too"


async def test_a_folder_is_taken_until_the_server_of_a_killed_process_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_valkey()
    monkeypatch.setattr(service, "LOCK_PATIENCE_S", 0.1)
    orphan = await asyncio.to_thread(server_of_a_killed_process, "valkey", tmp_path, frozen=True)
    try:
        with pytest.raises(FolderBusy):
            await EmbeddedValkey(tmp_path).start()
    finally:
        os.kill(orphan, signal.SIGKILL)
    monkeypatch.undo()
    async with EmbeddedValkey(tmp_path) as server:
        await write(server, "first")


def server_of_a_killed_process(kind: str, folder: Path, *, frozen: bool = False) -> int:
    """The server's process id; it may be ending still, and can't where it is frozen."""
    command = [sys.executable, "-c", HOLDING, kind, str(folder)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        server = int(holder.stdout.readline())
        assert runs(server)
        if frozen:
            os.kill(server, signal.SIGSTOP)
        holder.kill()
    return server


async def test_a_folder_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_valkey()
    monkeypatch.setattr(service, "LOCK_PATIENCE_S", 0.1)
    async with EmbeddedValkey(tmp_path) as server:
        with pytest.raises(FolderBusy, match=str(tmp_path)):
            await EmbeddedValkey(tmp_path).start()
        monkeypatch.setattr(service, "GONE_PATIENCE_S", 0.1)
        with pytest.raises(EmbeddedFailed, match="runs already"):
            await server.start()
        await write(server, "undisturbed")


async def test_a_port_that_somebody_took_meanwhile_is_given_up(tmp_path: Path) -> None:
    need_valkey()
    server = EmbeddedValkey(tmp_path)
    await server.start()
    await write(server, "kept")
    await server.stop()
    [port] = server.ports
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        async with server:
            assert server.ports != (port,)
            assert await read(server) == ["kept"]


def spoil_kafka(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "meta.properties").write_text("version=1\ncluster.id=elsewhere\nnode.id=7\n")


def spoil_valkey(folder: Path) -> None:
    (folder / "appendonlydir").mkdir(parents=True)
    (folder / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")


@pytest.mark.parametrize(
    ("kind", "spoil", "words"),
    [("kafka", spoil_kafka, "node.id 7|node ID 7|Stored node id 7"), ("valkey", spoil_valkey, "nonsense")],
    indirect=["kind"],
)
async def test_a_failing_start_shows_the_end_of_the_log(
    kind: str, spoil: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    spoil(tmp_path)
    server = made(kind, tmp_path)
    with pytest.raises(EmbeddedFailed, match=rf"(?s)ended with status [1-9].*ends with:.*(?:{words})"):
        await server.start()
    await server.stop()


async def test_valkey_asks_for_a_password_that_only_its_owner_can_read(tmp_path: Path) -> None:
    need_valkey()
    async with EmbeddedValkey(tmp_path) as server:
        async with redis.Redis(port=server.ports[0]) as stranger:
            with pytest.raises(redis.AuthenticationError):
                await stranger.ping()
        password = (tmp_path / "valkey.password").read_text()
        assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()
        files = [path for path in tmp_path.iterdir() if path.is_file() and password in path.read_text(errors="replace")]
        assert {path.name for path in files} == {"valkey.password", "valkey.conf"}
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(jars.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no Java 17" in str(jars.missing(cache))
    assert "no Valkey" in str(valkey_missing())
    program(tmp_path / "java", "echo 'openjdk version \"11.0.2\"' >&2")
    assert "no Java 17" in str(jars.missing(cache))
    jars._version.cache_clear()
    program(tmp_path / "java", "echo 'openjdk version \"21.0.2\" 2024-01-16' >&2")
    assert "no Maven" in str(jars.missing(cache))
    cache.mkdir()
    assert jars.missing(cache) is None, "Maven is only needed to fetch"
    jars._version.cache_clear()


async def test_a_fetch_that_fails_says_mavens_words_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program(tmp_path / "mvn", "echo 'Could not transfer artifact'; exit 1")
    cache = tmp_path / "caches" / "kafka"
    with pytest.raises(EmbeddedFailed, match=r"(?s)ends with:.*Could not transfer artifact"):
        await jars.fetch(cache)
    assert [path.name for path in cache.parent.iterdir()] == ["maven.log"]


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}\n")
    path.chmod(0o755)


async def test_the_runs_services_serve_every_test(kafka: str, valkey: str) -> None:
    assert kafka_missing() is None
    prefix = uuid.uuid4().hex
    async with redis.from_url(valkey) as client:
        assert await client.incr(prefix) == 1
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(prefix, 3, 1)])
    [told] = await admin.describe_topics([prefix])
    await admin.close()
    assert len(told["partitions"]) == 3
