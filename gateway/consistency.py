"""What no single setting's bounds can say."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from gateway import failpoints
from gateway.settings import Settings
from handlers.events.rules import RESERVED_TYPES

MIN_SECRET_BYTES: Final = 16  # RFC 7518 asks for 32 with HS256, as generated ones have; many in use are shorter
NEVER_PUSHED: Final = RESERVED_TYPES - {"message_preview"}


def contradictions(settings: Settings) -> list[str]:
    """A line for each problem, naming the key."""
    problems: list[str] = []
    for name, secret in (("secret", settings.auth.secret), ("previous_secret", settings.auth.previous_secret)):
        if secret and len(secret.encode()) < MIN_SECRET_BYTES:
            problems.append(f"auth.{name}: at least {MIN_SECRET_BYTES} bytes, or tokens can be forged by trying")
        if secret.startswith("-----BEGIN"):
            problems.append(f"auth.{name}: a secret for HS256, not a key of the others: those come from auth.jwks_url")
    if settings.auth.jwks_url and not _is_plain_url(settings.auth.jwks_url):
        problems.append("auth.jwks_url: begins with https:// (or http://), without user and password")
    problems += [
        f"server.trusted_proxies: {proxy} is no network such as 10.0.0.0/8, nor an address"
        for proxy in settings.server.trusted_proxies
        if not _is_network(proxy)
    ]
    if settings.database.url and urlsplit(settings.database.url).scheme not in ("postgres", "postgresql"):
        problems.append("database.url: begins with postgresql://")
    if settings.redis.url and urlsplit(settings.redis.url).scheme not in ("redis", "rediss", "unix"):
        problems.append("redis.url: begins with redis:// (or rediss://, unix://)")
    if settings.redis.url and not settings.kafka.bootstrap_servers:
        problems.append(
            "redis.url: needs kafka.bootstrap_servers, since only nodes that talk through Kafka ask Redis who is where"
        )
    if settings.push.provider == "fcm" and not settings.push.fcm_credentials_file:
        problems.append("push.fcm_credentials_file: needed with push.provider = fcm")
    if not _is_plain_url(settings.push.fcm_url):
        problems.append("push.fcm_url: begins with https:// (or http://), without user and password")
    unpushable = NEVER_PUSHED.intersection(settings.push.types)
    if unpushable:
        problems.append(f"push.types: {', '.join(sorted(unpushable))} is never pushed")
    if settings.socket.send_queue_bytes < settings.socket.max_message_bytes:
        problems.append("socket.send_queue_bytes: at least socket.max_message_bytes")
    if settings.lane.queue < settings.lane.batch:
        problems.append("lane.queue: at least lane.batch")
    try:
        failpoints.parse(settings.failpoints)
    except failpoints.BadFailpoint as error:
        problems.append(f"failpoints: {error}")
    return problems


def _is_plain_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("https", "http") and bool(parts.hostname) and parts.username is None
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
