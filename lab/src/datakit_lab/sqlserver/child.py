"""The server as a child process.

A driver that holds Python's lock while it waits for rows (mssql-python's Arrow calls do) can never be answered by a
server in its own process. So whoever reads with a driver in the same program starts the server here.

The child imports a *factory*: ``package.module:function`` or ``path/to/file.py:function``, called with ``arguments``;
it returns the :class:`Backend`, or a pair of it and :class:`PreparedResults`. The child lives as long as its standard
input stays open, so it never outlives its parent.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, cast

from datakit_lab.sqlserver.faults import Faults
from datakit_lab.sqlserver.server import SqlServer
from datakit_lab.sqlserver.tls import Tls, TlsMode


class ChildFailed(RuntimeError):
    """The child ended before it served; the text is what it wrote to its standard error."""


class SqlServerProcess:
    """A :class:`SqlServer` in a process of its own, as a context manager.

    :param factory: see this module.
    :param arguments: keyword arguments for the factory, of types that JSON knows.
    :param keytab: may be written after :meth:`start`, which tells the port that the SPN holds.

    The other parameters are those of :class:`SqlServer`.
    """

    def __init__(
        self,
        factory: str,
        arguments: dict[str, Any] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: Tls | None = None,
        keytab: Path | None = None,
        faults: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self._settings = {
            "factory": factory,
            "arguments": arguments or {},
            "host": host,
            "port": port,
            "tls": tls.mode.value if tls else "off",
            "certificate": str(tls.certificate) if tls and tls.certificate else None,
            "key": str(tls.key) if tls and tls.key else None,
            "keytab": str(keytab) if keytab else None,
            "faults": list(faults),
        }
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self.port = port

    def start(self) -> SqlServerProcess:
        """Start the child; returns when clients may connect.

        :raises ChildFailed: it could not start.
        """
        command = [sys.executable, "-m", "datakit_lab.sqlserver.child"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        self.port = int(self._ask(self._settings)["port"])
        return self

    def stop(self) -> None:
        """End the child."""
        if self._process is None:
            return
        process, self._process = self._process, None
        with contextlib.suppress(BrokenPipeError):
            cast(Any, process.stdin).close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        cast(Any, process.stdout).close()

    def fault(self, text: str) -> None:
        """Set a fault, or ``clear`` all; the grammar is that of :mod:`datakit_lab.sqlserver.faults`.

        :raises ValueError: the text is no fault.
        """
        answer = self._ask({"fault": text})
        if "refused" in answer:
            raise ValueError(answer["refused"])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            raise ChildFailed("the server was not started")
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(question) + "\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                line = ""
            else:
                line = self._process.stdout.readline()
        if not line:
            raise ChildFailed(f"the server's process ended with code {self._process.wait(10)}; see its standard error")
        answer: dict[str, Any] = json.loads(line)
        return answer


def load_factory(spec: str) -> Callable[..., Any]:
    """Import what a factory's name means.

    :raises ValueError: the name has no colon, or the file is no Python.
    """
    place, colon, name = spec.rpartition(":")
    if not colon:
        raise ValueError(f"{spec!r} names no function; write package.module:function or file.py:function")
    if place.endswith(".py"):
        found = importlib.util.spec_from_file_location(Path(place).stem, place)
        if found is None or found.loader is None:
            raise ValueError(f"{place} is no Python file")
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module
        sys.path.insert(0, str(Path(place).parent))
        found.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    return cast(Callable[..., Any], getattr(module, name))


def _build(settings: dict[str, Any]) -> SqlServer:
    made = load_factory(settings["factory"])(**settings["arguments"])
    backend, prepared = made if isinstance(made, tuple) else (made, None)
    faults = Faults()
    for text in settings["faults"]:
        faults.add(text)
    path = {name: Path(settings[name]) if settings[name] else None for name in ("certificate", "key", "keytab")}
    return SqlServer(
        backend,
        settings["host"],
        settings["port"],
        tls=Tls(TlsMode(settings["tls"]), path["certificate"], path["key"]),
        keytab=path["keytab"],
        faults=faults,
        prepared=prepared,
    )


def main() -> None:
    """Serve what the first line of standard input says, then do what further lines ask, until it is closed."""

    def say(answer: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    server = _build(json.loads(sys.stdin.readline()))
    with server:
        say({"port": server.port})
        for line in sys.stdin:
            try:
                server.faults.command(json.loads(line)["fault"])
            except ValueError as reason:
                say({"refused": str(reason)})
            else:
                say({})


if __name__ == "__main__":
    main()
