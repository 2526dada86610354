"""The TDS server: accepts clients and serves each on its own, in a thread or in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from pathlib import Path
from typing import Self

from datakit_lab.sqlserver.backend import Backend
from datakit_lab.sqlserver.channel import Channel
from datakit_lab.sqlserver.connection import Connection, Settings
from datakit_lab.sqlserver.faults import Faults
from datakit_lab.sqlserver.prepared import PreparedResults
from datakit_lab.sqlserver.requests import Shared
from datakit_lab.sqlserver.tls import Tls, TlsMode

_log = logging.getLogger(__name__)


class SqlServer:
    """A SQL Server double on a TCP port.

    Use it as a context manager in tests (it runs in a thread), or :meth:`run` it in the foreground.

    :param backend: who answers queries.
    :param host: the address to listen on.
    :param port: 0 takes a free one; :attr:`port` tells which.
    :param tls: encryption; None is off.
    :param keytab: keys of ``MSSQLSvc/host:port`` for Integrated Authentication; None refuses it.
    :param faults: faults that wait from the start; more may be added while it runs.
    :param prepared: results served from memory, asked before the backend.
    """

    def __init__(
        self,
        backend: Backend,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: Tls | None = None,
        keytab: Path | None = None,
        faults: Faults | None = None,
        prepared: PreparedResults | None = None,
    ) -> None:
        tls = tls or Tls(TlsMode.OFF)
        self.faults = faults or Faults()
        self.prepared = prepared or PreparedResults()
        self._settings = Settings(
            backend=backend,
            shared=Shared(self.prepared, self.faults),
            tls_mode=tls.mode,
            tls=tls.context(),
            tls_strict=tls.strict_context(),
            keytab=keytab,
        )
        self._host = host
        self._wanted_port = port
        self._listener: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on.

        :raises RuntimeError: it was not started.
        """
        if self._listener is None:
            raise RuntimeError("the server was not started")
        return int(self._listener.getsockname()[1])

    def listen(self) -> None:
        """Take the port, so that :attr:`port` is known before :meth:`run`.

        :raises OSError: the port is taken.
        """
        if self._listener is None:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            self._listener = socket.create_server((self._host, self._wanted_port), family=family, backlog=128)
            self._listener.setblocking(False)

    def run(self) -> None:
        """Serve in this thread until :meth:`stop` is called from another or the process is interrupted."""
        self.listen()
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._serve(threading.Event()))

    def start(self) -> SqlServer:
        """Serve in a thread of its own; returns when clients may connect.

        :raises OSError: the port is taken.
        """
        self.listen()
        ready = threading.Event()

        def serve() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(self._serve(ready))

        self._thread = threading.Thread(target=serve, name="tds-server", daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def stop(self) -> None:
        """Close the port and all connections; waits for the thread that :meth:`start` made."""
        if self._loop is not None and self._main is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._main.cancel)
        if self._thread is not None:
            self._thread.join(timeout=10)
            self._thread = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    async def _serve(self, ready: threading.Event) -> None:
        if self._listener is None:
            raise RuntimeError("listen() comes first")
        self._loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        clients: set[asyncio.Task[None]] = set()
        ready.set()
        try:
            while True:
                sock, address = await self._loop.sock_accept(self._listener)
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client = asyncio.create_task(self._client(sock, str(address[0])))
                clients.add(client)
                client.add_done_callback(clients.discard)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)

    async def _client(self, sock: socket.socket, address: str) -> None:
        try:
            await Connection(Channel(sock), self._settings, address).serve()
        except Exception:  # noqa: BLE001 - one client's bug must not end the server
            _log.exception("connection from %s ended by a bug of the double", address)
        finally:
            sock.close()
