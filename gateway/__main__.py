"""The `applause` command. Exit status: 0 done, 1 failed, 2 used wrongly, 78 configured wrongly."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import asyncpg
import jwt
import msgspec
import typer
import uvloop

from gateway.configuration import load, redacted, require_secret
from gateway.ground import CannotStart
from gateway.settings import BadSettings, Settings
from handlers.errors import Refusal
from storage.binaries import NoPostgres
from storage.child import EmbeddedFailed
from storage.db import connect, is_connection_lost
from storage.embedded import EmbeddedPostgres, running_dsn
from storage.epoch import renew_epoch
from storage.folder import DataFolder, FolderBusy
from storage.migrate import SchemaBehind, ensure_current, migrate

BAD_CONFIGURATION: Final = 78  # EX_CONFIG of sysexits.h
TOKEN_TTL_S: Final = 3_600
MOST_COUNTED: Final = 1_000_000_000

Config = Annotated[Path | None, typer.Option(help="A TOML file with settings.", dir_okay=False)]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded database and its secrets.", file_okay=False)]
Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0: any free one.")]
Workers = Annotated[int | None, typer.Option(help="Processes that share the port, to use so many cores.")]


class CommandFailed(Exception):
    """The command can't do what was asked; the message says why."""


def serve(
    host: Host = None, port: Port = None, workers: Workers = None, data_dir: DataDir = None, config: Config = None
) -> None:
    """Run the gateway, with a PostgreSQL of its own unless DATABASE_URL is set."""
    _serve(_settings(config, data_dir, host=host, port=port, workers=workers), demo=False)


def demo(host: Host = None, port: Port = None, data_dir: DataDir = None, config: Config = None) -> None:
    """Run the gateway with people, videos and a console to try it in."""
    _serve(_settings(config, data_dir, host=host, port=port), demo=True)


