"""Ports for servers that tests start."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Returns a port of the loopback address that no program uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
