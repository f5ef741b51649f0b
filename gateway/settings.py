"""What can be set, with defaults and bounds. Where values come from is in `gateway/configuration.py`, what no single
one's bounds can say in `gateway/consistency.py`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from fanout.line import MOST_WORKERS
from handlers.money import MAX_MINOR

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


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the TOML file."""


class Server(Section, frozen=True):
    host: Name = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8080  # 0: any free one
    # Processes that share the port, each a node with a pool of its own, under a parent; 1: one process and no parent.
    workers: Annotated[int, msgspec.Meta(ge=1, le=MOST_WORKERS)] = 1
    # Networks (CIDR) of proxies in front: what they say in X-Forwarded-For of a client's address is believed.
    trusted_proxies: tuple[Name, ...] = ()


class Database(Section, frozen=True):
    url: str = ""  # empty: a PostgreSQL of our own in data_dir
    pool_size: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 6
    binaries: str = ""  # folder of the PostgreSQL to run where url is empty; empty: found by itself


class Redis(Section, frozen=True):
    url: str = ""  # of presence, beside Kafka: redis://[:password@]host[:port][/database]; empty: none


class Kafka(Section, frozen=True):
    bootstrap_servers: tuple[Broker, ...] = ()  # what nodes tell each other goes there; empty: through PostgreSQL
    # How the names of all topics, and of the keys in Redis, begin. Clusters that share a Kafka or a Redis need others.
    prefix: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,100}\Z")] = "applause"
    # Of the topic that nodes talk on, where it has to be created: one is for all, of the others each node reads one.
    fanout_partitions: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 8


class Intake(Section, frozen=True):
    """What other backends write to Kafka."""

    enabled: bool = True  # whether this node takes part; without kafka.bootstrap_servers none does
    partitions: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 8  # of each topic, where it has to be created
    in_flight: Count = 1_000  # records, or their recipients, that are in the lane at once: two of its batches
    session_timeout_s: Annotated[float, msgspec.Meta(ge=1, le=300)] = 10  # then the others take a silent node's work


class Egress(Section, frozen=True):
    """The ledger as Kafka's consumers see it."""

    enabled: bool = True  # whether this node may publish, one does at a time; without kafka.bootstrap_servers none does
    partitions: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 8  # of the topic, where it has to be created
    lease_s: Annotated[float, msgspec.Meta(ge=1, le=300)] = 10  # then another node takes a silent one's work


class Auth(Section, frozen=True):
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


class Users(Section, frozen=True):
    create_unknown: bool = True
    # The master of follow counts: the app's backend (PUT /v1/users), or the verbs profile:follow and its opposite.
    follow_counts: Literal["directory", "applause"] = "directory"

    @property
    def follows_count(self) -> bool:
        """Whether the verbs are the master."""
        return self.follow_counts == "applause"


class Socket(Section, frozen=True):
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


class Limits(Section, frozen=True):
    # Of one user; two seconds' worth at once.
    actions_per_second: Annotated[float, msgspec.Meta(ge=0.1, le=1_000_000)] = 50


class Lane(Section, frozen=True):
    batch: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 500
    queue: Count = 10_000
    # An action is answered within 5 s: its last batch may take 0.4 s beyond this, and the loop may be busy.
    deadline_s: Annotated[float, msgspec.Meta(ge=0.1, le=4.5)] = 4.3


class Inbox(Section, frozen=True):
    page: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 500
    compare_every_s: Seconds = 3
    # What an inbox keeps: so many events and days, whichever is less, trimmed that often on one of the nodes.
    retention_events: Count = 10_000
    retention_days: Annotated[float, msgspec.Meta(gt=0, le=36_500)] = 30
    trim_every_s: Annotated[float, msgspec.Meta(ge=0.1, le=30)] = 15


class Events(Section, frozen=True):
    chunk_recipients: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 500  # who get an event in one transaction
    max_recipients: Annotated[int, msgspec.Meta(ge=1, le=50_000)] = 10_000  # of one event; more would not fit a body


class Messages(Section, frozen=True):
    max_participants: Annotated[int, msgspec.Meta(ge=2, le=256)] = 256  # of one conversation
    # With more participants than these, previews and reads are gathered, and given at most once a second.
    gather_above: Annotated[int, msgspec.Meta(ge=2, le=64)] = 16


class Push(Section, frozen=True):
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


class Wallet(Section, frozen=True):
    # The most that one gift, boost, deduction, correction, price or award may be, in whole units of its currency.
    max_amount: Annotated[int, msgspec.Meta(ge=1, le=MAX_MINOR // 100)] = 1_000_000


class Cluster(Section, frozen=True):
    """Of `applause cluster`."""

    kafka_jars: str = ""  # folder for Kafka's jars; empty: .cache in the project's folder, or in the user's home


class Drain(Section, frozen=True):
    timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3_600)] = 12  # the process ends 3 s after it at most
    reconnect_spread_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 5


class Log(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"  # auto: text at a terminal
    slow_action_ms: CountOrOff = 1_000  # actions and requests that take as long are named in the log; 0: none

    @property
    def slow_s(self) -> float:
        """The same in seconds."""
        return self.slow_action_ms / 1000 or math.inf


class Settings(Section, frozen=True):
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
