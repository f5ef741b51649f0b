"""Fixtures that every test may ask for."""

from __future__ import annotations

import hypothesis

from tests.support.database import conn, dsn, pool, postgres
from tests.support.services import kafka, valkey

__all__ = ["conn", "dsn", "kafka", "pool", "postgres", "valkey"]

hypothesis.settings.register_profile("applause", deadline=None)  # the machine may be busy
hypothesis.settings.load_profile("applause")