def cluster(
    port: Annotated[int | None, typer.Option(help="Port of the first node; 0: any free ones.")] = None,
    nodes: Annotated[int, typer.Option(help="How many.", min=2, max=16)] = 3,
    kafka: Annotated[bool, typer.Option(help="With Kafka and Valkey, or over PostgreSQL alone.")] = True,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Run nodes with PostgreSQL, Valkey and Kafka of their own, to try a cluster on one machine."""
    settings = _settings(config, data_dir, port=port)
    if not settings.is_embedded:
        raise BadSettings(["database.url: a cluster on one machine has a PostgreSQL of its own; nodes of yours: serve"])
    settings = _with_own_secret(settings)
    try:  # it is an extra
        module = importlib.import_module("gateway.cluster.run")
    except ModuleNotFoundError as error:
        raise CommandFailed(f"the package {error.name} is missing: pip install 'applause[cluster]'") from None

    def sign(user: int, roles: Sequence[str]) -> str:
        return _signed(settings, settings.auth.secret, str(user), roles, TOKEN_TTL_S)

    try:
        status: int = uvloop.run(module.run(settings, config=config, sign=sign, with_kafka=kafka, nodes=nodes))
    except module.ServiceMissing as error:
        raise CommandFailed(str(error)) from None
    raise typer.Exit(status)


def migrate_command(
    data_dir: DataDir = None,
    config: Config = None,
    new_epoch: Annotated[
        bool, typer.Option("--new-epoch", help="Make all clients reload: after restoring a copy of the files.")
    ] = False,
) -> None:
    """Bring the database to this version's schema."""
    uvloop.run(_migrate(_settings(config, data_dir), new_epoch))


def token(
    user: Annotated[str, typer.Option(help="Whom it is for: a user's id, or any name of a backend.")],
    role: Annotated[list[str] | None, typer.Option(help="A role it gives; repeat for several.")] = None,
    ttl: Annotated[int, typer.Option(help="Seconds until it expires.", min=1)] = TOKEN_TTL_S,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Print a token that a server of this folder or configuration accepts."""
    settings = _settings(config, data_dir)
    require_secret(settings)
    if not (settings.auth.secret or settings.is_embedded):
        raise CommandFailed("auth.secret is not set: tokens come from whoever has the keys of auth.jwks_url")
    secret = settings.auth.secret or DataFolder(settings.data_path).known_signing_secret()
    if secret is None:
        raise CommandFailed(f"there is no secret in {settings.data_path} yet: start `applause serve` there first")
    typer.echo(_signed(settings, secret, user, role or [], ttl))


def audit(data_dir: DataDir = None, config: Config = None) -> None:
    """Check the ledger and the promises about it. Exit status 1 where something is wrong."""
    findings = uvloop.run(_audit(_settings(config, data_dir)))
    for finding in findings:
        typer.echo(str(finding))
    if findings:
        raise CommandFailed(f"the audit found {len(findings)} fault{'s' if len(findings) > 1 else ''}")
    typer.echo("the audit found no fault")


def awards_list(data_dir: DataDir = None, config: Config = None) -> None:
    """Print what actions pay, and from which follow count on."""
    _echo_lines(uvloop.run(_awards(_settings(config, data_dir), lambda awards, conn: awards.list_lines(conn))))


def awards_set(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="Such as video_liked.")],
    points: Annotated[str, typer.Option(help="What it pays, with at most two decimals.")],
    threshold: Annotated[
        int | None, typer.Option(help="The follow count from which it pays.", min=0, max=MOST_COUNTED)
    ] = None,
    daily_cap: Annotated[
        int | None,
        typer.Option(help="How often it pays in a day, where it does more than once.", min=0, max=MOST_COUNTED),
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Change what an action pays. Nodes that run take it over within a second; what is left out stays as it is."""
    settings = _settings(config, data_dir)
    terms = {"points": points, "threshold": threshold, "daily_cap": daily_cap}
    try:
        line = uvloop.run(
            _awards(
                settings,
                lambda awards, conn: awards.set_award(conn, action, **terms, max_amount=settings.wallet.max_amount),
            )
        )
    except Refusal as refusal:
        raise CommandFailed(refusal.message) from None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--points") from None
    typer.echo(line)


def awards_history(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="Such as video_liked.")],
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Print what an action has paid, the newest first, with who changed it and when."""
    settings = _settings(config, data_dir)
    lines = uvloop.run(_awards(settings, lambda awards, conn: awards.history_lines(conn, action)))
    if not lines:
        raise CommandFailed("There is no award for such an action.")
    _echo_lines(lines)


def check_config(data_dir: DataDir = None, config: Config = None) -> None:
    """Print the effective settings, secrets hidden, or what is wrong with them."""
    settings = _settings(config, data_dir)
    require_secret(settings)
    for key, value in redacted(settings):
        typer.echo(f"{key} = {value}")


def loadtest(context: typer.Context) -> None:
    """Measure a server of its own on this machine, and check its answers. See `applause loadtest --help`."""
    # A process of its own: it is a client like any other, and nothing here may depend on it. `-P`: nor on this folder.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "loadtest", *context.args])  # noqa: S606


def schema_asyncapi(config: Config = None) -> None:
    """Print what backends and gateways write to Kafka, as AsyncAPI 3."""
    prefix = _settings(config, None).kafka.prefix
    document = importlib.import_module("gateway.asyncapi").kafka_topics(prefix)
    typer.echo(msgspec.json.format(msgspec.json.encode(document)).decode())


def version() -> None:
    """Print the version."""
    typer.echo(importlib.metadata.version("applause"))


def build() -> typer.Typer:
    """The command with its subcommands."""
    app = typer.Typer(
        name="applause",
        help="Actions in, points and events out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    commands: dict[str, Callable[..., None]] = {
        "serve": serve,
        "demo": demo,
        "cluster": cluster,
        "migrate": migrate_command,
        "token": token,
        "audit": audit,
        "check-config": check_config,
        "version": version,
    }
    for name, command in commands.items():
        app.command(name)(command)
    awards = typer.Typer(help="What actions pay.", no_args_is_help=True)
    awards.command("list")(awards_list)
    awards.command("set")(awards_set)
    awards.command("history")(awards_history)
    app.add_typer(awards, name="awards")
    schema = typer.Typer(help="The protocol, for machines.", no_args_is_help=True)
    schema.command("asyncapi")(schema_asyncapi)
    app.add_typer(schema, name="schema")
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command("loadtest", context_settings=passed_on)(loadtest)
    return app


def main() -> None:
    """Run the command of the process's arguments, and end the process with its status."""
    try:
        build()()
    except BadSettings as error:
        raise SystemExit(_complain(error, BAD_CONFIGURATION)) from None
    except (CommandFailed, CannotStart, FolderBusy, NoPostgres, EmbeddedFailed, SchemaBehind) as error:
        raise SystemExit(_complain(error, 1)) from None
    except Exception as error:
        if not is_connection_lost(error):
            raise
        raise SystemExit(_complain(error, 1)) from None


def _echo_lines(lines: list[str]) -> None:
    for line in lines:
        typer.echo(line)


def _complain(error: Exception, status: int) -> int:
    typer.echo(f"applause: {error or type(error).__name__}", err=True)
    return status


def _settings(config: Path | None, data_dir: Path | None, **server: Any) -> Settings:
    flags = {"data_dir": str(data_dir) if data_dir else None, **{f"server.{key}": each for key, each in server.items()}}
    return load(config, flags=flags)


def _serve(settings: Settings, *, demo: bool) -> None:
    require_secret(settings)
    if not settings.auth.secret and not settings.is_embedded and demo:
        raise BadSettings(["auth.secret: needed by the demo, which signs the tokens of its people"])
    settings = _with_own_secret(settings)
    # It imports everything, which the other commands and the parent of workers don't need.
    process = importlib.import_module("gateway.process" if settings.server.workers == 1 else "gateway.workers.parent")
    status: int = uvloop.run(process.serve(settings, demo=demo))
    raise typer.Exit(status)


def _with_own_secret(settings: Settings) -> Settings:
    """With the secret of the data folder where none is set and the database is our own."""
    if settings.auth.secret or not settings.is_embedded:
        return settings
    auth = msgspec.structs.replace(settings.auth, secret=DataFolder(settings.data_path).signing_secret())
    return msgspec.structs.replace(settings, auth=auth)


def _signed(settings: Settings, secret: str, user: str, roles: Sequence[str], ttl_s: int) -> str:
    auth, now = settings.auth, int(time.time())
    claims: dict[str, Any] = {"iat": now, "exp": now + ttl_s, "jti": uuid.uuid4().hex}
    claims |= {name: value for name, value in (("iss", auth.issuer), ("aud", auth.audience)) if value}
    claims |= {auth.subject_claim: user, auth.roles_claim: list(roles)}
    return jwt.encode(claims, secret, algorithm="HS256")


async def _migrate(settings: Settings, new_epoch: bool) -> None:
    async with _database(settings) as conn:
        for name in await migrate(conn):
            typer.echo(f"applied {name}")
        if new_epoch:
            await renew_epoch(conn)
    typer.echo("the schema is current")


async def _audit(settings: Settings) -> list[Any]:
    async with _current_database(settings) as conn:
        findings: list[Any] = await importlib.import_module("storage.audit").audit(conn)
        return findings


async def _awards(settings: Settings, ask: Callable[[Any, asyncpg.Connection], Awaitable[Any]]) -> Any:
    """What `ask` gets of gateway.awards, imported here, since the other commands don't need it."""
    async with _current_database(settings) as conn:
        return await ask(importlib.import_module("gateway.awards"), conn)


@asynccontextmanager
async def _current_database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that is there, with this version's schema."""
    if settings.is_embedded and not DataFolder(settings.data_path).postgres.exists():
        raise CommandFailed(f"there is no database in {settings.data_path}")
    async with _database(settings) as conn:
        await ensure_current(conn)
        yield conn


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the configured database; to an embedded one also where no server runs it just now."""
    running = settings.database.url or running_dsn(settings.data_path)
    if running is None:
        own = EmbeddedPostgres(settings.data_path, binaries=settings.binaries_path)
        async with own as postgres, _connected(postgres.dsn) as conn:
            yield conn
    else:
        async with _connected(running) as conn:
            yield conn


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await connect(dsn)
    try:
        yield conn
    finally:
        await conn.close()


if __name__ == "__main__":
    main()
