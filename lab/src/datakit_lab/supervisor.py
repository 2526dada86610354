"""The process behind ``datakit-lab up``: it owns the servers, keeps the tickets fresh, and takes all down with it.

Run as ``python -m datakit_lab.supervisor STATE OPTIONS``. The servers are its children and die with it.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from datakit_lab.certificates import issue_certificate
from datakit_lab.errors import LabError
from datakit_lab.kdc import Kdc
from datakit_lab.network import holder_of, own_names, port_is_free
from datakit_lab.postgres import Postgres
from datakit_lab.processes import ChildProcess
from datakit_lab.state import LabOptions, LabRecord, LabState, Service

SERVICE_ACCOUNT: Final = "svc-datakit"
WAREHOUSE: Final = "finance"
"""The PostgreSQL role and its database; the role's password is the secret ``finance-db/password``."""
_TICK_SECONDS: Final = 0.5
_RETRY: Final = timedelta(seconds=5)
_DATA_MINUTES: Final = 10
_log = logging.getLogger("datakit_lab")


class Supervisor:
    """One lab, from start to end; :meth:`run` in the main thread, because the servers die with the thread it is."""

    def __init__(self, state: LabState, options: LabOptions) -> None:
        self._state = state
        self._options = options
        self._record = LabRecord(supervisor=os.getpid(), data=list(options.data), realm=options.realm)
        self._kdc = Kdc(
            state.kdc,
            realm=options.realm,
            port=options.kdc_port,
            ticket_life=timedelta(seconds=options.ticket_life),
            clock_skew=timedelta(seconds=options.clock_skew),
            log=state.logs / "kdc.log",
        )
        self._running: dict[str, Kdc | Postgres | ChildProcess] = {}
        self._next_ticket = datetime.min.replace(tzinfo=UTC)

    def run(self, stop: threading.Event) -> int:
        """Start everything, watch until ``stop`` is set, stop everything; return the exit code.

        What went wrong at the start stays in the record, for ``up`` to tell.
        """
        try:
            with ExitStack() as stack:
                self._start(stack)
                while not stop.wait(_TICK_SECONDS):
                    self._watch()
        except LabError as error:
            _log.error("%s", error)
            self._state.remove_leftovers()
            self._record.phase = "failed"
            self._record.problem, self._record.fix, self._record.exit_code = error.what, error.fix, error.exit_code
            self._state.write(self._record)
            return error.exit_code
        self._state.remove_leftovers()
        return 0

    def _start(self, stack: ExitStack) -> None:
        for port in (self._options.kdc_port, self._options.sqlserver_port, self._options.postgres_port):
            if not port_is_free(port):
                raise LabError(
                    f"port {port} is taken by {holder_of(port)}",
                    fix="end that, or choose another: --kdc-port, --sqlserver-port, --postgres-port",
                )
        self._state.write(self._record)
        self._start_kdc(stack)
        double = self._start_sqlserver(stack)
        self._start_postgres(stack)
        double.wait_until(self._state.control.exists, seconds=_DATA_MINUTES * 60)  # the last thing that it opens
        self._refresh_tickets()
        self._record.environment = {
            "KRB5_CONFIG": str(self._kdc.krb5_conf),
            "KRB5CCNAME": f"FILE:{self._ccache}",
            "DATAKIT_SECRETS": str(self._state.secrets),
        }
        self._record.phase = "ready"
        self._state.write(self._record)
        _log.info("the lab is ready")

    def _start_kdc(self, stack: ExitStack) -> None:
        stack.callback(self._kdc.close)
        self._kdc.start()
        self._kdc.add_principal(SERVICE_ACCOUNT)
        services = sqlserver_services(self._options.sqlserver_port)
        for service in services:
            self._kdc.add_principal(service)
        self._kdc.keytab(self._state.kdc / "sqlserver.keytab", *services)
        self._note("kdc", self._kdc, self._options.kdc_port, self._kdc.log)

    def _start_sqlserver(self, stack: ExitStack) -> ChildProcess:
        self._state.publish_secret("airline/password", secrets.token_urlsafe(18))
        issue_certificate(self._state.certificates)
        double = start_double(
            port=self._options.sqlserver_port,
            data=self._options.data,
            principal=self._kdc.full_name(SERVICE_ACCOUNT),
            keytab=self._state.kdc / "sqlserver.keytab",
            password_file=self._state.secrets / "airline" / "password",
            certificates=self._state.certificates,
            control=self._state.control,
            log=self._state.logs / "sqlserver.log",
            environment=self._kdc.client_environment(),
        )
        stack.callback(double.stop)
        self._note("sqlserver", double, self._options.sqlserver_port, double.log)
        return double

    def _start_postgres(self, stack: ExitStack) -> None:
        kdc = self._kdc if Postgres.speaks_kerberos() else None
        server = Postgres(port=self._options.postgres_port, kdc=kdc, log=self._state.logs / "postgres.log")
        self._record.scratch.append(str(server.directory))
        self._state.write(self._record)
        stack.callback(server.close)
        server.start()
        password = secrets.token_urlsafe(18)
        self._state.publish_secret(f"{WAREHOUSE}-db/password", password)
        server.create_role(WAREHOUSE, password)
        server.create_database(WAREHOUSE, owner=WAREHOUSE)
        if kdc is not None:
            server.create_role(SERVICE_ACCOUNT)
            server.grant(WAREHOUSE, SERVICE_ACCOUNT)
        self._note("postgres", server, self._options.postgres_port, server.log)

    def _note(self, name: str, server: Kdc | Postgres | ChildProcess, port: int, log: Path) -> None:
        self._running[name] = server
        self._record.services[name] = Service(port=port, log=str(log), pid=server.pid)
        self._state.write(self._record)
        _log.info("%s runs as process %s on port %d", name, server.pid, port)

    def _watch(self) -> None:
        for name, server in self._running.items():
            service = self._record.services[name]
            if service.pid is not None and not server.running:
                _log.error("%s ended by itself; its log is %s", name, service.log)
                service.pid = None
                self._state.write(self._record)
        if datetime.now(UTC) >= self._next_ticket:
            self._refresh_tickets()

    def _refresh_tickets(self) -> None:
        """Publish service tickets, and nothing more, as the sidecar does by default; again at half their life."""
        import krb5

        self._state.tickets.mkdir(mode=0o700, exist_ok=True)
        services = lab_services(self._kdc, self._options.sqlserver_port)
        try:
            # the keytab anew each time: the realm is ours, and its keys may have been rotated by hand
            keytab = self._kdc.keytab(self._state.kdc / f"{SERVICE_ACCOUNT}.keytab", SERVICE_ACCOUNT)
            expiry = self._kdc.service_tickets(SERVICE_ACCOUNT, keytab, self._ccache, *services)
        except (krb5.Krb5Error, LabError) as error:
            _log.warning("no new tickets, the old ones stay: %s", error)
            self._next_ticket = datetime.now(UTC) + _RETRY
            return
        now = datetime.now(UTC)
        self._next_ticket = now + (expiry - now) / 2
        _log.info("tickets until %s", expiry.isoformat(timespec="seconds"))

    @property
    def _ccache(self) -> Path:
        return self._state.tickets / SERVICE_ACCOUNT


