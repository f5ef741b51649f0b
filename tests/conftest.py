"""Fixtures that every test may ask for."""

from __future__ import annotations

import os

import hypothesis

from tests.support.database import conn, dsn, pool, postgres
from tests.support.folders import MEMORY, has_memory
from tests.support.services import kafka, valkey

__all__ = ["conn", "dsn", "kafka", "pool", "postgres", "valkey"]

hypothesis.settings.register_profile("applause", deadline=None)  # the machine may be busy
hypothesis.settings.load_profile("applause")

if has_memory():
    # Where pytest makes folders: a run's servers write 5 GB, and waiting for a disk was a quarter of its time.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
