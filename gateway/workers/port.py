"""The port as a whole process group has it, and the line that says that it is open."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from typing import Final

IPV6_ONLY: Final = getattr(socket, "IPPROTO_IPV6", 0), getattr(socket, "IPV6_V6ONLY", 0)


def say_ready(host: str, port: int) -> None:
    """Tell whoever has started the command."""
    sys.stdout.write(f"Applause is ready at http://{host}:{port}\n")
    sys.stdout.flush()


def reserve(host: str, port: int, stack: ExitStack) -> int:
    """Take the port for this process and its workers until the stack is left; returns it (0: any free one).

    Nobody connects to what is bound and does not listen; workers listen beside it with SO_REUSEPORT, and the kernel
    spreads connects over them. It is bound without that option, and without SO_REUSEADDR as soon as it is bound: so
    another server can't come in between, not even one of ours. Raises OSError where the port can't be had.
    """
    addresses = dict.fromkeys(
        (family, address)
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    )
    for family, address in addresses:
        taken = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        if family == socket.AF_INET6:
            taken.setsockopt(*IPV6_ONLY, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((address[0], port, *address[2:]))
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        port = taken.getsockname()[1]
    return port
