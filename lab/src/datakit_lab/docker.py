"""The Docker Engine, as far as the lab needs it: its HTTP API over the Unix socket, without a library.

The paths and bodies are those of the Engine API 1.41 and later (https://docs.docker.com/reference/api/engine/).
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from datakit_lab.errors import LabError, LabUnavailable

Json = dict[str, Any]

_WANTED_API: Final = (1, 41)
_SECONDS: Final = 60.0
STDOUT: Final = 1
STDERR: Final = 2


class EngineRefused(LabError):
    """The engine answered with an error.

    :ivar status: the HTTP status: 404 unknown, 409 conflict, 500 failed.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the Docker engine refused: {message}", fix="read the message; docker info shows the engine")
        self.status = status
        self.message = message


class Engine:
    """A Docker Engine on this machine. Thread-safe: every call has a connection of its own.

    :param address: path of the socket; that of ``DOCKER_HOST``, or ``/var/run/docker.sock``, if None.
    :raises LabUnavailable: nobody answers there, or this user may not ask.
    :raises LabError: ``DOCKER_HOST`` is not a Unix socket.
    """

    def __init__(self, address: Path | None = None) -> None:
        self.address = address or _address_of_environment()
        self._prefix = ""
        version = self.json("GET", "/version")
        self._prefix = "/v" + _api_version(version["ApiVersion"], version.get("MinAPIVersion", "1.12"))
        self.version: str = version["Version"]
        self.kernel: str = version.get("KernelVersion", "")

    def json(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        seconds: float | None = _SECONDS,
    ) -> Any:
        """Send a request and return what its answer says, None if it is empty.

        :param seconds: silence after which the engine is given up; None waits for ever.
        :raises EngineRefused: the engine answered with an error.
        :raises LabUnavailable: the engine went away.
        """
        data = None if body is None else json.dumps(body).encode()
        with self.stream(method, path, data, query=query, seconds=seconds) as response:
            text = response.read()
        return json.loads(text) if text.strip() else None

    def stream(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = _SECONDS,
    ) -> http.client.HTTPResponse:
        """Send a request and return its answer unread; close it.

        :raises EngineRefused: the engine answered with an error.
        :raises LabUnavailable: the engine went away.
        """
        connection = _Connection(self.address, seconds)
        sent = {"Content-Type": "application/json", "Connection": "close", **(headers or {})}
        try:
            connection.request(method, self._target(path, query), data, sent)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _unavailable(self.address, error) from None
        if response.status >= http.client.BAD_REQUEST:
            with response:
                raise EngineRefused(response.status, _message(response.read()))
        return response

    def hijack(self, path: str, body: Any) -> socket.socket:
        """Send a request that turns the connection into a raw one (attach, exec), and return that.

        :raises EngineRefused: the engine answered with an error.
        :raises LabUnavailable: the engine went away.
        """
        data = json.dumps(body).encode()
        raw = _connected(self.address, _SECONDS)
        try:
            head = (
                f"POST {self._target(path, None)} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
                f"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            raw.sendall(head.encode() + data)
            status, headers = _read_head(raw)
            if status != http.client.SWITCHING_PROTOCOLS:
                raise EngineRefused(status, _message(_receive(raw, int(headers.get("content-length", 0)))))
        except OSError as error:
            raw.close()
            raise _unavailable(self.address, error) from None
        except BaseException:
            raw.close()
            raise
        raw.settimeout(None)
        return raw

    def image(self, name: str) -> Json | None:
        """Return what the engine knows of a local image, or None if it has none of that name."""
        try:
            found: Json = self.json("GET", f"/images/{quote(name, safe='/:@')}/json")
        except EngineRefused as error:
            if error.status == http.client.NOT_FOUND:
                return None
            raise
        return found

    def create_volume(self, name: str, options: Mapping[str, str]) -> None:
        """Make a named volume of the driver ``local``.

        :param options: the driver's: ``type``, ``device``, ``o``.
        """
        self.json("POST", "/volumes/create", {"Name": name, "Driver": "local", "DriverOpts": dict(options)})

    def remove_volume(self, name: str) -> None:
        """Remove a volume, if there is one of that name, and before it every container that has it."""
        query = {"all": True, "filters": {"volume": [name]}}
        for container in self.json("GET", "/containers/json", query=query):
            self.remove_container(container["Id"])
        self._remove(f"/volumes/{quote(name)}")

    def remove_container(self, name: str) -> None:
        """Kill and remove a container, if there is one of that name."""
        self._remove(f"/containers/{quote(name)}")

    def pull(self, image: str, login: Mapping[str, str] | None = None) -> None:
        """Take an image from its registry.

        :param login: ``username`` and ``password``, or ``identitytoken``, for its registry.
        :raises EngineRefused: the registry or the engine said no; the message is the registry's own.
        """
        headers = _login_header(login)
        name, tag = split_reference(image)
        query = {"fromImage": name, "tag": tag}
        with self.stream("POST", "/images/create", query=query, headers=headers, seconds=600) as response:
            for line in response:
                said = json.loads(line)
                if "error" in said:  # the status was 200 when the pull began
                    raise EngineRefused(http.client.INTERNAL_SERVER_ERROR, said["error"])

    def ask_registry(self, image: str, login: Mapping[str, str] | None = None) -> None:
        """Check that the registry has an image and gives it to this login; the engine's own memory is not asked.

        :raises EngineRefused: the registry said no; the message is the registry's own.
        """
        path = f"/distribution/{quote(image, safe='/:@')}/json"
        self.stream("GET", path, headers=_login_header(login)).close()

    def demultiplexed(self, response: http.client.HTTPResponse) -> Iterator[tuple[int, bytes]]:
        """Yield (:data:`STDOUT` or :data:`STDERR`, bytes) of a container's log as it arrives."""
        while len(head := response.read(8)) == 8:
            stream, size = struct.unpack(">BxxxI", head)
            yield stream, response.read(size)

    def _remove(self, path: str) -> None:
        try:
            self.json("DELETE", path, query={"force": True})
        except EngineRefused as error:
            if error.status != http.client.NOT_FOUND:
                raise

    def _target(self, path: str, query: Mapping[str, Any] | None) -> str:
        given = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        return f"{self._prefix}{path}{'?' if given else ''}{urlencode(given)}"


def _login_header(login: Mapping[str, str] | None) -> dict[str, str]:
    if not login:
        return {}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(dict(login)).encode()).decode()}


