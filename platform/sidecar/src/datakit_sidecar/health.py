"""Probes and metrics over HTTP: ``/healthz``, ``/readyz``, ``/metrics``. It tells names and times, never a secret.

Why not ``http.server``: three fixed pages need a request line and nothing of a mail parser. A request is one thread, a
few seconds and a few KB at the most, whoever asks.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from datakit_sidecar.errors import InvalidSettings, NotReady

if TYPE_CHECKING:
    from datakit_sidecar.settings import HealthSettings

_SECONDS: Final = 5.0
_LARGEST_BYTES: Final = 8192
_MOST_AT_ONCE: Final = 16
_PAUSE_SECONDS: Final = 0.05
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class Page(NamedTuple):
    """An answer."""

    status: int
    content_type: str
    text: str

    @classmethod
    def json(cls, status: int, content: object) -> Page:
        """Return an answer in JSON."""
        return cls(status, "application/json", json.dumps(content, indent=2) + "\n")


class HealthServer:
    """Answers probes from a thread of its own, so that it answers whatever hangs elsewhere.

    :param pages: path → what makes the answer.
    :raises InvalidSettings: it cannot listen there.
    """

    def __init__(self, settings: HealthSettings, pages: Mapping[str, Callable[[], Page]]) -> None:
        self._pages = pages
        self._free = threading.BoundedSemaphore(_MOST_AT_ONCE)
        try:
            self._listener = socket.create_server((settings.address, settings.port), backlog=64)
        except OSError as error:
            raise InvalidSettings(
                f"it is not possible to listen there: {error.strerror}",
                subject=f"health: {settings.address}:{settings.port}",
                cause="another process has the port (a second sidecar?), or the address is not this machine's",
                fix=f"see who has it: ss -lntp 'sport = :{settings.port}'; or change health.port",
            ) from None
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, name="health", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):  # it wakes the thread that waits in accept
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._listener.fileno() == -1:
                    return
                time.sleep(_PAUSE_SECONDS)  # the peer went away already, or there is no descriptor left
                continue
            if not self._free.acquire(blocking=False):
                connection.close()
                continue
            try:
                threading.Thread(target=self._answer, args=(connection,), name="probe", daemon=True).start()
            except RuntimeError:  # there are as many threads as may be; the next probe may find fewer
                connection.close()
                self._free.release()

    def _answer(self, connection: socket.socket) -> None:
        deadline = time.monotonic() + _SECONDS
        try:
            with connection:
                request = _read_request(connection, deadline)
                if request is not None:
                    response = self._response(request)
                    _wait_no_longer_than(deadline, connection)
                    connection.sendall(response)
        except OSError:
            return  # whoever asked went away
        finally:
            self._free.release()

    def _response(self, request: bytes) -> bytes:
        words = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            page = Page.json(400, {"error": "not an HTTP request"})
        elif words[0] not in ("GET", "HEAD"):
            page = Page.json(405, {"error": "only GET and HEAD"})
        else:
            make = self._pages.get(words[1].partition("?")[0])
            page = Page.json(404, {"error": f"there are {', '.join(self._pages)}"}) if make is None else make()
        body = page.text.encode()
        head = (
            f"HTTP/1.1 {page.status} {_REASONS[page.status]}\r\nContent-Type: {page.content_type}\r\n"
            f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + (b"" if words[0] == "HEAD" else body)


def _read_request(connection: socket.socket, deadline: float) -> bytes | None:
    request = b""
    while b"\r\n\r\n" not in request:
        _wait_no_longer_than(deadline, connection)
        block = connection.recv(2048)
        if not block or len(request) > _LARGEST_BYTES:
            return None
        request += block
    return request


def _wait_no_longer_than(deadline: float, connection: socket.socket) -> None:
    """Let the next call on a connection end at the deadline: a timeout of its own begins anew with each byte.

    :raises TimeoutError: it has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time for a request is over")
    connection.settimeout(left)


def ask(address: str, port: int, path: str, *, seconds: float = _SECONDS) -> Page:
    """Ask a running sidecar, as a probe does.

    :raises NotReady: nobody answers.
    """
    host = "127.0.0.1" if address == "0.0.0.0" else address  # noqa: S104 - compared, not bound
    answer = b""
    deadline = time.monotonic() + seconds
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            _wait_no_longer_than(deadline, connection)
            while block := connection.recv(65536):
                answer += block
                _wait_no_longer_than(deadline, connection)
        head, _, body = answer.partition(b"\r\n\r\n")
        return Page(int(head.split(b" ", 2)[1]), "", body.decode())
    except (OSError, ValueError, IndexError) as error:
        raise NotReady(
            f"no sidecar answers: {error}",
            subject=f"{host}:{port}{path}",
            cause="it is not running, or listens elsewhere",
            fix="look at its log; compare health.address and health.port",
        ) from None


def reasons(page: Page) -> list[str]:
    """Return why a sidecar is not ready, from its answer."""
    try:
        return [str(each) for each in json.loads(page.text)["reasons"]]
    except (ValueError, KeyError, TypeError):
        return [f"status {page.status}; is that a sidecar?"]
