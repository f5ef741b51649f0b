"""The `applause` command: what its subcommands do, and its exit status."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import asyncpg
import jwt
import pytest

from gateway.__main__ import main
from gateway.settings import Settings
from storage.embedded import EmbeddedPostgres
from storage.folder import DataFolder, Holder
from storage.migrate import load_migrations

SECRET = "0123456789abcdef0123456789abcdef"
Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs the command in this process, in an empty folder and environment, and returns its exit status."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("APPLAUSE_", "DATABASE_URL"))]:
        monkeypatch.delenv(name)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["applause", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    return run


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, bool]]:
    """What `serve` and `demo` were started with, in place of a gateway, which ends with status 3."""
    calls: list[tuple[Settings, bool]] = []

    async def serve(settings: Settings, *, demo: bool) -> int:
        calls.append((settings, demo))
        return 3

    replace_module(monkeypatch, "gateway.process", serve=serve)
    return calls


def replace_module(monkeypatch: pytest.MonkeyPatch, name: str, **content: object) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)


def claims(token: str, secret: str, audience: str | None = None) -> dict[str, object]:
    return jwt.decode(token, secret, algorithms=["HS256"], audience=audience)


def test_the_installed_command_tells_its_version() -> None:
    applause = Path(sys.executable).with_name("applause")
    done = subprocess.run([applause, "version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip().count(".") == 2


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["serve", "--port", "http"], ["token"], ["token", "--user", "7", "--ttl", "0"], ["serve", "--nope"]],
)
def test_wrong_use_is_status_2(run: Run, arguments: list[str]) -> None:
    assert run(*arguments) == 2


@pytest.mark.parametrize(
    "command",
    [
        "serve",
        "demo",
        "cluster",
        "migrate",
        "token --user 7",
        "audit",
        "check-config",
        "awards list",
        "awards history x",
        "awards set x --points 1",
    ],
)
def test_bad_configuration_is_status_78_for_every_command(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("APPLAUSE_SERVER__PORT", "99999")
    assert run(*command.split()) == 78
    assert "server.port" in capsys.readouterr().err
    monkeypatch.delenv("APPLAUSE_SERVER__PORT")
    Path("applause.toml").write_text("[nothing]\n")
    assert run(*command.split(), "--config", "applause.toml") == 78


def test_check_config_prints_what_holds(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("applause.toml").write_text("[lane]\nbatch = 321\n")
    assert run("check-config", "--config", "applause.toml", "--data-dir", "elsewhere") == 0
    assert {"lane.batch = 321", "data_dir = elsewhere"} <= set(capsys.readouterr().out.splitlines())


def test_nodes_of_one_database_need_a_secret_in_common(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/a")
    for command in ("serve", "demo", "check-config"):
        assert run(command) == 78
        assert "auth.secret" in capsys.readouterr().err


def test_serve_and_demo_hand_their_settings_to_the_gateway_and_end_with_its_status(
    run: Run, served: list[tuple[Settings, bool]]
) -> None:
    assert run("serve", "--port", "1234", "--host", "0.0.0.0", "--data-dir", "here") == 3
    assert run("demo", "--port", "0", "--data-dir", "here") == 3
    (settings, is_demo), (_, is_second_demo) = served
    assert (settings.server.port, settings.server.host, is_demo, is_second_demo) == (1234, "0.0.0.0", False, True)
    assert settings.auth.secret == DataFolder(Path("here")).known_signing_secret()


def test_several_workers_have_a_parent_and_one_has_none(
    run: Run, monkeypatch: pytest.MonkeyPatch, served: list[tuple[Settings, bool]]
) -> None:
    parents: list[int] = []

    async def serve(settings: Settings, *, demo: bool) -> int:
        parents.append(settings.server.workers)
        return 4

    replace_module(monkeypatch, "gateway.workers.parent", serve=serve)
    assert run("serve", "--data-dir", "here", "--workers", "1") == 3
    assert run("serve", "--data-dir", "here", "--workers", "2") == 4
    monkeypatch.setenv("APPLAUSE_SERVER__WORKERS", "3")
    assert run("serve", "--data-dir", "here") == 4
    assert run("demo", "--data-dir", "here") == 4
    assert (len(served), parents) == (1, [2, 3, 3])


def test_a_token_is_one_that_the_folders_server_accepts(
    run: Run, served: list[tuple[Settings, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    run("serve", "--data-dir", "here")
    assert run("token", "--user", "7", "--data-dir", "here") == 0
    found = claims(capsys.readouterr().out.strip(), served[0][0].auth.secret)
    assert (found["sub"], found["roles"]) == ("7", [])
    assert abs(int(str(found["exp"])) - time.time() - 3600) < 60
    assert {"iat", "jti"} <= set(found)


def test_a_token_follows_the_configuration(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"SECRET": SECRET, "ISSUER": "us", "AUDIENCE": "app", "ROLES_CLAIM": "groups"}.items():
        monkeypatch.setenv(f"APPLAUSE_AUTH__{name}", value)
    assert run("token", "--user", "shop", "--role", "service", "--role", "admin", "--ttl", "10") == 0
    found = claims(capsys.readouterr().out.strip(), SECRET, "app")
    assert (found["sub"], found["groups"], found["iss"]) == ("shop", ["service", "admin"], "us")
    assert int(str(found["exp"])) == int(str(found["iat"])) + 10


def test_no_token_is_made_up_where_there_is_no_secret(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("token", "--user", "7", "--data-dir", "wrong") == 1
    assert "no secret in wrong" in capsys.readouterr().err
    assert not Path("wrong").exists()


def test_migrate_and_audit_work_while_no_server_runs_and_while_one_does(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings: list[str] = []

    async def audit(conn: asyncpg.Connection) -> list[str]:
        assert await conn.fetchval("SELECT count(*) FROM heads") == 0
        return findings

    replace_module(monkeypatch, "storage.audit", audit=audit)
    assert run("audit", "--data-dir", "here") == 1
    assert "no database in here" in capsys.readouterr().err
    assert run("migrate", "--data-dir", "here") == 0
    applied = [f"applied {each.name}" for each in load_migrations()]
    assert capsys.readouterr().out.splitlines() == [*applied, "the schema is current"]
    assert run("audit", "--data-dir", "here") == 0

    server = EmbeddedPostgres(Path("here"))
    asyncio.run(server.start())
    try:
        assert run("migrate", "--data-dir", "here") == 0
        assert run("audit", "--data-dir", "here") == 0
        findings.append("user 7: balance 3, entries 2")
        capsys.readouterr()
        assert run("audit", "--data-dir", "here") == 1
        said = capsys.readouterr()
        assert said.out == "user 7: balance 3, entries 2\n"
        assert said.err == "applause: the audit found 1 fault\n"
    finally:
        asyncio.run(server.stop())


def test_awards_are_shown_and_changed_while_no_server_runs_and_while_one_does(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ("--data-dir", "here")
    assert run("awards", "list", *here) == 1
    assert "no database in here" in capsys.readouterr().err
    run("migrate", *here)
    capsys.readouterr()
    assert run("awards", "list", *here) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed == [
        "comment_posted  points 2    threshold 100   daily cap 5",
        "like_received   points 1    threshold 1000",
        "share_received  points 1    threshold 1000",
        "video_liked     points 1    threshold 100",
        "video_shared    points 2    threshold 100",
        "video_uploaded  points 5    threshold 1000",
        "video_viewed    points 1    threshold 100",
        "view_received   points 0.1  threshold 1000",
    ]
    assert run("awards", "set", "comment_posted", "--points", "2.25", "--daily-cap", "3", *here) == 0
    assert capsys.readouterr().out == "comment_posted  points 2.25  threshold 100  daily cap 3\n"

    server = EmbeddedPostgres(Path("here"))
    asyncio.run(server.start())
    monkeypatch.setenv("LOGNAME", "somebody-else")  # who it was is what the system says
    try:
        assert run("awards", "set", "comment_posted", "--points", "0.1", "--threshold", "0", *here) == 0
        capsys.readouterr()
        assert run("awards", "history", "comment_posted", *here) == 0
    finally:
        asyncio.run(server.stop())
    newest, middle, first = (re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines())
    who = f"by cli:{pwd.getpwuid(os.getuid()).pw_name}"
    assert newest[1:] == ["points 0.1", "threshold 0", "daily cap 3", who]
    assert middle[1:] == ["points 2.25", "threshold 100", "daily cap 3", who]
    assert first[1:] == ["points 2", "threshold 100", "daily cap 5", "by -"]
    assert newest[0] > middle[0] > first[0]


def test_an_award_that_can_t_be_set_says_why(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    here = ("--data-dir", "here")
    run("migrate", *here)
    for status, says, arguments in [
        (1, "no award for such an action", ["set", "video_watched", "--points", "1"]),
        (1, "no award for such an action", ["history", "video_watched"]),
        (1, "at most 1000000", ["set", "video_liked", "--points", "1000000.01"]),
        (1, "has no cap", ["set", "video_liked", "--points", "1", "--daily-cap", "5"]),
        (2, "two decimals", ["set", "video_liked", "--points", "0.001"]),
        (2, "two decimals", ["set", "video_liked", "--points", "1e2"]),
        (2, "at least 0", ["set", "video_liked", "--points=-1"]),
        (2, "--points", ["set", "video_liked"]),
        (2, "--threshold", ["set", "video_liked", "--points", "1", "--threshold", "-1"]),
    ]:
        assert run("awards", *arguments, *here) == status, arguments
        assert says in " ".join(capsys.readouterr().err.replace("│", " ").split()), arguments
    assert run("awards", "history", "video_liked", *here) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1, "nothing was changed"


def test_a_folder_that_somebody_holds_is_status_1_with_who(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    lock = DataFolder(Path("here")).lock()
    lock.announce(Holder(pid=4711, serving_port=8080))
    assert run("migrate", "--data-dir", "here") == 1
    assert "process 4711, serving on port 8080" in capsys.readouterr().err
    lock.release()


def test_a_database_that_does_not_answer_is_status_1_without_a_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@127.0.0.1:1/a")
    assert run("migrate") == 1
    said = capsys.readouterr().err
    assert said.startswith("applause: ")
    assert "Traceback" not in said
    assert "hunter2" not in said
