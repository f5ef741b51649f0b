"""What becomes of a test for which something is missing here: it is skipped, which the run's summary says with what is
missing; or it has failed, where that must be there, which `.ci/run` says of whatever it finds the tools for."""

from __future__ import annotations

import os
from typing import Final, Literal, NoReturn

import pytest

Needed = Literal["browser", "client", "kafka", "node", "postgresql", "python", "valkey"]
MUST_RUN: Final = "TESTS_MUST_RUN"  # in the environment: names of the above, between spaces


def not_run(needed: Needed, missing: str) -> NoReturn:
    """End the test, which needs one of those, naming what is missing and how to get it."""
    reason = f"NOT RUN, {missing}"
    if needed in os.environ.get(MUST_RUN, "").split():
        pytest.fail(f"{reason}; and {MUST_RUN} says that tests of {needed} must run here", pytrace=False)
    pytest.skip(reason)
