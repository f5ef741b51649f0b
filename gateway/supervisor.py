"""One owner for all tasks: a service that dies ends the process with its reason, a short task's failure is logged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from fanout.tasks import Backoff

STOP_PATIENCE_S: Final = 5.0
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 15.0


class ServiceDied(Exception):
    """A service ended though nobody asked it to. Its cause, if it raised, is `__cause__`."""

    def __init__(self, name: str, error: BaseException | None) -> None:
        super().__init__(f"the service {name} ended by itself: {_reason(error)}")
        self.name = name
        self.__cause__ = error


def _reason(error: BaseException | None) -> str:
    if isinstance(error, BaseExceptionGroup):  # of tasks that failed together: the first says why
        return _reason(error.exceptions[0])
    return f"{type(error).__name__}: {error}" if error else "it returned"


class Supervisor:
    """Starts services and short tasks, holds on to them, and stops them all."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()
        self._services: list[asyncio.Task[Any]] = []
        self._short: set[asyncio.Task[Any]] = set()
        self._death: asyncio.Future[ServiceDied] = asyncio.get_running_loop().create_future()
        self._stopping = False

    def start(self, name: str, service: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run what must run for as long as the process does. If it returns or raises, `died` hears of it."""
        task = asyncio.create_task(service, name=name)
        self._services.append(task)
        task.add_done_callback(self._service_ended)
        return task

    def keep(self, name: str, live: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[Any]:
        """Run what is begun again whenever it ends or fails, after pauses that grow: for what stands on somebody else's
        being there, so that their absence does not end the process."""
        return self.start(name, self._live_again(name, live))

    async def _live_again(self, name: str, live: Callable[[], Coroutine[Any, Any, None]]) -> None:
        backoff = Backoff(first=FIRST_PAUSE_S, most=LONGEST_PAUSE_S)
        while True:
            began_at = time.monotonic()
            error: Exception | None = None
            try:
                await live()
            except Exception as failure:
                error = failure
            if time.monotonic() - began_at > LONGEST_PAUSE_S:
                backoff.reset()
            pause_s = backoff.next()
            self._log.warning("service.begins_again", service=name, error=_reason(error), pause_s=round(pause_s, 1))
            await asyncio.sleep(pause_s)

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        """Run something that ends by itself. Nobody has to await it: a failure is logged."""
        task = asyncio.create_task(work, name=name or getattr(work, "__qualname__", None))
        self._short.add(task)  # asyncio itself holds tasks weakly
        task.add_done_callback(self._short_ended)
        return task

    async def died(self) -> ServiceDied:
        """Wait until a service has died, and return how. Never returns if all goes well."""
        return await asyncio.shield(self._death)

    async def stop(self) -> None:
        """Cancel everything, the service started last first, and wait until each has ended. Safe to call twice."""
        self._stopping = True
        for service in reversed(self._services):
            await self._cancel({service})
        self._services.clear()
        while self._short:  # one may start another while it ends
            if not await self._cancel(set(self._short)):
                return

    async def _cancel(self, tasks: set[asyncio.Task[Any]]) -> bool:
        """Whether all ended in time; those that did not are named in the log and left behind."""
        for task in tasks:
            task.cancel()
        _, late = await asyncio.wait(tasks, timeout=STOP_PATIENCE_S)
        for task in late:
            self._log.error("task.does_not_end", task=task.get_name(), after_s=STOP_PATIENCE_S)
        return not late

    def _service_ended(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._stopping:
            if error is not None:
                self._log.error("service.failed_while_stopping", service=task.get_name(), error=repr(error))
        elif not self._death.done():
            self._death.set_result(ServiceDied(task.get_name(), error))

    def _short_ended(self, task: asyncio.Task[Any]) -> None:
        self._short.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("task.failed", task=task.get_name(), exc_info=error)
