"""Pushes as the settings have them: the provider, the job for it, and its clock."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from fanout.presence import Presence
from gateway.clock.push import PushClock
from gateway.clock.session import Connect
from gateway.metrics.registry import Show
from gateway.metrics.work import of_push
from gateway.push.fcm import BadCredentials, FcmProvider, read_account
from gateway.push.recording import RecordingProvider
from gateway.settings import BadSettings, Settings
from gateway.supervisor import Supervisor
from handlers.push.job import Limits, PushJob
from handlers.push.provider import Provider


def start_push(
    settings: Settings,
    supervisor: Supervisor,
    show: Show,
    stack: AsyncExitStack,
    *,
    presence: Presence,
    connect: Connect,
) -> PushClock | None:
    """Who is not connected is told by somebody else from here on; None where there is nobody. Raises BadSettings."""
    provider = provider_of(settings, supervisor)
    if provider is None:
        return None
    stack.push_async_callback(provider.close)

    async def devices_of(user_id: int) -> list[str]:
        return [each.device_id for each in await presence.connections_of(user_id)]

    push, socket = settings.push, settings.socket
    limits = Limits(
        types=push.types,
        after_s=push.after_s,
        recheck_s=socket.ping_interval_s + socket.ping_timeout_s,
        max_age_s=push.max_age_s,
        most_events=push.most_events,
        in_flight=push.in_flight,
        timeout_s=push.timeout_s,
    )
    job = PushJob(provider=provider, devices_of=devices_of, spawn=supervisor.spawn, limits=limits, clock=time.monotonic)
    clock = PushClock(connect=connect, job=job)
    supervisor.start("push", clock.push())
    show(partial(of_push, job))
    return clock


def provider_of(settings: Settings, supervisor: Supervisor) -> Provider | None:
    """None where nobody brings pushes. Raises BadSettings."""
    push = settings.push
    if push.provider == "recording":
        return RecordingProvider(Path(push.recording_file or settings.data_path / "pushes.jsonl").expanduser())
    if push.provider == "fcm":
        try:
            account = read_account(Path(push.fcm_credentials_file).expanduser())
        except BadCredentials as error:
            raise BadSettings([f"push.fcm_credentials_file: {error}"]) from None
        return FcmProvider(
            url=push.fcm_url,
            account=account,
            timeout_s=push.timeout_s,
            most_connections=push.in_flight,
            spawn=supervisor.spawn,
        )
    return None
