"""One of several workers: a node like any other, under a parent (`parent.py`) that starts it like this:

    python -P -m gateway.workers.worker NUMBER < mandate

It ends with its parent, however that ends.
"""

from __future__ import annotations

import socket
import sys
from contextlib import AsyncExitStack

import msgspec
import structlog
import uvloop

from fanout.line import PARENT, Line
from gateway import logs
from gateway.process import serve_until_the_end
from gateway.settings import Settings
from gateway.supervisor import Supervisor
from gateway.wiring import Node
from gateway.workers.team import PING, READY, Team


class Mandate(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to do: on standard input, since secrets are in it."""

    settings: Settings
    dsn: str
    demo: bool
    number: int
    team: str
    line: int  # descriptor of its end of the line


async def work(mandate: Mandate) -> int:
    """Serve until SIGTERM (0) or until a service, or the parent, dies (1)."""
    settings = mandate.settings
    logs.configure(settings.log.level, settings.log.format)
    structlog.contextvars.bind_contextvars(worker=mandate.number)
    async with AsyncExitStack() as stack:
        supervisor = Supervisor()
        line = Line(mandate.number, supervisor.spawn)
        await line.open(socket.socket(fileno=mandate.line))
        stack.callback(line.close)
        stack.push_async_callback(supervisor.stop)
        line.answer(PING, _pong)
        supervisor.start("line to the parent", line.ended())
        team = Team(line, mandate.team, settings.server.workers)
        node = Node(settings, mandate.dsn, supervisor, team)
        await node.start(stack, demo=mandate.demo)

        async def tell(_: int) -> None:
            await line.ask(PARENT, READY)

        return await serve_until_the_end(node, supervisor, stack, tell)


async def _pong(_: int, __: bytes) -> bytes:
    return b""


def main() -> None:
    """Do what standard input says."""
    mandate = msgspec.json.decode(sys.stdin.buffer.read(), type=Mandate)
    raise SystemExit(uvloop.run(work(mandate)))


if __name__ == "__main__":
    main()
