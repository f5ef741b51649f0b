"""The provider that the settings name, and the job for it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.push.fcm import BadCredentials, FcmProvider, read_account
from gateway.push.recording import RecordingProvider
from gateway.settings import BadSettings, Settings
from gateway.supervisor import Supervisor
from handlers.push.job import Limits, PushJob
from handlers.push.provider import Provider


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


def job_of(
    settings: Settings, provider: Provider, supervisor: Supervisor, devices_of: Callable[[int], Awaitable[list[str]]]
) -> PushJob:
    """The job for it, within the settings' limits."""
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
    return PushJob(
        provider=provider, devices_of=devices_of, spawn=supervisor.spawn, limits=limits, clock=time.monotonic
    )