def start_double(
    *,
    port: int,
    data: Sequence[str],
    principal: str,
    keytab: Path,
    password_file: Path,
    certificates: Path,
    control: Path,
    log: Path,
    environment: Mapping[str, str],
) -> ChildProcess:
    """Start the SQL Server double in a process of its own; it listens once its data is loaded.

    :param certificates: the folder of :func:`datakit_lab.certificates.issue_certificate`.
    """
    options = {
        "--port": port,
        "--data": ",".join(data),
        "--principal": principal,
        "--keytab": keytab,
        "--password-file": password_file,
        "--certificates": certificates,
        "--control": control,
    }
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "datakit_lab", "sqlserver", *words]
    return ChildProcess("the SQL Server double", command, log=log, env={**os.environ, **environment})


def sqlserver_services(port: int) -> list[str]:
    """Return the service names that clients of this machine may ask for when they connect to the double."""
    return [f"MSSQLSvc/{host}:{port}" for host in own_names()]


def lab_services(kdc: Kdc, sqlserver_port: int) -> list[str]:
    """Return the services of the lab that take tickets."""
    postgres = [f"postgres/{host}" for host in own_names()]
    return [*sqlserver_services(sqlserver_port), *(name for name in postgres if kdc.has_principal(name))]


def main() -> int:
    """Run the lab whose state directory and options are the arguments."""
    state, options = LabState(Path(sys.argv[1])), LabOptions.from_json(sys.argv[2])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with state.locked():
        return Supervisor(state, options).run(stop)


if __name__ == "__main__":
    sys.exit(main())
