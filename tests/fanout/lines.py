"""Lines over real sockets to an exchange in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fanout.exchange import Exchange
from fanout.line import PARENT, Line
from fanout.tasks import Spawn


async def opened(exchange: Exchange, number: int, spawn: Spawn) -> Line:
    """The line of that number, in place of the one that it had."""
    line = Line(number, spawn)
    await line.open(await exchange.attach(number))
    return line


@asynccontextmanager
async def lines(spawn: Spawn, workers: int = 2) -> AsyncIterator[list[Line]]:
    """So many workers' lines, and the parent's behind them."""
    exchange = Exchange()
    made = [await opened(exchange, number, spawn) for number in (*range(workers), PARENT)]
    yield made
    exchange.close()
    for line in made:
        await line.ended()
