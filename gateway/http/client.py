"""`GET /applause.js`: the reference client, for every app that wants it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from aiohttp import web

MODULE: Final = Path(__file__).parent.parent / "console" / "applause.js"
# Public code without a secret in it: any page may import it, and asks each time whether there is a newer one.
HEADERS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Cache-Control": "public, no-cache",
    "X-Content-Type-Options": "nosniff",
}
_IMPORT: Final = re.compile(r'^import \{[^}]*\} from "(\./[\w/]+\.js)";\n+', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?=async |class |const |function )", re.MULTILINE)


def client_routes() -> list[web.RouteDef]:
    """The client as one file, so that it can also be copied into an app."""
    body = join_module(MODULE).encode()
    etag = hashlib.sha256(body).hexdigest()[:32]

    async def get_client(request: web.Request) -> web.Response:
        if any(tag.value in (etag, "*") for tag in request.if_none_match or ()):
            response = web.Response(status=304, headers=HEADERS)
        else:
            response = web.Response(body=body, content_type="text/javascript", charset="utf-8", headers=HEADERS)
        response.etag = etag
        return response

    return [web.get("/applause.js", get_client)]


def join_module(path: Path) -> str:
    """An ES module with its own relative imports put in place of the import statements, each once."""
    return _joined(path, set())


def _joined(path: Path, seen: set[Path]) -> str:
    def inline(statement: re.Match[str]) -> str:
        part = (path.parent / statement[1]).resolve()
        if part in seen:
            return ""
        seen.add(part)
        return _EXPORT.sub("", _joined(part, seen)) + "\n"

    return _IMPORT.sub(inline, path.read_text(encoding="utf-8"))
