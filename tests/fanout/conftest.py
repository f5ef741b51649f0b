"""Fixtures of this room."""

from __future__ import annotations

import logging

from tests.fanout.cluster import places, prefix, redis_places

__all__ = ["places", "prefix", "redis_places"]

logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # as gateway.logs has it
