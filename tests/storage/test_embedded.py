"""The embedded PostgreSQL: nothing is lost, nothing is left behind, and one process has a folder."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from storage.binaries import Binaries, NoPostgres, User, copy_for_others, find
from storage.embedded import NOBODY, EmbeddedBusy, EmbeddedPostgres, running_dsn
from storage.folder import DataFolder, Holder

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
PROJECT = Path(__file__).parents[2]

# A process that holds a folder until it is killed, with one committed row and one that never is.
HOLDING = """
import asyncio, json, sys
from pathlib import Path
import asyncpg
from storage.embedded import EmbeddedPostgres

async def hold():
    server = EmbeddedPostgres(Path(sys.argv[1]), serving_port=8080)
    conn = await asyncpg.connect(await server.start())
    await conn.execute("CREATE TABLE kept (a int)")
    await conn.execute("INSERT INTO kept VALUES (7)")
    await conn.execute("BEGIN; INSERT INTO kept VALUES (8)")
    print(json.dumps({"postgres": server.pid, "dsn": server.dsn}), flush=True)
    await asyncio.sleep(60)

asyncio.run(hold())
"""

# An ordinary user. It becomes one after its imports, since root's interpreter can often not be started by others.
AS_NOBODY = """
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
import asyncpg
from storage.embedded import NOBODY, EmbeddedPostgres

os.setgroups([])
os.setgid(NOBODY)
os.setuid(NOBODY)

async def use():
    async with EmbeddedPostgres(Path(sys.argv[1]), binaries=Path(sys.argv[2])) as server:
        conn = await asyncpg.connect(server.dsn)
        print(os.stat(f"/proc/{server.pid}").st_uid, await conn.fetchval("SELECT 1"))
        await conn.close()

asyncio.run(use())
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was started once and has ended, to copy from: a first start takes most of a second."""
    path = tmp_path_factory.mktemp("prepared") / "data"

    async def start_once() -> None:
        async with EmbeddedPostgres(path):
            pass

    asyncio.run(start_once())
    return path


@pytest.fixture
def path(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "data"))


@pytest.fixture
async def server(path: Path) -> AsyncIterator[EmbeddedPostgres]:
    async with EmbeddedPostgres(path) as started:
        yield started


class Held:
    """Another process that holds a folder."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", HOLDING, str(path)]
        self.process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.postgres: int = told["postgres"]
        self.dsn: str = told["dsn"]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def held(path: Path) -> Iterator[Held]:
    holder = Held(path)
    yield holder
    holder.kill()


async def fetch(dsn: str, query: str) -> object:
    conn = await asyncpg.connect(dsn)
    try:
        return await conn.fetchval(query)
    finally:
        await conn.close()


