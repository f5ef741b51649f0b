"""How this room reaches Redis, and what it looks like when Redis is away.

A connection belongs to one run of one server, so the run that the last connection found is what a mark of an earlier
run is compared with: see `RedisPresence`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

COMMAND_TIMEOUT_S: Final = 0.5
CONNECT_TIMEOUT_S: Final = 1.0
RUN: Final = re.compile(r"^run_id:(\w+)", re.MULTILINE)
POLICY: Final = re.compile(r"^maxmemory_policy:(\w+)", re.MULTILINE)
FORGETFUL: Final = "allkeys"

AWAY: Final = (RedisError, OSError, TimeoutError)
"""What a lost, restarting, full or frozen Redis raises, and one that is still reading its files. All of it is met by
trying again later."""


class RedisLink:
    """A few connections, made when they are needed. A command is never repeated: after a failure nobody knows whether
    it was carried out. `run` is the server's as the newest connection found it, `policy` what it does when full."""

    def __init__(self, url: str) -> None:
        self.run = ""
        self.policy = ""
        self._redis: Any = Redis.from_url(  # its types leave open whether it answers with bytes
            url,
            decode_responses=True,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=COMMAND_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            redis_connect_func=self._greet,
        )

    def script(self, text: str) -> AsyncScript:
        """A Lua script, for `run_script`. One run of it is one step for all who look."""
        script: AsyncScript = self._redis.register_script(text)
        return script

    async def run_script(self, script: AsyncScript, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:
        return _unless_cancelled(await script(keys=keys, args=args))

    async def do(self, *command: Any) -> Any:
        """One command."""
        return _unless_cancelled(await self._redis.execute_command(*command))

    async def close(self) -> None:
        """All connections. Never waits for the server."""
        await self._redis.aclose()

    async def _greet(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        await connection.send_command("INFO")
        answer = str(await connection.read_response())
        found, policy = RUN.search(answer), POLICY.search(answer)
        if found is None:
            raise ConnectionError("the server names no run_id, so its restarts can't be seen")
        self.run = found[1]
        self.policy = policy[1] if policy else ""


T = TypeVar("T")


def _unless_cancelled(answer: T) -> T:
    """Until Python 3.12 `asyncio.wait_for`, which redis-py writes with, may take a cancellation for its own."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    return answer
