"""Commands in running containers: for probes, and for clients over a WebSocket.

The channels: https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/apimachinery/pkg/util/remotecommand/constants.go
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import time
from typing import Any, Final

from datakit_lab.docker import STDERR, STDOUT, Engine
from datakit_lab.kubernetes._websocket import WebSocket, WebSocketClosed

Json = dict[str, Any]

PROTOCOLS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN: Final = 0
_ERROR: Final = 3
_CLOSED: Final = 255
_PIECE: Final = 32 * 1024


def run_in(engine: Engine, container_id: str, command: list[str], seconds: float) -> tuple[int, bytes]:
    """Run a command in a container and return its exit code and what it wrote, stdout and stderr together.

    :raises TimeoutError: it did not end in time; it goes on, as the engine has no way to end it.
    :raises EngineRefused: the container does not run, or has no such program.
    """
    exec_id = _create(engine, container_id, command, stdin=False, tty=False)
    output = b""
    deadline = time.monotonic() + seconds
    with engine.hijack(f"/exec/{exec_id}/start", {"Detach": False, "Tty": False}) as raw:
        frames = _Frames()
        while True:
            raw.settimeout(max(0.001, deadline - time.monotonic()))
            piece = raw.recv(_PIECE)
            if not piece:
                break
            output += b"".join(data for _, data in frames.feed(piece))
    return _exit_code(engine, exec_id), output


def serve_exec(
    engine: Engine, container_id: str, command: list[str], client: WebSocket, *, stdin: bool, tty: bool, version: str
) -> None:
    """Run a command in a container for a client, and tell it how that ended.

    :param version: the subprotocol the client chose; v5 can close stdin.
    :raises EngineRefused: the container does not run.
    """
    exec_id = _create(engine, container_id, command, stdin=stdin, tty=tty)
    with engine.hijack(f"/exec/{exec_id}/start", {"Detach": False, "Tty": tty}) as raw:
        try:
            _relay(client, raw, tty=tty, version=version)
        except WebSocketClosed:
            return
    with contextlib.suppress(WebSocketClosed):
        client.send(bytes([_ERROR]) + json.dumps(_outcome(_exit_code(engine, exec_id))).encode())
    client.close()


def _relay(client: WebSocket, raw: socket.socket, *, tty: bool, version: str) -> None:
    frames = _Frames()
    while True:
        ready: list[Any] = [client.connection] if client.pending() else []
        if not ready:
            ready, _, _ = select.select([client.connection, raw], [], [])
        if raw in ready:
            piece = raw.recv(_PIECE)
            if not piece:
                return
            for channel, data in [(STDOUT, piece)] if tty else frames.feed(piece):
                client.send(bytes([channel]) + data)
        if client.connection in ready:
            message = client.receive()
            if message:
                _to_command(raw, message[0], message[1:], version)


def _to_command(raw: socket.socket, channel: int, data: bytes, version: str) -> None:
    if channel == _STDIN and data:
        with contextlib.suppress(BrokenPipeError):  # it has ended, and its output says so
            raw.sendall(data)
    elif channel == _CLOSED and data[:1] == bytes([_STDIN]) and version == PROTOCOLS[0]:
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_WR)


class _Frames:
    """Takes apart what the engine sends when a command has no terminal: a header of 8 bytes, then data."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, piece: bytes) -> list[tuple[int, bytes]]:
        self._buffer += piece
        found = []
        while len(self._buffer) >= 8:
            stream, size = struct.unpack(">BxxxI", self._buffer[:8])
            if len(self._buffer) < 8 + size:
                break
            found.append((stream if stream == STDERR else STDOUT, self._buffer[8 : 8 + size]))
            self._buffer = self._buffer[8 + size :]
        return found


def _create(engine: Engine, container_id: str, command: list[str], *, stdin: bool, tty: bool) -> str:
    body = {"AttachStdin": stdin, "AttachStdout": True, "AttachStderr": True, "Tty": tty, "Cmd": command}
    return str(engine.json("POST", f"/containers/{container_id}/exec", body)["Id"])


def _exit_code(engine: Engine, exec_id: str) -> int:
    """Return the code; the engine may close the stream a moment before it knows."""
    for _ in range(200):
        found = engine.json("GET", f"/exec/{exec_id}/json")
        if not found["Running"]:
            return int(found["ExitCode"] or 0)
        time.sleep(0.01)
    return -1


def _outcome(code: int) -> Json:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit code {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
