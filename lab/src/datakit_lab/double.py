"""The SQL Server double as the lab runs it: wire, engine and data put together, and its commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from datakit_lab.control import Handler
from datakit_lab.errors import LabError
from datakit_lab.network import holder_of, port_is_free

if TYPE_CHECKING:
    from datakit_lab.certificates import ServerCertificate
    from datakit_lab.sqlserver.server import SqlServer
    from datakit_lab.sqlserver.tsql import DuckBackend

DATABASE: Final = "AirlineOps"
SQL_LOGIN: Final = "datakit"
"""The SQL login, for clients that cannot do Kerberos; principals enter by their ticket."""


class Double:
    """A running SQL Server double with data.

    :ivar server: the wire; ``server.faults`` makes it misbehave.
    :ivar backend: databases, tables and sessions; ``backend.run(sql, database)`` runs a batch as the server itself.
    """

    def __init__(self, server: SqlServer, backend: DuckBackend) -> None:
        self.server = server
        self.backend = backend

    def handlers(self) -> dict[str, Handler]:
        """Return what the control socket understands: ``load``, ``mutate``, ``fault`` and ``run`` (one batch)."""
        return {"load": self._load, "mutate": self._mutate, "fault": self._fault, "run": self._run}

    def _load(self, arguments: dict[str, Any]) -> dict[str, Any]:
        from datakit_lab.data import load

        with _refusals():
            return {"did": load(self.backend, str(arguments["name"]))}

    def _mutate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        from datakit_lab.data import mutate

        with _refusals():
            return {"did": mutate(self.backend, arguments["step"])}

    def _fault(self, arguments: dict[str, Any]) -> dict[str, Any]:
        text = str(arguments["text"])
        with _refusals():
            self.server.faults.command(text)
        return {"did": ["no fault waits any more" if text.strip().lower() == "clear" else f"waits: {text}"]}

    def _run(self, arguments: dict[str, Any]) -> dict[str, Any]:
        with _refusals():
            rows = self.backend.run(str(arguments["sql"]), str(arguments["database"]))
        return {"rows": [list(row) for row in rows]}


@contextmanager
def run_double(
    *,
    port: int = 0,
    data: Sequence[str] = (),
    password: str | None = None,
    principals: Sequence[str] = (),
    keytab: Path | None = None,
    certificate: ServerCertificate | None = None,
    faults: Sequence[str] = (),
) -> Iterator[Double]:
    """Within, a double with this data answers on the loopback ``port`` (0 for a free one).

    :param data: names of data sets.
    :param password: of the SQL login ``datakit``, which may change everything; None for Kerberos only.
    :param principals: who may read everything with a ticket, ``user@REALM``; as service accounts, they change nothing.
    :param keytab: keys of ``MSSQLSvc/HOST:PORT``; None for no Kerberos.
    :param certificate: switches TLS on.
    :param faults: texts of faults that wait from the start.
    :raises LabError: the port is taken, or a fault's text is none.
    """
    from datakit_lab.data import load
    from datakit_lab.sqlserver.server import SqlServer
    from datakit_lab.sqlserver.tls import Tls, TlsMode
    from datakit_lab.sqlserver.tsql import DuckBackend, Principal

    if port and not port_is_free(port):
        raise LabError(f"port {port} is taken by {holder_of(port)}", fix="end that, or choose another: --port")
    logins = {} if password is None else {SQL_LOGIN: Principal(password=password)}
    readers = {principal: Principal(read_only=True) for principal in principals}
    with DuckBackend(logins=logins, principals=readers) as backend:
        for name in data:
            load(backend, name)
        tls = None if certificate is None else Tls(TlsMode.ON, certificate.certificate, certificate.key)
        server = SqlServer(backend, port=port, tls=tls, keytab=keytab)
        with _refusals():
            for fault in faults:
                server.faults.command(fault)
        with server:
            yield Double(server, backend)


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what engine, data and faults refuse into a message for a person."""
    from datakit_lab.sqlserver.backend import SqlError

    try:
        yield
    except SqlError as error:
        raise LabError(f"error {error.number}: {error.text}") from None
    except ValueError as error:
        raise LabError(str(error)) from None
