"""The double's HTTP: connections, TLS, faults and the log. What is said over it, :mod:`._fake` decides."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

from datakit_vault.testing._faults import INSTEAD, Answer, Fault

_LARGE: Final = 100 * 2**20
_CHUNK: Final = bytes(64 * 2**10)
_HANDSHAKE_SECONDS: Final = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request as the double remembers it: never its body, its token or a value.

    :ivar path: without the query.
    :ivar query: its parameters.
    :ivar status: what was answered; 0 if the connection broke instead.
    :ivar fault: the fault that spoiled it, if one did.
    """

    method: str
    path: str
    query: Mapping[str, str]
    status: int
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the double's rules see it."""

    method: str
    path: str
    query: Mapping[str, str]
    token: str
    content_type: str
    body: bytes


class Server(ThreadingHTTPServer):
    """Listens on a loopback port; each connection has a thread.

    :param rules: answers a call.
    :param choose_fault: returns the fault that spoils a call of this path, if one does.
    :param log: is told of every request.
    :param tls: None for plain HTTP.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        port: int,
        *,
        rules: Callable[[Call], Answer],
        choose_fault: Callable[[str, str], Fault | None],
        log: Callable[[LoggedRequest], None],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.rules = rules
        self.choose_fault = choose_fault
        self.log = log
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="fake-vault", daemon=True)
        self._thread.start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Talk TLS, if asked for, in the connection's own thread: a slow handshake holds up nobody."""
        connection = cast("socket.socket", request)
        if self._tls is not None:
            connection.settimeout(_HANDSHAKE_SECONDS)
            connection = self._tls.wrap_socket(connection, server_side=True)
            connection.settimeout(None)
        with self._guard:
            self._open.add(connection)
        try:
            super().finish_request(connection, client_address)
        finally:
            with self._guard:
                self._open.discard(connection)
            connection.close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # the name is socketserver's
        """Log it, for who looks for a bug of ours; mostly it is a client that went away."""
        _log.debug("a connection ended", exc_info=True)

    def stop(self) -> None:
        """Refuse connections, and end those that are open."""
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        with self._guard:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        fault = self.server.choose_fault(parts.path, token)
        answer = INSTEAD[fault.name](fault) if fault is not None and fault.name in INSTEAD else None
        if answer is None:
            call = Call(self.command, parts.path, query, token, self.headers.get("Content-Type", ""), body)
            answer = self.server.rules(call)
        broken = fault is not None and fault.name == "reset"
        logged = LoggedRequest(
            self.command, parts.path, query, 0 if broken else answer.status, None if fault is None else fault.name
        )
        self.server.log(logged)
        if fault is None or fault.name in INSTEAD:
            self._answer(answer)
        else:
            self.close_connection = True
            _SPOILED[fault.name](self, answer, fault)

    do_GET = do_POST = do_PUT = _serve  # noqa: N815  # the names that http.server calls

    def _answer(self, answer: Answer, length: int | None = None) -> None:
        self._head(answer, length)
        self.wfile.write(answer.body)

    def _head(self, answer: Answer, length: int | None = None) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body) if length is None else length))
        for name, value in answer.headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def truncated(self, answer: Answer, _: Fault) -> None:
        self._head(answer)
        self.wfile.write(answer.body[: len(answer.body) // 2])

    def cut_json(self, answer: Answer, _: Fault) -> None:
        half = answer.body[: len(answer.body) // 2]
        self._head(answer, len(half))
        self.wfile.write(half)

    def slow(self, answer: Answer, fault: Fault) -> None:
        self._head(answer)
        for byte in answer.body:
            if self.server.stopping.wait(fault.seconds):
                return
            self.wfile.write(bytes([byte]))

    def silent(self, answer: Answer, fault: Fault) -> None:
        if not self.server.stopping.wait(fault.seconds):
            self._answer(answer)

    def reset(self, _: Answer, __: Fault) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def large(self, answer: Answer, _: Fault) -> None:
        self._head(answer, _LARGE)
        for chunk in repeat(_CHUNK, _LARGE // len(_CHUNK)):
            self.wfile.write(chunk)

    def large_chunked(self, answer: Answer, _: Fault) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in (answer.body, *repeat(_CHUNK, _LARGE // len(_CHUNK))):
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr; the double has a log of its own."""


_SPOILED: Final[dict[str, Callable[[_Handler, Answer, Fault], None]]] = {
    "truncated": _Handler.truncated,
    "cut-json": _Handler.cut_json,
    "slow": _Handler.slow,
    "silent": _Handler.silent,
    "reset": _Handler.reset,
    "large": _Handler.large,
    "large-chunked": _Handler.large_chunked,
}
