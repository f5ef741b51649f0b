"""What can be set, its bounds, and where values come from. The only reader of the environment.

A value is taken from the last of: its default here, the TOML file of `--config`, the environment
(`APPLAUSE_SECTION__KEY`; a secret also from the file that `APPLAUSE_SECTION__KEY_FILE` names), a flag. A key that
nobody knows and a value out of bounds are errors that name it, since a limit that is silently not set is worse than
a server that does not start.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from fanout.line import MOST_WORKERS
from gateway import failpoints
from handlers.events.rules import RESERVED_TYPES
from handlers.money import MAX_MINOR

PREFIX: Final = "APPLAUSE_"
WELL_KNOWN: Final = {
    "DATABASE_URL": "database.url",
    "REDIS_URL": "redis.url",
    "KAFKA_BOOTSTRAP_SERVERS": "kafka.bootstrap_servers",
}
SECRETS: Final = frozenset({"database.url", "redis.url", "auth.secret", "auth.previous_secret"})
MIN_SECRET_BYTES: Final = 16  # RFC 7518 asks for 32 with HS256, as generated ones have; many in use are shorter

NEVER_PUSHED: Final = RESERVED_TYPES - {"message_preview"}

Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrOff = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0.1, le=86_400)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Broker = Annotated[str, msgspec.Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^\s:/@]+):\d{1,5}\Z")]
Origin = Annotated[str, msgspec.Meta(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)\Z")]


class BadSettings(Exception):
    """The configuration can't be used; `problems` has one line for each fault, all at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _Section(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the TOML file."""


class Server(_Section, frozen=True):
    host: Name = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8080  # 0: any free one
    # Processes that share the port, each a node with a pool of its own, under a parent; 1: one process and no parent.
    workers: Annotated[int, msgspec.Meta(ge=1, le=MOST_WORKERS)] = 1
    # Networks (CIDR) of proxies in front: what they say in X-Forwarded-For of a client's address is believed.
    trusted_proxies: tuple[Name, ...] = ()


class Database(_Section, frozen=True):
    url: str = ""  # empty: a PostgreSQL of our own in data_dir
    pool_size: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 6
    binaries: str = ""  # folder of the PostgreSQL to run where url is empty; empty: found by itself


class Redis(_Section, frozen=True):
    url: str = ""  # of presence, beside Kafka: redis://[:password@]host[:port][/database]; empty: none


class Kafka(_Section, frozen=True):
    bootstrap_servers: tuple[Broker, ...] = ()  # what nodes tell each other goes there; empty: through PostgreSQL
    # How the names of all topics, and of the keys in Redis, begin. Clusters that share a Kafka or a Redis need others.
    prefix: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,100}\Z")] = "applause"
    # Of the topic that nodes talk on, where it has to be created: one is for all, of the others each node reads one.
    fanout_partitions: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 8


class Intake(_Section, frozen=True):
    """What other backends write to Kafka."""

    enabled: bool = True  # whether this node takes part; without kafka.bootstrap_servers none does
    partitions: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 8  # of each topic, where it has to be created
    in_flight: Count = 1_000  # records, or their recipients, that are in the lane at once: two of its batches
    session_timeout_s: Annotated[float, msgspec.Meta(ge=1, le=300)] = 10  # then the others take a silent node's work


class Egress(_Section, frozen=True):
    """The ledger as Kafka's consumers see it."""

    enabled: bool = True  # whether this node may publish, one does at a time; without kafka.bootstrap_servers none does
    partitions: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 8  # of the topic, where it has to be created
    lease_s: Annotated[float, msgspec.Meta(ge=1, le=300)] = 10  # then another node takes a silent one's work


class Auth(_Section, frozen=True):
    secret: str = ""  # of HS256; empty: generated in data_dir, where the database is our own too
    previous_secret: str = ""  # accepted beside it while that is being replaced; nothing is signed with it
    jwks_url: str = ""  # of the keys for RS256 and ES256; empty: HS256 only
    jwks_refresh_s: Seconds = 300
    issuer: str = ""  # empty: not checked
    audience: str = ""  # empty: not checked
    subject_claim: Name = "sub"
    roles_claim: Name = "roles"
    username_claim: Name = "username"
    leeway_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 60


class Users(_Section, frozen=True):
    create_unknown: bool = True
    # The master of follow counts: the app's backend (PUT /v1/users), or the verbs profile:follow and its opposite.
    follow_counts: Literal["directory", "applause"] = "directory"

    @property
    def follows_count(self) -> bool:
        """Whether the verbs are the master."""
        return self.follow_counts == "applause"


