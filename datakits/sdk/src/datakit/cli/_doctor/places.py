"""Places that a run needs: secret files, hosts, the report's folder."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

from datakit.cli._doctor.finding import Finding, State, is_open_to_all
from datakit.credentials import read_secret, secrets_folder
from datakit.errors import DatakitError
from datakit.model.environment import Environment
from datakit.model.project import Project

_DEADLINE_SECONDS: Final = 3.0
_POSTGRES_PORT: Final = 5432
_REFERENCE: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SECRET_KEYS: Final = frozenset({"password", "secret", "token"})


def examine_secrets(environment: Environment | None) -> Iterator[Finding]:
    """Read every secret that the environment refers to; the values are not kept."""
    references = sorted(set(_references(environment))) if environment else []
    folder = secrets_folder()
    if not references:
        state = State.GOOD if os.access(folder, os.R_OK | os.X_OK) else State.UNNEEDED
        why = "the environment needs no secret" if environment else "no environment is chosen"
        detail = str(folder) if state is State.GOOD else f"{folder} cannot be read, and {why}"
        yield Finding("secrets", state, detail)
    for reference in references:
        try:
            read_secret(reference)
        except DatakitError as error:
            yield Finding.of(f"secret {reference}", error)
            continue
        path = folder / reference
        if is_open_to_all(path):
            fix = "let the sidecar publish with mode 0600 or 0640"
            yield Finding(f"secret {reference}", State.DOUBTFUL, f"{path}: everybody on this machine may read it", fix)
        else:
            yield Finding(f"secret {reference}", State.GOOD, str(path))


def examine_hosts(environment: Environment) -> Iterator[Finding]:
    """Resolve every host of the environment and open a connection to its port, all at once."""
    targets = {f"source {name}": (system.host, system.port) for name, system in environment.sources.items()}
    for name, section in environment.warehouses.items():
        host, port = section.get("host"), section.get("port", _POSTGRES_PORT)
        if isinstance(host, str) and isinstance(port, int):
            targets[f"warehouse {name}"] = (host, port)
    by_name = {f"source {name}" for name, system in environment.sources.items() if system.user is None}
    yield from _reach_all(targets, by_name)


def examine_warehouses(project: Project, environment: Environment) -> Iterator[Finding]:
    """Let each warehouse's adapter judge its section of the environment."""
    from datakit.warehouses import open_warehouse

    for config in project.warehouses().values():
        if config.connection not in environment.warehouses:
            continue
        subject = f"settings of {config.connection}"
        section, where = project.warehouse_connection(environment, config)
        try:
            open_warehouse(config.type, section, where=where, base=project.root).close()
        except DatakitError as error:
            yield Finding.of(subject, error)
        else:
            yield Finding(subject, State.GOOD, f"{config.type}, {where}")


def examine_report_path() -> Finding:
    """Say where the run report goes, and whether it can be written there."""
    from datakit.ingest.report import check_report_path, default_report_path

    path = default_report_path()
    try:
        check_report_path(path)
    except DatakitError as error:
        return Finding.of("run report", error)
    return Finding("run report", State.GOOD, str(path) if path else "none: DATAKIT_REPORT is not set")


def _references(environment: Environment) -> Iterator[str]:
    yield from (system.password for system in environment.sources.values() if system.password)
    for section in environment.warehouses.values():
        yield from _references_in(section)


def _references_in(section: Mapping[str, Any]) -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _references_in(value)
        elif key in _SECRET_KEYS and isinstance(value, str) and _REFERENCE.fullmatch(value):
            yield value


def _reach_all(targets: Mapping[str, tuple[str, int]], by_name: set[str]) -> Iterator[Finding]:
    found: dict[str, Finding] = {}

    def reach(subject: str, host: str, port: int) -> None:
        found[subject] = _reach(subject, host, port, by_ticket=subject in by_name)

    # Daemon threads, because a resolver that hangs cannot be stopped and must not keep the command from ending.
    threads = [
        threading.Thread(target=reach, args=(subject, *target), daemon=True) for subject, target in targets.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * _DEADLINE_SECONDS)
    for subject, (host, port) in targets.items():
        yield found.get(subject) or Finding(
            subject,
            State.BAD,
            f"{host}:{port}: no answer from DNS in {2 * _DEADLINE_SECONDS:.0f} s",
            f"getent hosts {host}; look at /etc/resolv.conf",
        )


def _reach(subject: str, host: str, port: int, *, by_ticket: bool) -> Finding:
    place = f"{host}:{port}"
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        fix = f"getent hosts {host}; is the name right, and does this machine use the company's DNS?"
        return Finding(subject, State.BAD, f"{place}: the name cannot be resolved ({error})", fix)
    try:
        socket.create_connection((host, port), timeout=_DEADLINE_SECONDS).close()
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        fix = f"nc -vz {host} {port}; a firewall or network policy that drops packets gives no answer"
        return Finding(subject, State.BAD, f"{place} ({addresses[0][4][0]}): {reason}", fix)
    detail = f"{place} ({addresses[0][4][0]}) answers"
    # the driver asks for localhost's ticket by this machine's own name
    if by_ticket and host != "localhost" and (_is_address(host) or "." not in host):
        fix = "write the fully qualified name, from which the service principal MSSQLSvc/HOST:PORT is built"
        return Finding(subject, State.DOUBTFUL, f"{detail}, but Kerberos wants the server's full name", fix)
    return Finding(subject, State.GOOD, detail)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
