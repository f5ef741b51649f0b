"""Query parameters of lists: what is taken, and the field that a refusal names."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.http.queries import cursor_of, limit_of, number_of
from handlers.errors import Refusal


def asked(query: str) -> Any:
    return make_mocked_request("GET", f"/v1/list{query}")


@pytest.mark.parametrize(
    ("query", "limit"), [("", 50), ("?limit=1", 1), ("?limit=100", 100), ("?limit=007", 7), ("?other=x", 50)]
)
def test_limits_that_are_taken(query: str, limit: int) -> None:
    assert limit_of(asked(query)) == limit


def test_a_list_may_have_limits_of_its_own() -> None:
    assert limit_of(asked(""), default=100, most=500) == 100
    assert limit_of(asked("?limit=500"), default=100, most=500) == 500


@pytest.mark.parametrize(
    "text", ["0", "101", "-1", "+1", "1.0", "1e1", "x", "", "%20", "%D9%A1", "1%0A", "1%00", "9" * 400, "1&limit=2"]
)
def test_limits_that_are_not(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        limit_of(asked(f"?limit={text}"))
    assert (refused.value.code, refused.value.field) == ("invalid_payload", "limit")


def test_a_cursor_fits_its_list_s_pattern_as_a_whole() -> None:
    assert cursor_of(asked(""), r"[0-9]{1,16}") is None
    assert cursor_of(asked("?cursor=12"), r"[0-9]{1,16}") == "12"
    assert cursor_of(asked("?cursor=a%7Cb"), r"[a-z]\|[a-z]") == "a|b"
    for text in ("", "x", "12x", "x12", "12%0A", "1" * 17, "1&cursor=2"):
        with pytest.raises(Refusal) as refused:
            cursor_of(asked(f"?cursor={text}"), r"[0-9]{1,16}")
        assert (refused.value.code, refused.value.field) == ("invalid_payload", "cursor")


def test_numbers() -> None:
    assert number_of(asked(""), "afterSeq") is None
    assert number_of(asked("?afterSeq=0"), "afterSeq") == 0
    assert number_of(asked(f"?afterSeq={2**53 - 1}"), "afterSeq") == 2**53 - 1
    for text in ("", "-1", "x", str(2**53), "1.5", "1" * 17):
        with pytest.raises(Refusal) as refused:
            number_of(asked(f"?afterSeq={text}"), "afterSeq")
        assert (refused.value.code, refused.value.field) == ("invalid_payload", "afterSeq")
