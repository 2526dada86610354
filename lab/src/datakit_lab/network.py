"""Loopback ports and the names of this machine."""

from __future__ import annotations

import contextlib
import socket
import urllib.request
from http.client import HTTPResponse
from typing import cast

from datakit_lab.errors import LabUnavailable

LOOPBACK = "127.0.0.1"
_WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port(*, udp: bool = False) -> int:
    """Return a loopback port that nobody uses now, for TCP and, if asked, for UDP too.

    Another process may take it before it is used; who starts a server retries.
    """
    for _ in range(50):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
            tcp.bind((LOOPBACK, 0))
            port = int(tcp.getsockname()[1])
            if not udp:
                return port
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, contextlib.suppress(OSError):
                datagrams.bind((LOOPBACK, port))
                return port
    raise LabUnavailable("no loopback port is free for both TCP and UDP", fix="look at who holds them: ss -lntu")


def accepts(port: int, *, seconds: float = 1) -> bool:
    """Whether somebody listens on the loopback TCP ``port``."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=seconds):
        return True
    return False


def port_is_free(port: int) -> bool:
    """Whether a server could listen on the loopback TCP ``port`` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def ask(request: str | urllib.request.Request, *, seconds: float) -> HTTPResponse:
    """Send an HTTP request to this machine, past the proxy that the environment may name, and return the answer unread.

    :param request: a URL, or more.
    :raises OSError: nobody answers, or the answer is an error (``urllib.error.HTTPError``).
    """
    return cast("HTTPResponse", _WITHOUT_PROXY.open(request, timeout=seconds))


def own_names() -> tuple[str, ...]:
    """Return the names a client on this machine may ask a service ticket for: ``localhost`` and the host's own.

    Microsoft's driver canonicalises ``localhost`` to the host's name before it builds the SPN.
    """
    return tuple(dict.fromkeys(["localhost", socket.gethostname().lower(), socket.getfqdn().lower()]))


def holder_of(port: int) -> str:
    """Return who listens on the TCP ``port``: ``python3 (process 4711)``, as far as this user may know."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port
            if listens and connection.pid is not None:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another user's process"
