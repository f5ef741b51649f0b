"""Refusals as `application/problem+json` (RFC 9457), and no error page of anybody else's."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, Literal

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from structlog.contextvars import bind_contextvars, clear_contextvars

from handlers.errors import HTTP_STATUS, Code, ErrorBody, Refusal
from handlers.wire import encode
from storage.db import is_connection_lost, is_retryable

log = structlog.get_logger()

REQUEST_ID: Final = "X-Request-Id"
_REQUEST_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")
_RETRY_AFTER_MS: Final = 1000

# What aiohttp itself refuses with, as codes of the closed list; any other 4xx is an invalid payload.
_CODES: Final[dict[int, Code]] = {401: "unauthorized", 403: "forbidden", 404: "not_found", 413: "payload_too_large"}


class Problem(ErrorBody, kw_only=True):
    """The standard members beside those of an acknowledgement's error."""

    type: str
    title: str
    status: int
    detail: str
    replayed: bool = False


class _Refused(msgspec.Struct):
    """An acknowledgement that refuses."""

    error: ErrorBody
    replayed: bool = False


_REFUSED = msgspec.json.Decoder(_Refused)


def problem(refusal: Refusal, *, status: int | None = None, headers: Mapping[str, str] | None = None) -> web.Response:
    """The refusal as a response; its code gives the status unless HTTP has a better one."""
    return _response(refusal.body(), status or HTTP_STATUS[refusal.code], headers or {})


def problem_of_ack(ack: bytes) -> web.Response:
    """The lane's refusal of an action as a response."""
    refused = _REFUSED.decode(ack)
    return _response(refused.error, HTTP_STATUS[refused.error.code], {}, replayed=refused.replayed)


def _response(error: ErrorBody, status: int, headers: Mapping[str, str], *, replayed: bool = False) -> web.Response:
    all_headers = dict(headers)
    if status == HTTPStatus.UNAUTHORIZED:
        all_headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_ms is not None:
        all_headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))  # whole seconds, rounded up
    document = Problem(
        **msgspec.structs.asdict(error),
        type="about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=error.message,
        replayed=replayed,
    )
    return web.Response(
        status=status, body=encode(document), content_type="application/problem+json", headers=all_headers
    )


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The application's one middleware: every request gets its `X-Request-Id` back, every error is a problem."""
    request_id = _request_id(request)
    clear_contextvars()  # of the request before it on this connection
    bind_contextvars(request_id=request_id)  # every line that is logged on its way names it
    try:
        response = await handler(request)
    except web.HTTPException as error:
        response = _of_http_exception(error)
    except Refusal as refusal:
        response = problem(refusal)
    except Exception as error:  # the last resort: what is foreseen is a Refusal
        response = _of_fault(request, error)
    response.headers[REQUEST_ID] = request_id
    return response


async def meet_expectation(request: web.Request) -> web.StreamResponse | None:
    """Grants `Expect: 100-continue` as aiohttp does, but refuses others with a problem: middlewares come after this."""
    if request.headers["Expect"].lower() != "100-continue":
        response = problem(Refusal("invalid_payload", "This expectation can't be met."), status=417)
        response.headers[REQUEST_ID] = _request_id(request)
        return response
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # or aiohttp takes the response for begun
    return None


def _request_id(request: web.Request) -> str:
    given = request.headers.get(REQUEST_ID, "")
    return given if _REQUEST_ID_PATTERN.fullmatch(given) else uuid.uuid4().hex


def _of_http_exception(error: web.HTTPException) -> web.StreamResponse:
    if error.status < HTTPStatus.BAD_REQUEST:
        return error
    code: Code = "internal" if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_payload"
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    refusal = Refusal(_CODES.get(error.status, code), f"{HTTPStatus(error.status).phrase}.")
    return problem(refusal, status=error.status, headers=headers)


def _of_fault(request: web.Request, error: Exception) -> web.Response:
    """What nobody foresaw, and a database that is away. Exceptions' texts quote payloads, so they are not logged."""
    resource = request.match_info.route.resource
    where = {"route": resource.canonical if resource else None, "error": type(error).__name__}
    if is_retryable(error):  # rolled back by a deadlock: nothing was done
        refusal = Refusal("unavailable", "The database was too busy.", retry_after_ms=_RETRY_AFTER_MS)
    elif is_connection_lost(error):
        refusal = Refusal("unavailable", "The database does not answer.", retry_after_ms=_RETRY_AFTER_MS)
        refusal.outcome = _outcome(request)
        log.warning("http_unavailable", **where)
    else:
        refusal = Refusal("internal", "Something went wrong here.", outcome=_outcome(request))
        log.error("http_fault", **where, at=_frames(error))
    return problem(refusal)


def _outcome(request: web.Request) -> Literal["unknown"] | None:
    """A request that changes something may have been carried out when it failed."""
    return None if request.method in ("GET", "HEAD") else "unknown"


def _frames(error: Exception) -> list[str]:
    """Where it happened, innermost last: names of functions and lines, none of their values."""
    frames, place = [], error.__traceback__
    while place is not None:
        frames.append(f"{place.tb_frame.f_code.co_qualname}:{place.tb_lineno}")
        place = place.tb_next
    return frames[-8:]