async def until(condition: Callable[[], bool], *, within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_first_start_makes_a_private_durable_database(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data"
    async with EmbeddedPostgres(path) as server:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert await fetch(server.dsn, f"SHOW {setting}") == "on"
        assert await fetch(server.dsn, "SHOW server_encoding") == "UTF8"
        assert await fetch(server.dsn, "SHOW listen_addresses") == "127.0.0.1"
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.dsn, password="guessed")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for private in ("pg.password", "applause.lock", "pg.log"):
        assert stat.S_IMODE((path / private).stat().st_mode) & 0o077 == 0, private
    assert not list(path.glob("pg.new.*"))


async def test_data_are_kept_over_a_restart(path: Path) -> None:
    async with EmbeddedPostgres(path) as server:
        await fetch(server.dsn, "CREATE TABLE kept AS SELECT 7 AS a")
    async with EmbeddedPostgres(path) as server:
        assert await fetch(server.dsn, "SELECT a FROM kept") == 7


async def test_stopping_does_not_wait_for_open_transactions(path: Path) -> None:
    server = EmbeddedPostgres(path)
    conn = await asyncpg.connect(await server.start())
    pid = server.pid
    await conn.execute("BEGIN; CREATE TABLE never ()")
    began = time.monotonic()
    await server.stop()
    assert time.monotonic() - began < 5
    assert not is_alive(pid)
    await server.stop()  # twice is harmless


async def test_a_folder_in_use_is_refused_with_who_holds_it(path: Path, held: Held) -> None:
    with pytest.raises(EmbeddedBusy, match=rf"process {held.process.pid}, serving on port 8080") as refused:
        await EmbeddedPostgres(path).start()
    assert refused.value.holder is not None
    assert refused.value.holder.pid == held.process.pid
    assert f":{refused.value.holder.database_port}/" in held.dsn
    assert await fetch(held.dsn, "SELECT a FROM kept") == 7  # and the holder noticed nothing


async def test_the_address_is_known_while_another_process_runs_it_and_only_then(path: Path) -> None:
    assert running_dsn(path) is None
    held = Held(path)
    assert running_dsn(path) == held.dsn
    held.kill()
    assert running_dsn(path) is None
    assert running_dsn(path / "nowhere") is None


async def test_looking_for_a_running_server_stops_none_from_starting(path: Path) -> None:
    folder, stop = DataFolder(path), asyncio.Event()

    async def look() -> None:
        while not stop.is_set():
            folder.is_held()
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    for _ in range(3):
        async with EmbeddedPostgres(path):
            pass
    stop.set()
    await looking


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
async def test_no_server_outlives_a_killed_process_and_what_it_committed_stays(path: Path, held: Held) -> None:
    held.kill()
    await until(lambda: not is_alive(held.postgres))
    async with EmbeddedPostgres(path) as server:
        assert await fetch(server.dsn, "SELECT array_agg(a) FROM kept") == [7]


async def test_a_start_right_after_a_kill_waits_for_the_old_server_to_end(path: Path, held: Held) -> None:
    os.kill(held.postgres, signal.SIGSTOP)
    held.kill()
    server = EmbeddedPostgres(path)
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0.5)
    assert not starting.done()
    os.kill(held.postgres, signal.SIGCONT)
    assert await fetch(await starting, "SELECT array_agg(a) FROM kept") == [7]
    await server.stop()


async def test_a_killed_server_is_started_again_at_the_same_address(server: EmbeddedPostgres) -> None:
    keeper = asyncio.create_task(server.keep_running())
    dsn, first = server.dsn, server.pid
    await fetch(dsn, "CREATE TABLE kept AS SELECT 7 AS a")
    os.kill(first, signal.SIGKILL)
    await until(lambda: server.pid != first)

    async def answer() -> object:
        while True:
            try:
                return await fetch(dsn, "SELECT a FROM kept")
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.05)

    assert await asyncio.wait_for(answer(), 10) == 7
    await server.stop()
    await asyncio.wait_for(keeper, 5)


@pytest.mark.parametrize("pause_s", [0.0, 0.05, 0.5])
async def test_a_stop_while_it_is_started_again_leaves_nothing(server: EmbeddedPostgres, pause_s: float) -> None:
    keeper = asyncio.create_task(server.keep_running())
    os.kill(server.pid, signal.SIGKILL)
    await asyncio.sleep(pause_s)
    await server.stop()
    await asyncio.wait_for(keeper, 30)
    note = server.folder.postgres / "postmaster.pid"
    if note.exists():  # of the one that was killed
        with pytest.raises(ProcessLookupError):
            os.kill(int(note.read_text().split()[0]), 0)


async def test_an_interrupted_first_start_is_begun_again(tmp_path: Path) -> None:
    half = tmp_path / "pg.new.killed"
    half.mkdir()
    (half / "PG_VERSION").write_text("18")
    async with EmbeddedPostgres(tmp_path) as server:
        assert await fetch(server.dsn, "SELECT 1") == 1
    assert not half.exists()


async def test_a_process_id_left_in_the_folder_may_be_somebody_elses_by_now(path: Path) -> None:
    note = path / "pg" / "postmaster.pid"
    note.write_text(f"{os.getpid()}\n{path}/pg\n{int(time.time())}\n20000\n\n127.0.0.1\n  0 0\nready\n")
    note.chmod(0o600)
    async with EmbeddedPostgres(path) as server:
        assert await fetch(server.dsn, "SELECT 1") == 1


