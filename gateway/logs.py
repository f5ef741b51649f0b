"""Log lines on standard error: JSON, one event a line, or text at a terminal.

No token and no payload is handed to a logger. Should one be after all (an exception's text quotes them), it does not
get out: of exceptions only names and places are written, of texts the first line, tokens and passwords are blotted
out, and a line has at most MAX_LINE characters. A line names what it is about where there is such a thing:
`request_id` (HTTP), `user_id`, `action_id`. Actions and requests that went well and fast have no line at all.

EVENTS is the list of what is told; the fan-out's and the libraries' own lines are sentences with a `logger`.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import structlog

EVENTS: Final = {
    # the process
    "listening": "ready, with address, node and epoch",
    "draining": "asked to stop, with the connections that are told to go",
    "drain_gave_up": "actions were still waiting when the time for it was over",
    "service_died": "a service has ended by itself, and so does the process",
    "service.failed_while_stopping": "a service failed when it was told to end",
    "task.failed": "a short task failed: a fault of ours",
    "task.does_not_end": "a task goes on after it was told to end, and is left behind",
    "draining_workers": "the parent was asked to stop, and tells its workers",
    "worker_died": "a worker has ended by itself, and is started again after a moment",
    "worker_stuck": "a worker has not answered for long: it is killed, and started again",
    "workers_killed": "these had not ended when the time for draining was over",
    "failpoints_armed": "this node will die or stand still where it was told to: never in production",
    "cluster.ended": "a part of `applause cluster` has ended by itself; it is started again",
    "cluster.restart_failed": "it could not be; it is tried again",
    # the database
    "postgres.ended": "the embedded PostgreSQL has ended by itself; it is started again",
    "postgres.restart_failed": "it could not be",
    "epoch_changed": "the database has another history; all clients come again",
    "lane_lost_database": "actions wait for the database from now on",
    "lane_found_database": "and no longer",
    "arrivals_without_database": "connects were turned away, since the database did not answer",
    "chore_postponed": "a chore failed, and is tried again; only the first failure in a row is told",
    # actions and requests
    "deed_failed": "an action was answered `internal`: a fault of ours",
    "read_failed": "a read was answered `internal`: a fault of ours",
    "action_slow": "an action took `log.slow_action_ms` or longer, the slowest of its batch; `missed`: lines left out",
    "http_slow": "the same of a request; one line in five seconds at most, of each kind",
    "http_unavailable": "a request was answered `unavailable`",
    "http_fault": "a request was answered `internal`: a fault of ours",
    # Kafka
    "kafka_away": "it did not answer at the start; topics that are missing are made when it is back",
    "service.begins_again": "what stands on Kafka has failed, and begins again after a pause",
    "intake_paused": "a partition does not go on: its dead letters are not acknowledged, or Kafka lacks its offset",
    "intake_goes_on": "and now it does",
    "egress_sweeps": "this node publishes the whole ledger: for the first time, or since the database was restored",
    "egress_overtaken": "another node publishes the ledger, since this one was silent for too long",
    "egress_behind": "an entry of the ledger waits for long: for Kafka, or for a transaction that does not end",
    "egress_caught_up": "and none does any more",
    "record_failed": "a record of the directory became a dead letter: a fault of ours",
    # keys and rights
    "jwks_failed": "the token issuer's keys could not be fetched; those known are used on",
    "jwks_recovered": "and now they could",
    "revocations_unknown": "who was revoked could not be read",
    "vitals_failed": "the look at the books or at what waits to be settled failed, and is tried again",
    # pushes
    "push_provider_away": "the push provider takes nothing just now, or not from us; what waits for it is tried again",
    # the books
    "audit_finding": "the rolling audit found an account whose books do not hold: look at once, with `applause audit`",
}

MAX_LINE: Final = 8_192
MAX_TEXT: Final = 500
MAX_ITEMS: Final = 20
MAX_FRAMES: Final = 12

_SECRETS: Final = re.compile(
    r"eyJ[\w-]{4,}\.[\w-]+\.[\w-]*"  # a JWT
    r"|(?<=bearer )\S+"
    r"|(?<=://)[^/\s@]*:[^/\s@]*(?=@)",  # user and password of a URL
    re.IGNORECASE,
)

_Event = MutableMapping[str, Any]


def configure(level: str, form: str = "auto") -> None:
    """From `level` on, ours and the libraries' alike, as `form`: `json`, `text`, or by whether somebody reads along."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    is_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        without_contents,
    ]
    renderer = _as_text if is_text else _as_json
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(threshold, logging.WARNING))
    # While Kafka is away it complains of every attempt, ten a second; who uses it says so once.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def without_contents(_: Any, __: str, event: _Event) -> _Event:
    """Bound every value, blot out secrets, and of an exception keep names and places."""
    error = event.pop("exc_info", None)
    if error:
        event["exception"] = _named(
            sys.exception() if error is True else error[1] if isinstance(error, tuple) else error
        )
    for key, value in event.items():
        if key != "exception":
            event[key] = _bounded(value)
    return event


def _named(error: BaseException | None) -> str:
    """Its traceback without the texts of exceptions, which quote what was sent."""
    if error is None:
        return "Traceback: none"
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
    return f"Traceback: {' > '.join([*places, type(error).__name__])}"


def _bounded(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping) and depth < 2:
        return {_text(key): _bounded(each, depth + 1) for key, each in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, list | tuple | set | frozenset) and depth < 2:
        return [_bounded(each, depth + 1) for each in list(value)[:MAX_ITEMS]]
    return _text(value)


def _text(value: Any) -> str:
    first, _, _ = str(value).partition("\n")  # PostgreSQL quotes values from the second line on
    shown = _SECRETS.sub("***", first[: 4 * MAX_TEXT])
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…"


_JSON = structlog.processors.JSONRenderer(ensure_ascii=False)
_TEXT = structlog.dev.ConsoleRenderer(colors=False, sort_keys=False)


def _as_json(logger: Any, name: str, event: _Event) -> str:
    line = str(_JSON(logger, name, event))
    if len(line) <= MAX_LINE:
        return line
    kept = {key: event.get(key) for key in ("event", "level", "timestamp")}
    return str(_JSON(logger, name, kept | {"left_out": len(line)}))


def _as_text(logger: Any, name: str, event: _Event) -> str:
    return str(_TEXT(logger, name, event))[:MAX_LINE]