def split_reference(image: str) -> tuple[str, str]:
    """Return an image's name and its tag or digest; the tag is ``latest`` if there is none.

    >>> split_reference("localhost:5000/a/b:v1"), split_reference("a@sha256:0f")
    (('localhost:5000/a/b', 'v1'), ('a', 'sha256:0f'))
    """
    name, at, digest = image.partition("@")
    head, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{head}{slash}{last}", digest if at else tag or "latest"


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, seconds: float | None) -> None:
        super().__init__("docker", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a port."""
        self.sock = _connected(self._path, self.timeout)


def _connected(path: Path, seconds: float | None) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _read_head(raw: socket.socket) -> tuple[int, dict[str, str]]:
    """Read a response's head byte by byte: what follows it belongs to the caller."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = raw.recv(1)
        if not byte:
            raise ConnectionResetError("the engine closed the connection")
        head += byte
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


def _receive(raw: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := raw.recv(size - len(data))):
        data += piece
    return data


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace").strip() or "no reason given"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _api_version(newest: str, oldest: str) -> str:
    def numbers(text: str) -> tuple[int, int]:
        major, minor = text.split(".")
        return int(major), int(minor)

    return "{}.{}".format(*max(numbers(oldest), min(_WANTED_API, numbers(newest))))


def _address_of_environment() -> Path:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    scheme, _, path = host.partition("://")
    if scheme != "unix":
        raise LabError(
            f"DOCKER_HOST names an engine on another machine ({host}), and the lab listens on this one's loopback only",
            fix="unset DOCKER_HOST, or let it name a socket: unix:///var/run/docker.sock",
        )
    return Path(path)


def _unavailable(address: Path, error: Exception) -> LabUnavailable:
    if isinstance(error, PermissionError):
        return LabUnavailable(
            f"this user may not ask the Docker engine at {address}",
            fix="become a member of the group docker, or run as root; do not widen the socket's permissions",
        )
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return LabUnavailable(f"no Docker engine answers at {address}: {reason}", fix="scripts/docker-engine start")