async def test_ctrl_c_in_a_terminal_reaches_us_alone(server: EmbeddedPostgres) -> None:
    assert os.getsid(server.pid) != os.getsid(0)


async def test_data_of_another_version_are_left_alone(path: Path) -> None:
    (path / "pg" / "PG_VERSION").write_text("13\n")
    with pytest.raises(NoPostgres, match=r"made by PostgreSQL 13.*APPLAUSE_DATABASE__BINARIES"):
        await EmbeddedPostgres(path).start()
    assert not DataFolder(path).is_held()


def test_configured_binaries_are_never_passed_over(tmp_path: Path) -> None:
    with pytest.raises(NoPostgres, match=r"database\.binaries"):
        find(tmp_path)
    assert find(find().bin.parent) == find()


@as_root
async def test_as_root_postgresql_is_somebody_else_and_no_folder_is_opened(server: EmbeddedPostgres) -> None:
    private = server.folder.path.parent
    private.chmod(0o700)
    assert Path(f"/proc/{server.pid}").stat().st_uid == NOBODY
    assert server.folder.postgres.stat().st_uid == NOBODY
    conn = await asyncpg.connect(server.dsn)  # a new process of PostgreSQL, which opens files anew
    await conn.execute("CREATE TABLE wide AS SELECT generate_series(1, 1000)")
    await conn.execute("CHECKPOINT")
    await conn.close()
    assert (private.stat().st_uid, stat.S_IMODE(private.stat().st_mode)) == (0, 0o700)
    assert server.folder.path.stat().st_uid == 0


@as_root
def test_binaries_below_a_private_folder_are_copied_for_the_other_user(tmp_path: Path) -> None:
    nobody, original = User(NOBODY, NOBODY), find()
    private = tmp_path / "venv" / "package" / "pginstall"
    tmp_path.chmod(0o700)
    for name in ("bin", "lib", "share"):
        shutil.copytree(original.bin.parent / name, private / name, symlinks=True)
    libraries = original.bin.parent.parent.with_name(original.bin.parent.parent.name + ".libs")
    if libraries.is_dir():  # the programs name it relative to themselves
        shutil.copytree(libraries, tmp_path / "venv" / libraries.name)
        private = private.parent.rename(tmp_path / "venv" / original.bin.parent.parent.name) / "pginstall"
    assert not Binaries(private / "bin").usable_by(nobody)
    with tempfile.TemporaryDirectory(dir="/tmp") as shared:
        Path(shared).chmod(0o755)
        copied = copy_for_others(Binaries(private / "bin"), into=Path(shared) / "applause")
        assert copied.usable_by(nobody)
        assert copy_for_others(Binaries(private / "bin"), into=Path(shared) / "applause") == copied
        subprocess.run([copied.initdb, "--version"], check=True, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")


@as_root
def test_an_ordinary_user_runs_it_alike() -> None:
    binaries = find()
    if not binaries.usable_by(User(NOBODY, NOBODY)):
        binaries = copy_for_others(binaries)
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        os.chown(home, NOBODY, NOBODY)
        command = [sys.executable, "-c", AS_NOBODY, f"{home}/data", str(binaries.bin)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.split() == [str(NOBODY), "1"], done.stderr
        assert os.stat(f"{home}/data/pg").st_uid == NOBODY


def test_two_that_make_a_secret_agree_on_one(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    assert folder.known_signing_secret() is None
    secret = folder.signing_secret()
    assert len(secret) >= 32
    assert DataFolder(tmp_path).signing_secret() == folder.known_signing_secret() == secret
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]


def test_a_folder_is_held_until_it_is_released(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    lock = folder.lock()
    with pytest.raises(EmbeddedBusy, match="just starting"):
        folder.lock()
    lock.announce(Holder(pid=1, database_port=2))
    with pytest.raises(EmbeddedBusy, match="process 1, its PostgreSQL on port 2"):
        folder.lock()
    lock.release()
    lock.release()
    folder.lock().release()
