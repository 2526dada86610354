"""A proxy before a real registry that fails when it is told to: it counts, forwards, cuts and replaces."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from datakit_lab.certificates import ServerCertificate


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(frozen=True)
class Request:
    number: int
    method: str
    path: str

    @property
    def step(self) -> str:
        """What it is about: ``PUT manifests``, ``POST uploads``."""
        for part in ("uploads", "blobs", "manifests", "referrers", "tags"):
            if f"/{part}/" in self.path:
                return f"{self.method} {part}"
        return self.method


class Cut(Exception):
    """Close the connection without an answer."""


Rule = Callable[[Request, Callable[[], Answer]], Answer]
"""Gets a request and what forwards it; returns the answer, or raises :class:`Cut`."""


@dataclass
class FaultyRegistry:
    """``with FaultyRegistry(lab.host) as faulty``: ``faulty.host`` is the registry, with ``faulty.rule`` in between."""

    upstream: str
    rule: Rule = lambda request, forward: forward()
    certificate: ServerCertificate | None = None
    requests: list[Request] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate.certificate, self.certificate.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def forget(self) -> None:
        """Start counting at 1 again."""
        self.requests.clear()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        faulty = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                with faulty._lock:
                    request = Request(len(faulty.requests) + 1, self.command, self.path)
                    faulty.requests.append(request)
                    faulty.authorizations.append(self.headers.get("authorization"))
                try:
                    answer = faulty.rule(request, lambda: self.forward(body))
                except Cut:
                    self.close_connection = True
                    return
                self.send_response_only(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)
                sized = {name.lower(): value for name, value in answer.headers}.get("content-length")
                if self.command != "HEAD" and sized != str(len(answer.body)):
                    self.close_connection = True

            def forward(self, body: bytes) -> Answer:
                connection = http.client.HTTPConnection(faulty.upstream, timeout=30)
                try:
                    connection.request(self.command, self.path, body or None, dict(self.headers))
                    response = connection.getresponse()
                    data = response.read()
                finally:
                    connection.close()
                dropped = ("transfer-encoding", "connection")
                headers = [(name, value) for name, value in response.getheaders() if name.lower() not in dropped]
                if self.command != "HEAD" and not any(name.lower() == "content-length" for name, _ in headers):
                    headers.append(("Content-Length", str(len(data))))
                return Answer(response.status, headers, data)

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        return Handler


def dead_from(number: int, *, answered: bool) -> Rule:
    """The registry dies at a request: before it, or after it was done and before its answer went out."""

    def rule(request: Request, forward: Callable[[], Answer]) -> Answer:
        if request.number < number:
            return forward()
        if request.number == number and answered:
            forward()
        raise Cut

    return rule


def answers(status: int, step: str, *, times: int = 10**6, headers: dict[str, str] | None = None) -> Rule:
    """Answer the requests of a step with a status, as often as said."""
    left = [times]
    body = b'{"errors":[{"code":"CANNED","message":"said by the registry"}]}'

    def rule(request: Request, forward: Callable[[], Answer]) -> Answer:
        if request.step != step or left[0] == 0:
            return forward()
        left[0] -= 1
        return Answer(status, [("Content-Length", str(len(body))), *(headers or {}).items()], body)

    return rule
