"""Fixtures that every test may ask for."""

from __future__ import annotations

import hypothesis

from tests.support.database import conn, dsn, pool, postgres

__all__ = ["conn", "dsn", "pool", "postgres"]

hypothesis.settings.register_profile("applause", deadline=None)  # the machine may be busy
hypothesis.settings.load_profile("applause")
