"""Apps on the reference client: each a process of Node, so that one can be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

from tests.support.absence import not_run
from tests.support.clients import JsPhone, Node, node_path

DRIVER: Final = Path(__file__).with_name("app.mjs")
MODULES: Final = DRIVER.parents[2] / "node_modules"


class Device(Node):
    """A process of Node in which apps live, and which can be killed."""

    async def kill(self) -> None:
        """SIGKILL: the apps get no chance to do anything."""
        self._process.kill()
        await self._process.wait()
        await self._reading
        for app in self.phones.values():
            if app.connected:
                app.note("disconnect", "killed")


class App(JsPhone):
    """One app: `call` asks, `act` goes through the outbox."""

    async def begin(
        self,
        url: str,
        *tokens: str,
        folder: Path | None = None,
        slow: bool = False,
        official: bool = False,
        **options: Any,
    ) -> None:
        """Begin to connect; `folder`: its storage, in memory without one; `slow`: an asynchronous one."""
        await self._node.tell(
            do="open", at=self._name, tokens=tokens, folder=folder and str(folder), slow=slow, official=official,
            options={"url": url, **options},
        )  # fmt: skip

    async def tell(self, do: str, **details: Any) -> None:
        """Another command of the driver's."""
        await self._node.tell(do=do, at=self._name, **details)

    async def call(self, event: str, *args: Any) -> Any:
        return await self._answer("ask", event, args[0] if args else {})

    def act(self, event: str, **payload: Any) -> asyncio.Task[Any]:
        """An action, which may wait; its answer."""
        return asyncio.create_task(self._answer("act", event, payload))

    async def acts(self, *actions: tuple[str, dict[str, Any]]) -> list[asyncio.Task[Any]]:
        """Several, in the outbox when this returns; the promises of their answers."""
        before = len(self.of("outbox"))
        tasks = [self.act(event, **payload) for event, payload in actions]
        await self.hear("outbox", before + len(actions))
        return tasks

    async def online(self, times: int = 1) -> None:
        """Return when it has been online so often."""
        await self.hear("resumed", times)

    async def snapshot(self) -> Any:
        """Its `state`, `lastSeq`, `epoch` and `outbox`."""
        count = len(self.of("snapshot")) + 1
        await self.tell("state")
        return (await self.hear("snapshot", count))[-1]

    async def close(self) -> None:
        with contextlib.suppress(ConnectionError):
            if self.connected:
                await super().close()

    async def _answer(self, do: str, event: str, payload: dict[str, Any]) -> Any:
        number = next(self._ids)
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        await self.tell(do, id=number, event=event, payload=payload)
        return await answer


async def start_device(module: Path) -> Device:
    """A process of Node with the driver and the client in the file `module`; skips where there is none."""
    if not (MODULES / "socket.io-client").exists():
        not_run("client", "the official JavaScript client is missing (make test installs it, or: npm ci)")
    process = await asyncio.create_subprocess_exec(
        node_path(), str(DRIVER), str(module), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )  # fmt: skip
    return Device(process)
