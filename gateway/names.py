"""What nodes are called."""

from __future__ import annotations

import os
import secrets
import socket


def new_name() -> str:
    """Unique to this run: whoever froze and was replaced must not be taken for their successor. One word."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}".replace(" ", "-")
