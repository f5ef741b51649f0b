"""Query parameters of lists: unknown ones are ignored, wrong values refused with the field's name (spec 7)."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from handlers.errors import Refusal
from handlers.wire import MAX_USER_ID

_DIGITS: Final = re.compile(r"[0-9]{1,16}")


def limit_of(request: web.Request, default: int = 50, most: int = 100) -> int:
    """`?limit=`: rows of a page, 1 to `most`. Raises Refusal `invalid_payload`."""
    text = _only(request, "limit")
    if text is None:
        return default
    if not _DIGITS.fullmatch(text) or not 1 <= int(text) <= most:
        raise Refusal("invalid_payload", f"`limit` is a number from 1 to {most}.", field="limit")
    return int(text)


def cursor_of(request: web.Request, pattern: str) -> str | None:
    """`?cursor=`: where a page begins, as a `nextCursor` that the whole `pattern` fits; None from the start.
    Raises Refusal `invalid_payload`."""
    text = _only(request, "cursor")
    if text is not None and not re.fullmatch(pattern, text):
        raise Refusal("invalid_payload", "`cursor` is no `nextCursor` of this list.", field="cursor")
    return text


def number_of(request: web.Request, name: str) -> int | None:
    """`?name=`: a whole number from 0 to 2^53 - 1; None where it is not given. Raises Refusal `invalid_payload`."""
    text = _only(request, name)
    if text is None:
        return None
    if not _DIGITS.fullmatch(text) or int(text) > MAX_USER_ID:
        raise Refusal("invalid_payload", f"`{name}` is a number from 0 to 2^53 - 1.", field=name)
    return int(text)


def _only(request: web.Request, name: str) -> str | None:
    """The parameter's one value; given twice it says two things."""
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise Refusal("invalid_payload", f"`{name}` was given more than once.", field=name)
    return values[0] if values else None