class Socket(_Section, frozen=True):
    allowed_origins: tuple[Origin, ...] = ()  # beside the gateway's own; `*`: every one
    max_connections: Count = 50_000
    max_connections_per_user: Count = 20
    max_connections_per_address: CountOrOff = 0  # 0: off, since carriers share addresses
    ping_interval_s: Seconds = 25
    ping_timeout_s: Seconds = 20
    header_timeout_s: Seconds = 10  # from accept to the first byte, and from there to the header's end
    connect_timeout_s: Seconds = 5
    max_message_bytes: Annotated[int, msgspec.Meta(ge=1024, le=16 * 2**20)] = 65_536
    send_queue_bytes: Annotated[int, msgspec.Meta(ge=65_536)] = 1_048_576
    send_queue_age_s: Seconds = 10
    bad_requests_per_minute: Count = 10
    max_in_flight: Count = 256
    max_topics: Count = 100


class Limits(_Section, frozen=True):
    actions_per_second: Annotated[float, msgspec.Meta(ge=0.1, le=1_000_000)] = (
        50  # of one user; two seconds' worth at once
    )


class Lane(_Section, frozen=True):
    batch: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 500
    queue: Count = 10_000
    # An action is answered within 5 s: its last batch may take 0.4 s beyond this, and the loop may be busy.
    deadline_s: Annotated[float, msgspec.Meta(ge=0.1, le=4.5)] = 4.3


class Inbox(_Section, frozen=True):
    page: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 500
    compare_every_s: Seconds = 3
    # What an inbox keeps: so many events and days, whichever is less, trimmed that often on one of the nodes.
    retention_events: Count = 10_000
    retention_days: Annotated[float, msgspec.Meta(gt=0, le=36_500)] = 30
    trim_every_s: Annotated[float, msgspec.Meta(ge=0.1, le=30)] = 15


class Events(_Section, frozen=True):
    chunk_recipients: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 500  # who get an event in one transaction
    max_recipients: Annotated[int, msgspec.Meta(ge=1, le=50_000)] = 10_000  # of one event; more would not fit a body


class Messages(_Section, frozen=True):
    max_participants: Annotated[int, msgspec.Meta(ge=2, le=256)] = 256  # of one conversation
    # With more participants than these, previews and reads are gathered, and given at most once a second.
    gather_above: Annotated[int, msgspec.Meta(ge=2, le=64)] = 16


class Push(_Section, frozen=True):
    """Of users with no connection."""

    # Who brings pushes: nobody; a file that they are written to, texts and all; Firebase Cloud Messaging.
    provider: Literal["", "recording", "fcm"] = ""
    recording_file: str = ""  # of `recording`; empty: pushes.jsonl in data_dir
    fcm_credentials_file: str = ""  # the service account's key, as Google gives it (JSON)
    fcm_url: str = "https://fcm.googleapis.com"
    # What is pushed: `message_preview` and notifications. Of types of an app's own, those with `title` and `body` in
    # their data show these, others show nothing and are the app's to put into words.
    types: tuple[Name, ...] = (
        "message_preview",
        "video_like",
        "video_share",
        "video_comment",
        "profile_followed",
        "follow_request",
        "live_stream_started",
    )
    after_s: Annotated[float, msgspec.Meta(ge=0, le=3_600)] = 2  # a phone that is just coming back is not pushed
    max_age_s: Annotated[float, msgspec.Meta(ge=1, le=2_419_200)] = 86_400  # what is older is not news
    most_events: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20  # that one look tells somebody of, the newest
    in_flight: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 50  # users who are told at once
    timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 10  # of one push
    devices_per_user: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 20
    max_token_chars: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 4_096


class Wallet(_Section, frozen=True):
    # The most that one gift, boost, deduction, correction, price or award may be, in whole units of its currency.
    max_amount: Annotated[int, msgspec.Meta(ge=1, le=MAX_MINOR // 100)] = 1_000_000


class Cluster(_Section, frozen=True):
    """Of `applause cluster`."""

    kafka_jars: str = ""  # folder for Kafka's jars; empty: .cache in the project's folder, or in the user's home


class Drain(_Section, frozen=True):
    timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3_600)] = 12  # the process ends 3 s after it at most
    reconnect_spread_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 5


