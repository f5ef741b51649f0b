"""Which field an error is about, in all the ways in which msgspec says it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from gateway.payloads import decode
from handlers.errors import Refusal


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class Outer(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    user_name: Annotated[str, msgspec.Meta(max_length=3)]
    rows: list[Inner] = []
    extra: dict[str, Any] = {}


OUTER = msgspec.json.Decoder(Outer)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "userName"),
        (b'{"userName":1}', "userName"),
        (b'{"userName":"long"}', "userName"),
        (b'{"userName":"a","user_name":1}', "user_name"),
        (b'{"userName":"a","rows":[{"name":"a"},{}]}', "rows"),
        (b'{"userName":"a","rows":[{"name":2}]}', "rows"),
        (b'{"userName":"a","rows":[{"name":"a","x":2}]}', "rows"),
        (b'{"userName":"a","a`b":2}', "a`b"),
        (b'{"userName":"a","a - at `$.b`":2}', "a - at `$.b`"),
        (b'{"userName":"a","' + b"x" * 5000 + b'":2}', "x" * 64),
        (b'{"userName":"a","extra":{"deep":1e400}}', "extra"),
        (b'{"userName":"a","":2}', None),
        (b"[]", None),
        (b"", None),
        (b"{", None),
        (b'{"userName":"\xff"}', None),
        (b'{"userName":"\\ud800"}', None),
        (b'{"userName":"a","extra":' + b'{"a":' * 9000, None),
    ],
)
def test_the_field_is_named_and_nothing_is_quoted(body: bytes, field: str | None) -> None:
    with pytest.raises(Refusal) as refused:
        decode(OUTER, body)
    assert (refused.value.code, refused.value.field) == ("invalid_payload", field)
    assert len(refused.value.message) < 200
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
