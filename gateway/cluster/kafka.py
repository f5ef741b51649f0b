"""A Kafka of our own on loopback: one real Apache Kafka, broker and controller in one process (KRaft)."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from gateway.cluster import jars
from gateway.cluster.service import EmbeddedService
from storage.child import EmbeddedFailed

ANSWER_PATIENCE_MS: Final = 2_000
JVM: Final = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # 3.6 s of CPU to the first answer instead of 6.0; half of it for 150,000 records, too
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",  # it would leave files in /tmp
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
)
# The quorum is named by address, not kept in its own log, so that the ports may be others at the next start.
# Topics are made by those who know how many partitions they need.
# A broker that was killed registers anew when its session has ended.
PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""


def kafka_missing(jar_folder: Path | None = None) -> str | None:
    """Why real Kafka can't run here, or None. `jar_folder` as EmbeddedKafka's."""
    return jars.missing(jar_folder or jars.default_folder())


class EmbeddedKafka(EmbeddedService):
    """One Kafka. What it acknowledged survives a `kill -9` of it, being with the kernel by then.

    Topics are not created by being used. Where `jar_folder` (by default one in the project's cache) is not there yet,
    the jars are fetched into it, which takes a minute.
    """

    name: ClassVar = "Kafka"
    ports_needed: ClassVar = 2
    # Its orderly end may wait for others, and nobody would be left to hurry it.
    end_with_us: ClassVar = signal.SIGKILL
    stop_patience_s: ClassVar = 15.0

    def __init__(self, folder: Path, *, jar_folder: Path | None = None) -> None:
        super().__init__(folder)
        self._jars = jar_folder or jars.default_folder()
        self._data = self.folder / "data"
        self._properties = self.folder / "kafka.properties"

    @property
    def bootstrap(self) -> str:
        """Its address, as Kafka's clients take it. Call after `start`."""
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def address(self) -> str:
        return self.bootstrap

    async def prepare(self) -> Sequence[str | os.PathLike[str]]:
        if (why := jars.missing(self._jars)) is not None:
            raise EmbeddedFailed(why)
        await jars.fetch(self._jars)
        port, controller = self.ports[:2]
        data = str(self._data).replace("\\", "\\\\")  # the one character that means something else in such a file
        self._properties.write_text(PROPERTIES.format(port=port, controller=controller, data=data))
        temporary = self.folder / "tmp"  # for the native libraries that it unpacks
        temporary.mkdir(exist_ok=True)
        java = jars.java()
        assert java is not None
        command = [str(java), *JVM, f"-Djava.io.tmpdir={temporary}", "-cp", f"{self._jars}/*"]
        self._format()
        return [*command, "kafka.Kafka", str(self._properties)]

    def _format(self) -> None:
        """What Kafka's own tool makes of a new folder, without the 1.5 s that a JVM more takes. All else that belongs
        there a broker makes by itself."""
        meta = self._data / "meta.properties"
        if meta.exists():
            return
        self._data.mkdir(exist_ok=True)
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        new = meta.with_suffix(".new")
        new.write_text(f"version=1\nnode.id=1\ncluster.id={cluster}\n")
        new.rename(meta)

    async def answers(self) -> bool:
        _, writer = await asyncio.open_connection("127.0.0.1", self.ports[0])  # quieter than aiokafka while it is away
        writer.close()
        client = AIOKafkaClient(bootstrap_servers=self.bootstrap, request_timeout_ms=ANSWER_PATIENCE_MS)
        try:
            await client.bootstrap()
            return bool(client.cluster.brokers())  # it counts itself when it has registered with its controller
        except KafkaError:
            return False
        finally:
            await client.close()


async def run(folder: Path) -> None:
    """Run one until SIGTERM or SIGINT, and say where it is."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with EmbeddedKafka(folder) as kafka:
        sys.stdout.write(f"Kafka is ready at {kafka.bootstrap}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":  # python -m gateway.cluster.kafka FOLDER, as the load test has it
    try:
        asyncio.run(run(Path(sys.argv[1])))
    except EmbeddedFailed as failure:
        raise SystemExit(str(failure)) from None