class Log(_Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"  # auto: text at a terminal
    slow_action_ms: CountOrOff = 1_000  # actions and requests that take as long are named in the log; 0: none

    @property
    def slow_s(self) -> float:
        """The same in seconds."""
        return self.slow_action_ms / 1000 or math.inf


class Settings(_Section, frozen=True):
    """Everything that can be set. Times are seconds, sizes bytes."""

    data_dir: Name = ".applause"
    failpoints: tuple[Name, ...] = ()  # where this node is to die or to stand still; see gateway/failpoints.py
    server: Server = Server()
    database: Database = Database()
    redis: Redis = Redis()
    kafka: Kafka = Kafka()
    intake: Intake = Intake()
    egress: Egress = Egress()
    auth: Auth = Auth()
    users: Users = Users()
    socket: Socket = Socket()
    limits: Limits = Limits()
    lane: Lane = Lane()
    inbox: Inbox = Inbox()
    events: Events = Events()
    messages: Messages = Messages()
    push: Push = Push()
    wallet: Wallet = Wallet()
    cluster: Cluster = Cluster()
    drain: Drain = Drain()
    log: Log = Log()

    @property
    def data_path(self) -> Path:
        """The data folder; `~` is the user's home."""
        return Path(self.data_dir).expanduser()

    @property
    def binaries_path(self) -> Path | None:
        """Where the PostgreSQL to run is, if that was set."""
        return Path(self.database.binaries).expanduser() if self.database.binaries else None

    @property
    def is_embedded(self) -> bool:
        """Whether the database is one of our own in the data folder."""
        return not self.database.url


class _Given(msgspec.Struct, frozen=True):
    """A value as somebody gave it, and how to name that place in a message."""

    value: Any
    place: str
    is_text: bool


def load(
    config: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings from all their places; `flags` by dotted key, None where a flag was not given.

    Raises BadSettings with every problem found.
    """
    problems: list[str] = []
    given: dict[str, _Given] = {}
    for values in (
        _from_file(config, problems),
        _from_environment(os.environ if environ is None else environ, problems),
        {key: _Given(value, _flag(key), False) for key, value in (flags or {}).items() if value is not None},
    ):
        given.update(values)
    converted = {key: _convert(key, each, problems) for key, each in given.items()}
    if problems:
        raise BadSettings(problems)
    settings = _assemble(converted)
    _check_together(settings, problems)
    if problems:
        raise BadSettings(problems)
    return settings


def require_secret(settings: Settings) -> None:
    """Raise BadSettings where tokens are needed and none of their secrets can be made up (`migrate` needs none)."""
    if not (settings.auth.secret or settings.auth.jwks_url or settings.is_embedded):
        problem = "auth.secret: needed with DATABASE_URL (or auth.jwks_url), since all nodes must check tokens alike"
        raise BadSettings([problem])


def redacted(settings: Settings) -> Iterator[tuple[str, str]]:
    """Every key with its effective value, for people to read; secrets only say whether they are set."""
    for key in _types():
        section, _, name = key.rpartition(".")
        value = getattr(getattr(settings, section) if section else settings, name)
        if key in SECRETS:
            yield key, "(set)" if value else "(not set)"
        else:
            yield key, ",".join(value) if isinstance(value, tuple) else str(value)


def _flag(key: str) -> str:
    return "--" + key.rpartition(".")[2].replace("_", "-")


def _variable(key: str) -> str:
    return PREFIX + key.upper().replace(".", "__")


def _types() -> dict[str, Any]:
    """Dotted key -> type, in the order of the Structs."""
    types: dict[str, Any] = {}
    for name, section in get_type_hints(Settings, include_extras=True).items():
        if isinstance(section, type) and issubclass(section, _Section):
            fields = get_type_hints(section, include_extras=True)
            types.update({f"{name}.{field}": field_type for field, field_type in fields.items()})
        else:
            types[name] = section
    return types


def _from_file(config: Path | None, problems: list[str]) -> dict[str, _Given]:
    if config is None:
        return {}
    try:
        document = tomllib.loads(config.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{config}: {error}")
        return {}
    types = _types()
    sections = {key.partition(".")[0] for key in types if "." in key}
    found: dict[str, _Given] = {}
    for name, value in document.items():
        if name in sections and isinstance(value, dict):
            found.update({f"{name}.{field}": _Given(each, str(config), False) for field, each in value.items()})
        else:
            found[name] = _Given(value, str(config), False)
    unknown = [key for key in found if key not in types]
    problems += [f"{config}: unknown key {key}{_hint(key, [*types, *sections])}" for key in unknown]
    return {key: each for key, each in found.items() if key in types}


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    keys = WELL_KNOWN | {_variable(key): key for key in _types()}  # the well-known first: ours win
    found: dict[str, _Given] = {}
    for variable, key in keys.items():
        if variable in environ:
            found[key] = _Given(environ[variable], variable, True)
        if key in SECRETS and (file := f"{variable}_FILE") in environ:
            if variable in environ:
                problems.append(f"{variable} and {file} are both set: one of them, please")
            elif (text := _read_secret(file, environ[file], problems)) is not None:
                found[key] = _Given(text, file, True)
    known = set(keys) | {f"{variable}_FILE" for variable, key in keys.items() if key in SECRETS}
    unknown = [name for name in sorted(environ) if name.startswith(PREFIX) and name not in known]
    problems += [f"unknown setting {name} in the environment{_hint(name, known)}" for name in unknown]
    return found


def _read_secret(variable: str, path: str, problems: list[str]) -> str | None:
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{variable}: {error}")
        return None


def _hint(key: str, known: Iterable[str]) -> str:
    by_ending = {each.removeprefix(PREFIX): each for each in known}  # what all share would make all alike
    close = difflib.get_close_matches(key.removeprefix(PREFIX), by_ending, n=1, cutoff=0.7)
    return f"; did you mean {by_ending[close[0]]}?" if close else ""


def _convert(key: str, given: _Given, problems: list[str]) -> Any:
    """The value in its type, or a line in `problems` that never shows a secret."""
    value, expected = given.value, _types()[key]
    if given.is_text and get_origin(expected) is tuple:
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(value, expected, strict=not given.is_text)
    except msgspec.ValidationError as error:
        shown = "" if key in SECRETS else f" (it is {given.value!r})"
        problems.append(f"{given.place}: {key}: {_readable(expected, str(error))}{shown}")
        return None


def _readable(expected: Any, message: str) -> str:
    if Origin in get_args(expected):
        return "each origin is * or scheme://host[:port] without a path"
    if Broker in get_args(expected):
        return "each server is host:port"
    return message.replace("`", "").removesuffix(" - at $")


def _assemble(values: Mapping[str, Any]) -> Settings:
    sections: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (sections.setdefault(section, {}) if section else top)[name] = value
    types = get_type_hints(Settings)
    return Settings(**top, **{name: types[name](**fields) for name, fields in sections.items()})


def _check_together(settings: Settings, problems: list[str]) -> None:
    """What no single field's bounds can say."""
    for name, secret in (("secret", settings.auth.secret), ("previous_secret", settings.auth.previous_secret)):
        if secret and len(secret.encode()) < MIN_SECRET_BYTES:
            problems.append(f"auth.{name}: at least {MIN_SECRET_BYTES} bytes, or tokens can be forged by trying")
        if secret.startswith("-----BEGIN"):
            problems.append(f"auth.{name}: a secret for HS256, not a key of the others: those come from auth.jwks_url")
    if settings.auth.jwks_url and not _is_plain_url(settings.auth.jwks_url):
        problems.append("auth.jwks_url: begins with https:// (or http://), without user and password")
    problems += [
        f"server.trusted_proxies: {proxy} is no network such as 10.0.0.0/8, nor an address"
        for proxy in settings.server.trusted_proxies
        if not _is_network(proxy)
    ]
    if settings.database.url and urlsplit(settings.database.url).scheme not in ("postgres", "postgresql"):
        problems.append("database.url: begins with postgresql://")
    if settings.redis.url and urlsplit(settings.redis.url).scheme not in ("redis", "rediss", "unix"):
        problems.append("redis.url: begins with redis:// (or rediss://, unix://)")
    if settings.redis.url and not settings.kafka.bootstrap_servers:
        problems.append(
            "redis.url: needs kafka.bootstrap_servers, since only nodes that talk through Kafka ask Redis who is where"
        )
    if settings.push.provider == "fcm" and not settings.push.fcm_credentials_file:
        problems.append("push.fcm_credentials_file: needed with push.provider = fcm")
    if not _is_plain_url(settings.push.fcm_url):
        problems.append("push.fcm_url: begins with https:// (or http://), without user and password")
    unpushable = NEVER_PUSHED.intersection(settings.push.types)
    if unpushable:
        problems.append(f"push.types: {', '.join(sorted(unpushable))} is never pushed")
    if settings.socket.send_queue_bytes < settings.socket.max_message_bytes:
        problems.append("socket.send_queue_bytes: at least socket.max_message_bytes")
    if settings.lane.queue < settings.lane.batch:
        problems.append("lane.queue: at least lane.batch")
    try:
        failpoints.parse(settings.failpoints)
    except failpoints.BadFailpoint as error:
        problems.append(f"failpoints: {error}")


def _is_plain_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("https", "http") and bool(parts.hostname) and parts.username is None
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
