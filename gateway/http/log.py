"""What aiohttp's server may say to the log."""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError


class _WithoutRequests(logging.Filter):
    """Leaves out requests that are no HTTP, and of every other exception all but its name: aiohttp's
    texts and tracebacks quote what was sent, tokens included."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            return False
        if error is not None:
            record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}", ()
            record.exc_info = record.exc_text = None
        return True


def server_log() -> logging.Logger:
    """The `logger` for aiohttp's AppRunner; hand it in with `access_log=None`."""
    log = logging.getLogger("applause.http")
    if not any(isinstance(each, _WithoutRequests) for each in log.filters):
        log.addFilter(_WithoutRequests())
    return log
