"""How one process of the lab tells another what to do: one JSON line each way over a Unix socket.

The socket's directory lets in its owner only.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from datakit_lab.errors import LabError, LabUnavailable

Handler = Callable[[dict[str, Any]], dict[str, Any]]

_SUN_PATH: Final = 100
"""Characters of a socket's path that every Unix takes (``sockaddr_un.sun_path`` has 104 or 108 bytes)."""


@contextlib.contextmanager
def serve(path: Path, handlers: Mapping[str, Handler]) -> Iterator[None]:
    """Within, answer commands at ``path`` in threads of their own.

    A handler gets the arguments and returns the answer, of which what JSON does not know arrives as text. A
    :class:`LabError` from it is raised again at the caller's.
    """

    class _Conversation(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = json.loads(self.rfile.readline())
            try:
                answer = {"result": handlers[request["command"]](request["arguments"])}
            except LabError as error:
                answer = {"error": {"what": error.what, "fix": error.fix}}
            self.wfile.write(json.dumps(answer, default=str).encode() + b"\n")

    path.unlink(missing_ok=True)
    with _short(path) as address, socketserver.ThreadingUnixStreamServer(address, _Conversation) as server:
        server.daemon_threads = True
        path.chmod(0o600)
        thread = threading.Thread(target=server.serve_forever, name="control", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            path.unlink(missing_ok=True)


def call(path: Path, command: str, **arguments: Any) -> dict[str, Any]:
    """Send a command and wait for its answer, however long it takes.

    :raises LabUnavailable: nobody listens at ``path``, or it ended before it answered.
    :raises LabError: the command failed.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            with _short(path) as address:
                connection.connect(address)
            connection.sendall(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
            with connection.makefile("rb") as reader:
                line = reader.readline()
        except OSError as error:
            raise LabUnavailable(
                f"the SQL Server double does not answer at {path}: {error.strerror}", fix="datakit-lab status"
            ) from None
    if not line:
        raise LabUnavailable(f"the SQL Server double ended before it answered {command!r}", fix="datakit-lab status")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise LabError(answer["error"]["what"], fix=answer["error"]["fix"])
    result: dict[str, Any] = answer["result"]
    return result


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a name of ``path`` that fits into a socket's address: itself, or one through a link to its folder."""
    if len(os.fsencode(path)) <= _SUN_PATH:
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="datakit-lab-") as folder:
        link = Path(folder) / "s"
        link.symlink_to(path.parent)
        yield str(link / path.name)
