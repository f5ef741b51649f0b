"""A load process: `python -m loadtest.worker`. It is told its order on a line of standard input, then one step a line,
and answers each with its count. It ends when its input does, so it outlives nobody."""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop

from loadtest.crew import LINE_BYTES, STEPS, Order, take
from loadtest.scenarios.chat import ChatJob
from loadtest.scenarios.crowd import CrowdJob
from loadtest.scenarios.echo import EchoJob
from loadtest.scenarios.fanout import FanoutJob
from loadtest.scenarios.group import GroupJob
from loadtest.scenarios.growth import GrowthJob
from loadtest.scenarios.intake import IntakeJob
from loadtest.scenarios.likes import LikesJob
from loadtest.scenarios.mixed import MixedJob
from loadtest.scenarios.storm import StormJob

AnyJob = ChatJob | CrowdJob | EchoJob | FanoutJob | GroupJob | GrowthJob | IntakeJob | LikesJob | MixedJob | StormJob


async def work() -> None:
    """Take the steps of standard input until it ends."""
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    order = msgspec.json.decode(await reader.readline(), type=Order)
    job: AnyJob = msgspec.json.decode(order.job, type=AnyJob)
    part = job.part(order.door, order.share)
    while step := (await reader.readline()).decode().strip():
        if step not in STEPS:
            raise ValueError(step)
        sys.stdout.buffer.write(msgspec.json.encode(await take(part, step)) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(work())
