"""What a running lab leaves on disk: where everything is, and the lock that says whether it runs.

The lock is the operating system's (``flock``), held by the supervisor: it is gone when the supervisor is, however that
ended, so nobody has to guess from a process id whether a lab is alive.
"""

from __future__ import annotations

import fcntl
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from datakit_lab.errors import LabError

_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LabOptions:
    """What ``up`` was asked for. Never a secret: it is an argument of the supervisor's process.

    :ivar data: the data sets the SQL Server double is filled with.
    :ivar ticket_life: seconds.
    :ivar clock_skew: seconds.
    """

    data: tuple[str, ...] = ("airline",)
    realm: str = "LAB.TEST"
    kdc_port: int = 10088
    sqlserver_port: int = 11433
    postgres_port: int = 15432
    vault_port: int = 10443
    sidecar_port: int = 18089
    ticket_life: int = 36000
    clock_skew: int = 300

    @classmethod
    def from_json(cls, text: str) -> LabOptions:
        """Read what :meth:`as_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "data": tuple(values["data"])})

    def ports(self) -> dict[str, int]:
        """Return every port by the name of its server."""
        return {
            "kdc": self.kdc_port,
            "sqlserver": self.sqlserver_port,
            "postgres": self.postgres_port,
            "vault": self.vault_port,
            "sidecar": self.sidecar_port,
        }

    def as_json(self) -> str:
        """Return the options as text."""
        return json.dumps(asdict(self))


@dataclass(slots=True)
class Service:
    """One server of the lab; ``pid`` is None once it has ended."""

    port: int
    log: str
    pid: int | None


@dataclass(slots=True)
class LabRecord:
    """The content of ``lab.json``.

    :ivar environment: the variables that a client of the lab needs; never a secret.
    :ivar scratch: folders outside the state directory that belong to the lab.
    """

    supervisor: int
    phase: Literal["starting", "ready", "failed"] = "starting"
    data: list[str] = field(default_factory=list)
    realm: str = ""
    services: dict[str, Service] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    scratch: list[str] = field(default_factory=list)
    problem: str | None = None
    fix: str | None = None
    exit_code: int = 0


class LabState:
    """The state directory of one lab."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()

    @property
    def kdc(self) -> Path:
        """The realm's database, keytabs and ``krb5.conf``."""
        return self.directory / "kdc"

    @property
    def logs(self) -> Path:
        """One log file for each server, and the supervisor's own."""
        return self.directory / "logs"

    @property
    def tickets(self) -> Path:
        """Credential caches, named by principal: a link to where the sidecar publishes them, in memory."""
        return self.directory / "tickets"

    @property
    def secrets(self) -> Path:
        """Secret files, ``REFERENCE/FIELD``: a link to where the sidecar publishes them, in memory."""
        return self.directory / "secrets"

    @property
    def bootstrap(self) -> Path:
        """The sidecar's credential for the vault: its one secret that does not come from there."""
        return self.directory / "bootstrap"

    @property
    def sidecar_configuration(self) -> Path:
        """The sidecar's configuration, without a secret."""
        return self.directory / "sidecar.yaml"

    @property
    def audit(self) -> Path:
        """The sidecar's audit log."""
        return self.logs / "audit.jsonl"

    @property
    def certificates(self) -> Path:
        """The authority's certificate, and the servers'."""
        return self.directory / "certificates"

    @property
    def control(self) -> Path:
        """The socket on which the SQL Server double takes commands."""
        return self.directory / "sqlserver.sock"

    @property
    def vault_control(self) -> Path:
        """The socket on which the vault's double takes commands."""
        return self.directory / "vault.sock"

    @property
    def supervisor_control(self) -> Path:
        """The socket on which the supervisor takes commands."""
        return self.directory / "lab.sock"

    @property
    def running(self) -> bool:
        """Whether a supervisor holds the lock."""
        if not self._lock_file.exists():
            return False
        with self._lock_file.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock.

        :raises LabError: somebody else holds it.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock_file.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(
                    f"{self.directory} already belongs to a running lab", fix="datakit-lab status, or datakit-lab down"
                ) from None
            yield

    def read(self) -> LabRecord | None:
        """Return what the lab says about itself; None if there is none."""
        try:
            values: dict[str, Any] = json.loads(self._record_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if values.pop("version") != _VERSION:
            raise LabError(
                f"{self._record_file} was written by another version of datakit-lab", fix=f"rm -r {self.directory}"
            )
        values["services"] = {name: Service(**service) for name, service in values["services"].items()}
        return LabRecord(**values)

    def write(self, record: LabRecord) -> None:
        """Replace what the lab says about itself, at once."""
        scratch = self._record_file.with_name(f".lab.json.{secrets.token_hex(4)}")
        scratch.write_text(json.dumps({"version": _VERSION, **asdict(record)}, indent=2), encoding="utf-8")
        scratch.replace(self._record_file)

    def share(self, tickets: Path, secrets: Path) -> None:
        """Let the links lead to where the sidecar publishes."""
        for link, target in ((self.tickets, tickets), (self.secrets, secrets)):
            link.symlink_to(target)

    def remove_leftovers(self) -> None:
        """Remove everything of a lab that does not run, but its logs. Its servers died with its supervisor."""
        record = self.read()
        for scratch in record.scratch if record else []:
            shutil.rmtree(scratch, ignore_errors=True)
        for folder in (self.kdc, self.bootstrap, self.certificates):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (
            self.tickets,
            self.secrets,
            self.sidecar_configuration,
            self.control,
            self.vault_control,
            self.supervisor_control,
            self._record_file,
        ):
            file.unlink(missing_ok=True)

    @property
    def _record_file(self) -> Path:
        return self.directory / "lab.json"

    @property
    def _lock_file(self) -> Path:
        return self.directory / "lock"
