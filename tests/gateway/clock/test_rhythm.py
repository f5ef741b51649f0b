"""What of a chore's failures passes."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from gateway.clock.rhythm import Chore


async def test_only_the_first_failure_in_a_row_is_logged() -> None:
    outcomes = [ConnectionRefusedError, TimeoutError, None, ConnectionRefusedError]

    async def look() -> None:
        if (error := outcomes.pop(0)) is not None:
            raise error

    chore = Chore("look", look)
    with capture_logs() as lines:
        for _ in range(4):
            await chore.attempt()
    assert [(line["event"], line["chore"], line["error"]) for line in lines] == [
        ("chore_postponed", "look", "ConnectionRefusedError"),
        ("chore_postponed", "look", "ConnectionRefusedError"),
    ]


async def test_a_fault_of_ours_is_no_reason_to_go_on() -> None:
    async def look() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Chore("look", look).attempt()
