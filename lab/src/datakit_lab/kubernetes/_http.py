"""The API over HTTPS."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from datakit_lab.errors import LabError
from datakit_lab.kubernetes._api import Api, Target
from datakit_lab.kubernetes._discovery import discovered
from datakit_lab.kubernetes._errors import ApiError, bad_request, not_modelled
from datakit_lab.kubernetes._exec import PROTOCOLS, serve_exec
from datakit_lab.kubernetes._websocket import WebSocket, accept_key

Json = dict[str, Any]

_log = logging.getLogger(__name__)
_MOST_BODY: Final = 3 * 1024 * 1024  # as in a real API server


class ApiServer(ThreadingHTTPServer):
    """Serves an :class:`Api` to those who have the token."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], api: Api, tls: ssl.SSLContext, token: str) -> None:
        super().__init__(address, _Handler)
        self.api = api
        self.token = token
        self._tls = tls

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the request's own thread, so that a silent client keeps nobody waiting."""
        try:
            secured = self._tls.wrap_socket(request, server_side=True)
        except (OSError, ssl.SSLError) as error:
            _log.debug("no TLS with %s: %s", client_address, error)
            return
        with contextlib.closing(secured):
            super().finish_request(secured, client_address)
            with contextlib.suppress(OSError):
                secured.shutdown(socket.SHUT_WR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log what went wrong with a client, which is usually that it left."""
        _log.debug("with %s", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer
    protocol_version = "HTTP/1.1"
    timeout = 600
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name is the standard library's
        _log.debug(format, *arguments)

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names are the standard library's

    def _answer(self) -> None:
        try:
            body = self._body()
            self._dispatch(body)
        except ApiError as error:
            self._send(error.code, error.status())
        except LabError as error:
            failed = ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", str(error))
            self._send(failed.code, failed.status())
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    def _dispatch(self, body: Any) -> None:
        split = urlsplit(self.path)
        lists = parse_qs(split.query, keep_blank_values=True)
        query = {name: _canonical(values[-1]) for name, values in lists.items()}
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            raise ApiError(HTTPStatus.UNAUTHORIZED, "Unauthorized", "Unauthorized")
        if self.command == "GET" and (known := discovered(split.path.rstrip("/"))) is not None:
            self._send(HTTPStatus.OK, known)
            return
        if split.path in {"/healthz", "/livez", "/readyz"}:
            self._send_bytes(HTTPStatus.OK, "text/plain", b"ok")
            return
        target = Target.of(split.path)
        self.server.api.authorise(self.command, target, query)
        if target.part not in {None, "status"}:
            self._part(target, query, lists.get("command", []))
        elif self.command == "GET" and target.name is None:
            self._collection(target, query)
        else:
            self._send(*self._object(target, query, body))

    def _object(self, target: Target, query: Mapping[str, str], body: Any) -> tuple[HTTPStatus, Json]:
        api = self.server.api
        if self.command == "POST":
            return HTTPStatus.CREATED, api.create(target, _object_in(body))
        if target.name is None:
            raise not_modelled(f"{self.command} of a collection")
        if self.command == "GET":
            return HTTPStatus.OK, api.get(target)
        if self.command == "PUT":
            return HTTPStatus.OK, api.replace(target, _object_in(body))
        if self.command == "PATCH":
            return HTTPStatus.OK, api.patch(target, self.headers.get("Content-Type", ""), body)
        return HTTPStatus.OK, api.delete(target, {**query, **(body or {})})

    def _collection(self, target: Target, query: Mapping[str, str]) -> None:
        api = self.server.api
        if query.get("watch") == "true":
            lines = (json.dumps(each).encode() + b"\n" for each in api.watch(target, query))
            self._stream("application/json", lines)
        else:
            self._send(HTTPStatus.OK, api.select(target, query))

    def _part(self, target: Target, query: Mapping[str, str], command: list[str]) -> None:
        api = self.server.api
        if target.part == "log" and self.command == "GET":
            self._stream("text/plain", api.log(target, query))
        elif target.part == "exec":
            self._exec(target, query, command)
        else:
            raise not_modelled(f"pods/{target.part}")

    def _exec(self, target: Target, query: Mapping[str, str], command: list[str]) -> None:
        api = self.server.api
        if not command:
            raise bad_request("you must specify at least 1 command for the container")
        container_id = api.container_to_enter(target, query.get("container"))
        if self.headers.get("Upgrade", "").lower() != "websocket":
            raise not_modelled("exec by SPDY; a client must use a WebSocket")
        offered = [each.strip() for each in self.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        version = next((each for each in PROTOCOLS if each in offered), None)
        if version is None:
            raise bad_request(f"none of the subprotocols {offered} is known; these are: {list(PROTOCOLS)}")
        self.send_response(HTTPStatus.SWITCHING_PROTOCOLS)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept_key(self.headers.get("Sec-WebSocket-Key", "")))
        self.send_header("Sec-WebSocket-Protocol", version)
        self.end_headers()
        self.close_connection = True
        self.connection.settimeout(None)
        stdin, tty = query.get("stdin") == "true", query.get("tty") == "true"
        engine, client = api.node.engine, WebSocket(self.connection)
        serve_exec(engine, container_id, command, client, stdin=stdin, tty=tty, version=version)

    def _body(self) -> Any:
        size = int(self.headers.get("Content-Length") or 0)
        if size > _MOST_BODY:
            self.close_connection = True
            message = f"Request entity too large: limit is {_MOST_BODY}"
            raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RequestEntityTooLarge", message)
        data = self.rfile.read(size)
        if not data:
            return None
        if "protobuf" in self.headers.get("Content-Type", ""):
            message = "the body of the request was in an unknown format - accepted media types: application/json"
            raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
        try:
            return json.loads(data)
        except ValueError as error:
            raise bad_request(f"the object provided is unrecognized: {error}") from None

    def _send(self, code: HTTPStatus, answer: Json) -> None:
        self._send_bytes(code, "application/json", json.dumps(answer).encode())

    def _send_bytes(self, code: HTTPStatus, content_type: str, data: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, content_type: str, pieces: Iterable[bytes]) -> None:
        """Send pieces as they come; what goes wrong after the first byte can only end the connection."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in filter(None, pieces):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        except (ApiError, LabError) as error:
            _log.warning("%s %s ended early: %s", self.command, self.path, error)
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")


def _canonical(value: str) -> str:
    """Return a query parameter, a boolean of any of Go's spellings as ``true`` or ``false``."""
    return value.lower() if value in {"True", "TRUE", "False", "FALSE"} else value


def _object_in(body: Any) -> Json:
    if not isinstance(body, dict):
        raise bad_request("the request has no object")
    return body
