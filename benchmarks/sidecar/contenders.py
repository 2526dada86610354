"""Who keeps a ticket fresh: ours, ``k5start`` and ``airflow kerberos``, each started as its own manual says.

All have the same KDC and the same account. Ours gets the key from a vault, over TLS; the others read a keytab file.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import yaml
from datakit_lab.kdc import Kdc
from datakit_lab.network import LOOPBACK, free_port
from datakit_vault.testing import FakeVault

from benchmarks import ROOT
from benchmarks.sidecar import installed

ACCOUNT: Final = "svc-datakit"
SERVICE: Final = "MSSQLSvc/sql01.lab.test:1433"
_SECRET: Final = "/Kerberos/svc-datakit"
_AIRFLOW: Final = ROOT / ".venv-airflow/bin/airflow"


@dataclass(frozen=True, slots=True)
class Stage:
    """What all of them stand on.

    :ivar authority: the certificate of who signed the vault's.
    :ivar keytab: the account's, as a file; ours does without.
    """

    kdc: Kdc
    vault: FakeVault
    authority: Path
    keytab: Path


class Contender(ABC):
    """A program that keeps a ticket fresh in a file.

    :cvar name: as the table shows it.
    :cvar renewals_per_day: how often it renews a ticket of ten hours, with its defaults.
    """

    name: ClassVar[str]
    renewals_per_day: ClassVar[float]

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self.folder = folder
        folder.mkdir()
        self.cache = folder / "ccache"
        self.log = folder / "log"

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Return what to install, if it is not there."""

    @classmethod
    @abstractmethod
    def installed_bytes(cls) -> int:
        """Return the size on disk of what it needs beside Python, the C library and MIT's Kerberos libraries."""

    @abstractmethod
    def command(self) -> list[str | Path]:
        """Return the command that runs it for ever."""

    def environment(self) -> dict[str, str]:
        """Return its whole environment."""
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "LANG": "C.UTF-8"} | (
            self.stage.kdc.client_environment()
        )

    def prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """Do once what its manual says to do once."""

    def start(self) -> subprocess.Popen[bytes]:
        """Start it."""
        command = self.command()
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command, env=self.environment(), cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def renew(self, process: subprocess.Popen[bytes]) -> None:
        """Make it renew now."""
        process.send_signal(signal.SIGALRM)


class Ours(Contender):
    """``datakit-sidecar run``, with a vault, an audit file and probes. SIGUSR1 also reads the vault again."""

    name = "datakit-sidecar"
    renewals_per_day = 24 / 5
    looks_per_day: Final = 24 * 60 / 5

    def __init__(self, stage: Stage, folder: Path, *, look_every: str = "5m") -> None:
        super().__init__(stage, folder)
        self._look_every = look_every
        self.memory = Path("/dev/shm") / f"datakit-bench-{os.getpid()}-{folder.name}"
        self.cache = self.memory / ACCOUNT

    @classmethod
    def missing(cls) -> str | None:
        """Nothing is: it is this repository's own."""
        return None

    @classmethod
    def installed_bytes(cls) -> int:
        """Return the size of its distribution and of those it needs."""
        return installed.distributions("datakit-sidecar")

    def command(self) -> list[str | Path]:
        """Return the command of the console."""
        configuration = self.folder / "sidecar.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration()), encoding="utf-8")
        return [ROOT / ".venv/bin/datakit-sidecar", "run", "--config", configuration]

    def renew(self, process: subprocess.Popen[bytes]) -> None:
        """Ask for new tickets."""
        process.send_signal(signal.SIGUSR1)

    def _configuration(self) -> dict[str, Any]:
        return {
            "vault": {
                "kind": "secret-server",
                "url": self.stage.vault.url,
                "credentials": str(self.stage.vault.credentials_folder(self.folder / "bootstrap")),
                "ca_file": str(self.stage.authority),
                "every": self._look_every,
            },
            "kerberos": {"realm": self.stage.kdc.realm, "kdcs": [f"{LOOPBACK}:{self.stage.kdc.port}"]},
            "principals": [{"name": ACCOUNT, "keytab": {"secret": _SECRET}, "services": [SERVICE]}],
            "publish": {"tickets": str(self.memory)},
            "health": {"port": free_port()},
            "audit": {"file": str(self.folder / "audit.jsonl")},
        }


class K5start(Contender):
    """``k5start -K 60``: a daemon in C that looks once an hour, and renews what would not live until the next look."""

    name = "k5start"
    renewals_per_day = 24 / 9

    @classmethod
    def missing(cls) -> str | None:
        """Return Debian's package."""
        return None if shutil.which("k5start") else "apt-get install kstart"

    @classmethod
    def installed_bytes(cls) -> int:
        """Return the size of Debian's package."""
        return installed.debian_package("kstart")

    def command(self) -> list[str | Path]:
        """Return the daemon in the foreground."""
        return ["k5start", "-f", self.stage.keytab, "-u", ACCOUNT, "-k", self.cache, "-l", "10h", "-K", "60"]


class AirflowKerberos(Contender):
    """``airflow kerberos``: Airflow's own renewer, which runs ``kinit`` twice for each renewal, hourly by default.

    Here it renews every second, because no signal makes it.
    """

    name = "airflow kerberos"
    renewals_per_day = 24

    @classmethod
    def missing(cls) -> str | None:
        """Return the script that installs it."""
        return None if _AIRFLOW.exists() else "scripts/setup --airflow"

    @classmethod
    def installed_bytes(cls) -> int:
        """Return the size of its distribution, of those it needs, and of ``kinit``."""
        return installed.distributions("apache-airflow-core", ROOT / ".venv-airflow/bin/python") + (
            installed.debian_package("krb5-user")
        )

    def command(self) -> list[str | Path]:
        """Return the command for ever."""
        return [_AIRFLOW, "kerberos", ACCOUNT, "--keytab", self.stage.keytab]

    def prepare(self) -> None:
        """Make the database, without which it does not start."""
        subprocess.run(
            [_AIRFLOW, "db", "migrate"], env=self.environment(), cwd=self.folder, capture_output=True, check=True
        )

    def environment(self) -> dict[str, str]:
        """Return an environment whose Airflow knows nothing but this."""
        return super().environment() | {
            "AIRFLOW_HOME": str(self.folder.parent / "airflow"),
            "AIRFLOW__KERBEROS__CCACHE": str(self.cache),
            "AIRFLOW__KERBEROS__REINIT_FREQUENCY": "1",
            "AIRFLOW__KERBEROS__INCLUDE_IP": "False",  # of a container, and nobody asks for it any more
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }

    def renew(self, process: subprocess.Popen[bytes]) -> None:
        """Wait: it does so by itself."""


CONTENDERS: Final[tuple[type[Contender], ...]] = (Ours, K5start, AirflowKerberos)


def add_account(stage: Stage) -> None:
    """Give the realm the account and the service, and the vault the keytab."""
    stage.kdc.add_principal(ACCOUNT)
    stage.kdc.add_principal(SERVICE)
    stage.kdc.keytab(stage.keytab, ACCOUNT)
    stage.vault.add_secret(_SECRET, {"keytab": stage.keytab.read_bytes()})
