"""The process behind ``datakit-lab up``: it owns the servers and takes all down with it.

Run as ``python -m datakit_lab.supervisor STATE OPTIONS``. The servers are its children and die with it.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from datakit_lab import control
from datakit_lab.certificates import issue_certificate
from datakit_lab.errors import LabError
from datakit_lab.kdc import Kdc
from datakit_lab.network import holder_of, own_names, port_is_free
from datakit_lab.postgres import Postgres
from datakit_lab.processes import ChildProcess, Server
from datakit_lab.sidecar import Sidecar, memory_folder
from datakit_lab.state import LabOptions, LabRecord, LabState, Service
from datakit_lab.vault import VaultControl, start_vault

SERVICE_ACCOUNT: Final = "svc-datakit"
WAREHOUSE: Final = "finance"
"""The PostgreSQL role and its database; the role's password is the secret ``finance-db/password``."""
KEYTAB_SECRET: Final = f"/Kerberos/{SERVICE_ACCOUNT}"
WAREHOUSE_SECRET: Final = f"/Databases/{WAREHOUSE}-db"
SOURCE_SECRET: Final = "/Databases/airline"  # noqa: S105  # a path in the vault
"""Where the vault keeps what the sidecar publishes."""
_TICK_SECONDS: Final = 0.5
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
        self._running: dict[str, Server | ChildProcess] = {}

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
        for name, port in self._options.ports().items():
            if not port_is_free(port):
                fix = f"end that, or choose another: --{name}-port"
                raise LabError(f"port {port} is taken by {holder_of(port)}", fix=fix)
        self._state.write(self._record)
        shared = self._scratch(memory_folder())
        issue_certificate(self._state.certificates)
        self._start_kdc(stack)
        vault = self._start_vault(stack)
        double = self._start_sqlserver(stack, vault, shared)
        postgres = self._start_postgres(stack, vault)
        double.wait_until(self._state.control.exists, seconds=_DATA_MINUTES * 60)  # the last thing that it opens
        sidecar = self._start_sidecar(stack, shared)
        self._state.share(sidecar.tickets, sidecar.secrets)
        rotation = Rotation(self._kdc, vault, postgres)
        stack.enter_context(control.serve(self._state.supervisor_control, rotation.handlers()))
        self._record.environment = {
            "KRB5_CONFIG": str(self._kdc.krb5_conf),
            "KRB5CCNAME": f"FILE:{self._state.tickets / SERVICE_ACCOUNT}",
            "DATAKIT_SECRETS": str(self._state.secrets),
            "DATAKIT_ENVIRONMENT": "local",  # the tree's file that says where a lab is
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

    def _start_vault(self, stack: ExitStack) -> VaultControl:
        double = start_vault(
            port=self._options.vault_port,
            certificates=self._state.certificates,
            credentials=self._state.bootstrap,
            control=self._state.vault_control,
            log=self._state.logs / "vault.log",
        )
        stack.callback(double.stop)
        double.wait_until(self._state.vault_control.exists)
        self._note("vault", double, self._options.vault_port, double.log)
        vault = VaultControl(self._state.vault_control)
        vault.add_secret(KEYTAB_SECRET, {"keytab": keytab_of(self._kdc, SERVICE_ACCOUNT)})
        return vault

    def _start_sqlserver(self, stack: ExitStack, vault: VaultControl, shared: Path) -> ChildProcess:
        password = secrets.token_urlsafe(18)
        vault.add_secret(SOURCE_SECRET, {"username": "datakit", "password": password})
        password_file = shared / "sqlserver-password"
        password_file.touch(mode=0o600)
        password_file.write_text(password, encoding="utf-8")
        double = start_double(
            port=self._options.sqlserver_port,
            data=self._options.data,
            principal=self._kdc.full_name(SERVICE_ACCOUNT),
            keytab=self._state.kdc / "sqlserver.keytab",
            password_file=password_file,
            certificates=self._state.certificates,
            control=self._state.control,
            log=self._state.logs / "sqlserver.log",
            environment=self._kdc.client_environment(),
        )
        stack.callback(double.stop)
        self._note("sqlserver", double, self._options.sqlserver_port, double.log)
        return double

    def _start_postgres(self, stack: ExitStack, vault: VaultControl) -> Postgres:
        kdc = self._kdc if Postgres.speaks_kerberos() else None
        server = Postgres(port=self._options.postgres_port, kdc=kdc, log=self._state.logs / "postgres.log")
        self._scratch(server.directory)
        stack.callback(server.close)
        server.start()
        password = secrets.token_urlsafe(18)
        vault.add_secret(WAREHOUSE_SECRET, {"username": WAREHOUSE, "password": password})
        server.create_role(WAREHOUSE, password)
        server.create_database(WAREHOUSE, owner=WAREHOUSE)
        if kdc is not None:
            server.create_role(SERVICE_ACCOUNT)
            server.grant(WAREHOUSE, SERVICE_ACCOUNT)
        self._note("postgres", server, self._options.postgres_port, server.log)
        return server

    def _start_sidecar(self, stack: ExitStack, shared: Path) -> Sidecar:
        sidecar = Sidecar(
            self._state.directory,
            kdc=self._kdc,
            principal=SERVICE_ACCOUNT,
            services=lab_services(self._kdc, self._options.sqlserver_port),
            vault={
                "url": f"https://localhost:{self._options.vault_port}/SecretServer",
                "credentials": str(self._state.bootstrap),
                "ca_file": str(self._state.certificates / "authority.pem"),
            },
            keytab=KEYTAB_SECRET,
            secrets={f"{WAREHOUSE}-db": WAREHOUSE_SECRET, "airline": SOURCE_SECRET},
            shared=shared,
            port=self._options.sidecar_port,
            log=self._state.logs / "sidecar.log",
            audit=self._state.audit,
        )
        stack.callback(sidecar.close)
        sidecar.start()
        self._note("sidecar", sidecar, self._options.sidecar_port, sidecar.log)
        return sidecar

    def _scratch(self, folder: Path) -> Path:
        """Remember a folder outside the state directory, for whoever has to clean up."""
        self._record.scratch.append(str(folder))
        self._state.write(self._record)
        return folder

    def _note(self, name: str, server: Server | ChildProcess, port: int, log: Path) -> None:
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


class Rotation:
    """Changes keys and passwords, first where they open a door and then in the vault, as a vault's own rotation does.

    Between the two the vault holds what opens nothing any more; so it is in a company.
    """

    def __init__(self, kdc: Kdc, vault: VaultControl, postgres: Postgres) -> None:
        self._kdc = kdc
        self._vault = vault
        self._postgres = postgres

    def handlers(self) -> dict[str, control.Handler]:
        """Return what :func:`datakit_lab.control.serve` answers with."""
        return {"rotate keytab": self._rotate_keytab, "rotate password": self._rotate_password}

    def _rotate_keytab(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        self._kdc.rotate(SERVICE_ACCOUNT)
        self._vault.rotate(KEYTAB_SECRET, "keytab", keytab_of(self._kdc, SERVICE_ACCOUNT))
        return {"did": [f"{SERVICE_ACCOUNT} has new keys; the vault has them as {KEYTAB_SECRET}"]}

    def _rotate_password(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        password = secrets.token_urlsafe(18)
        self._postgres.set_password(WAREHOUSE, password)
        self._vault.rotate(WAREHOUSE_SECRET, "password", password)
        return {"did": [f"PostgreSQL's role {WAREHOUSE} has a new password; the vault has it as {WAREHOUSE_SECRET}"]}


def keytab_of(kdc: Kdc, name: str) -> bytes:
    """Return the present keys of a principal; they are on no disk afterwards."""
    folder = memory_folder()
    try:
        return kdc.keytab(folder / "keytab", name).read_bytes()
    finally:
        shutil.rmtree(folder)


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
