"""Connections to PostgreSQL, and what its errors mean for whoever asked."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import asyncpg

CONNECT_TIMEOUT_S: Final = 4.0  # an action that waits is answered within 5 s of its receipt

# Sessions keep their plans for weeks. With a generic plan cached while the tables were small, one read of the lane grew
# from 50 to 250 ms a batch, a hundred inboxes took 2.4 s; where every statement has an index to go by, the other plans
# are never right.
BY_INDEX: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",  # switched-off plans count as expensive before PostgreSQL 18, and would be compiled each time
}
# The time-outs are for the other nodes: a lane that freezes with locks held must not stop them.
LANE_SETTINGS: Final = {
    **BY_INDEX,
    "idle_in_transaction_session_timeout": "2s",
    "lock_timeout": "250ms",
}

# Of all of a node's sessions; more than any transaction may be idle. The driver prepares a statement and then executes
# it; a node that freezes in between is not idle for PostgreSQL, and kept what it had locked for as long as it froze.
# Before PostgreSQL 17 there is nothing against that.
TRANSACTION_TIMEOUT = "20s"
TIMES_OUT_SINCE: Final = (17,)

NO_SETTINGS: Final[Mapping[str, str]] = {}

OnConnect = Callable[[asyncpg.Connection], Coroutine[Any, Any, None]]


async def create_pool(
    dsn: str,
    *,
    size: int,
    command_timeout_s: float = 10.0,
    on_connect: OnConnect | None = None,
    settings: Mapping[str, str] = NO_SETTINGS,
) -> asyncpg.Pool:
    """A pool of at most `size` connections, all opened on demand: asyncpg logs a traceback for each try to keep some
    open while the database is away. No transaction lasts longer than TRANSACTION_TIMEOUT.

    `on_connect` sees each new connection once before anybody uses it (the gateway compares the epoch there), `settings`
    hold for all of its sessions.
    """

    async def begin(conn: asyncpg.Connection) -> None:
        await _limit_transactions(conn)
        if on_connect is not None:
            await on_connect(conn)

    return await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=command_timeout_s,
        init=begin,
        reset=_leave_as_it_is,
        server_settings={"application_name": "applause", **settings},
    )


async def _leave_as_it_is(_: asyncpg.Connection) -> None:
    """Nobody sets anything on a pooled session, or only for a transaction; by default each release of one costs the
    round trip of a RESET ALL. An open transaction is rolled back all the same."""


async def connect(dsn: str) -> asyncpg.Connection:
    """One connection for a command, a listener or a service of its own."""
    return await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": "applause"})


async def connect_lane(dsn: str, *, command_timeout_s: float = 10.0) -> asyncpg.Connection:
    """A connection for a lane, with LANE_SETTINGS from its first statement on. No transaction lasts longer than
    TRANSACTION_TIMEOUT."""
    conn = await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=command_timeout_s,
        server_settings={"application_name": "applause lane", **LANE_SETTINGS},
    )
    try:
        await _limit_transactions(conn)
    except BaseException:
        conn.terminate()
        raise
    return conn


async def _limit_transactions(conn: asyncpg.Connection) -> None:
    if conn.get_server_version() >= TIMES_OUT_SINCE:
        await conn.execute(f"SET transaction_timeout = '{TRANSACTION_TIMEOUT}'")


_LOST: Final = (
    OSError,  # refused, reset, unreachable, no such host
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # the protocol was cut in the middle of an answer
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InvalidCatalogNameError,  # another database is just put in its place, as after a restore
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # a server that was demoted under us
)


def is_connection_lost(error: BaseException) -> bool:
    """Whether the database is away rather than unwilling: connect again, and repeat.

    If it came around a COMMIT, the outcome is unknown: only a repetition under the same keys is safe.
    """
    if isinstance(error, asyncpg.InterfaceError):  # also says "another operation is in progress", a fault of ours
        return "clos" in str(error)
    return isinstance(error, _LOST)


def is_retryable(error: BaseException) -> bool:
    """Whether the same transaction, run again, may pass: serialization failure (40001), deadlock (40P01), or a key of a
    backend that somebody else took a moment ago, and whose outcome can be read now."""
    if isinstance(error, asyncpg.UniqueViolationError):
        return error.constraint_name == "backend_requests_pkey"
    return isinstance(error, (asyncpg.SerializationError, asyncpg.DeadlockDetectedError))


def is_lock_timeout(error: BaseException) -> bool:
    """Whether somebody else held a lock for longer than `lock_timeout` (55P03); nothing was done."""
    return isinstance(error, asyncpg.LockNotAvailableError)
