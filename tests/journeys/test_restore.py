"""A database that was put back to an earlier state: no client believes a `seq` of the history that is gone."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from storage.audit import audit
from storage.db import connect
from storage.embedded import EmbeddedPostgres
from tests.support.clients import PATIENCE_S
from tests.support.database import named
from tests.support.dumps import run_tool
from tests.support.pair import Pair, pair
from tests.support.server import Gateway, running
from tests.support.stage import Stage, action_id

USER: Final = 7


async def _publish(at: Gateway | Pair, text: str, user: int = USER) -> None:
    body = {"id": action_id(), "type": "news", "recipientIds": [user], "data": {"text": text}}
    answer = await at.ask("POST", "/v1/events", body)
    assert (answer.status, answer.body) == (200, {"accepted": 1, "skipped": 0})


def _texts(events: list[Any]) -> list[str]:
    return [event["data"]["text"] for event in events]


async def _put_in_its_place(maintenance: str, database: str, restored: str) -> None:
    """The restored database under the name of the one that is in use. The nodes come back as fast as they are thrown
    out, so this tries again until it is quicker."""
    conn = await connect(maintenance)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await conn.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database
                    )
                    async with conn.transaction():
                        await conn.execute(f"ALTER DATABASE {database} RENAME TO {restored}_gone")
                        await conn.execute(f"ALTER DATABASE {restored} RENAME TO {database}")
                    return
                except asyncpg.ObjectInUseError:
                    await asyncio.sleep(0.01)
    finally:
        await conn.close()


async def test_a_dump_that_is_restored_under_running_nodes_makes_clients_reload(
    postgres: EmbeddedPostgres, dsn: str, tmp_path: Path
) -> None:
    database = urlsplit(dsn).path.lstrip("/")
    dump = tmp_path / "applause.dump"
    async with pair(dsn, tmp_path) as nodes:
        phones = [await nodes.phone(USER, node=node, follow=True) for node in (0, 1)]
        for text in ("one", "two", "three"):
            await _publish(nodes, text)
        await run_tool("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={dsn}")
        for text in ("lost four", "lost five"):
            await _publish(nodes, text)
        for phone in phones:
            await phone.caught_up(5)
        old_epoch = phones[0].welcome["epoch"]

        admin = await connect(postgres.dsn)
        await admin.execute(f"CREATE DATABASE {database}_restored")
        await run_tool("pg_restore", f"--dbname={named(dsn, database + '_restored')}", "--exit-on-error", dump)
        await _put_in_its_place(postgres.dsn, database, f"{database}_restored")
        await admin.close()

        for phone in phones:
            assert (await phone.hear("closing"))[-1]["retryable"] is True
            await phone.hear("resumed", 2)
            assert phone.welcome["epoch"] != old_epoch
            assert (phone.welcome["complete"], phone.welcome["seq"]) == (False, 3)
            assert phone.of("resumed")[-1] == {"seq": 3}
        reloaded = await nodes.ask("GET", "/v1/inbox?afterSeq=0", user=USER)
        assert _texts(reloaded.body["events"]) == ["one", "two", "three"]
        await _publish(nodes, "new four")
        for phone in phones:
            await phone.caught_up(4)
            assert _texts(phone.events()) == ["one", "two", "three", "lost four", "lost five", "new four"]
            assert phone.events()[-1]["seq"] == 4
        stale = await nodes.phone(USER, lastSeq="4", epoch=old_epoch)
        assert (stale.welcome["complete"], stale.events()) == (False, []), "its 4 is another event"
        current = await nodes.phone(USER, lastSeq="3", epoch=phones[0].welcome["epoch"])
        assert (current.welcome["complete"], _texts(current.events())) == (True, ["new four"])
    conn = await connect(dsn)
    assert await audit(conn) == []
    await conn.close()


async def test_a_copy_of_the_files_is_told_by_a_new_epoch(tmp_path: Path) -> None:
    """Nothing inside such a database can see that it was put back: the operator says so with `--new-epoch`."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with running(data) as server:
        stage = Stage(server)
        user = await stage.person()
        await _publish(server, "one", user)
        phone = await stage.js_phone(user)
        old_epoch = phone.welcome["epoch"]
        await stage.close()
    await asyncio.to_thread(subprocess.run, ["cp", "-a", data, copy], check=True)  # with its owner
    async with running(data) as server:
        await _publish(server, "lost two", user)
    shutil.rmtree(data)
    copy.rename(data)
    renewed = await asyncio.to_thread(Gateway(data).run, "migrate", "--new-epoch")
    assert renewed.returncode == 0, renewed.stderr
    async with running(data) as server:
        await _publish(server, "new two", user)
        stage = Stage(server)
        stale = await stage.js_phone(user, lastSeq="2", epoch=old_epoch)
        assert (stale.welcome["complete"], stale.welcome["seq"], stale.events()) == (False, 2, [])
        whole = await stage.js_phone(user, lastSeq="0", epoch=stale.welcome["epoch"])
        assert _texts(whole.events()) == ["one", "new two"]
        assert await server.findings() == []
        await stage.close()


async def test_a_new_epoch_closes_open_sockets(tmp_path: Path) -> None:
    async with running(tmp_path / "data", DATABASE__POOL_SIZE=2) as server:
        stage = Stage(server)
        user = await stage.person()
        await _publish(server, "one", user)
        phone = await stage.js_phone(user, follow=True)
        await asyncio.gather(*(stage.inbox(user) for _ in range(20)))  # all connections are open: none will be new
        assert (await asyncio.to_thread(server.run, "migrate", "--new-epoch")).returncode == 0
        [closing] = await phone.hear("closing")
        assert (closing["code"], closing["retryable"]) == ("unavailable", True)
        await phone.hear("resumed", 2)
        welcomes = phone.of("welcome")
        assert welcomes[0]["epoch"] != welcomes[1]["epoch"]
        assert [welcome["complete"] for welcome in welcomes] == [True, False]
        await _publish(server, "two", user)
        assert _texts(await phone.told("news")) == ["two"]
        await stage.close()
