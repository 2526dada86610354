"""The real ``datakit-sidecar``, as a child of the lab: it asks the lab's vault and publishes for the lab's clients."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from datakit_lab.errors import LabError, LabUnavailable
from datakit_lab.network import LOOPBACK, accepts, ask, free_port, own_names
from datakit_lab.processes import ChildProcess, Server

if TYPE_CHECKING:
    import signal

    from datakit_lab.kdc import Kdc

_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # memory, which is what the sidecar insists on
_PROGRAM: Final = Path(sys.executable).with_name("datakit-sidecar")
_MINIMUM_LIFE: Final = timedelta(minutes=5)
_START_ATTEMPTS: Final = 5


def memory_folder() -> Path:
    """Make a private folder in memory; whoever asks removes it.

    :raises LabError: this machine has none.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="datakit-lab-", dir=_MEMORY))
    except OSError as error:
        raise LabError(
            f"no folder can be made in {_MEMORY}: {error.strerror}",
            fix=f"tickets and secrets never touch a disk: mount -t tmpfs tmpfs {_MEMORY}",
        ) from None


class Sidecar(Server):
    """One sidecar, for one principal of the lab's realm.

    :param directory: where its configuration and, if not told otherwise, its logs go. No secret is in them.
    :param kdc: the realm, of which it generates its own krb5.conf.
    :param principal: whose tickets it gets.
    :param services: for which services; of None it publishes the ticket-granting ticket.
    :param vault: the section ``vault`` of its configuration: ``url``, ``credentials``, ``ca_file``.
    :param keytab: path of the secret whose field ``keytab`` holds the principal's keys.
    :param secrets: name of a published folder → path of the secret whose field ``password`` goes there.
    :param shared: the folder in memory where it publishes; a new one, removed by :meth:`close`, if None.
    :param port: loopback port of its health; 0 chooses a free one.
    :param look_every: pause between two looks at the vault for what was rotated.
    """

    def __init__(
        self,
        directory: Path,
        *,
        kdc: Kdc,
        principal: str,
        services: Sequence[str] | None,
        vault: Mapping[str, Any],
        keytab: str,
        secrets: Mapping[str, str] | None = None,
        shared: Path | None = None,
        port: int = 0,
        look_every: timedelta = timedelta(seconds=2),
        log: Path | None = None,
        audit: Path | None = None,
    ) -> None:
        self._directory = directory
        self._kdc = kdc
        self._principal = principal
        self._services = services
        self._vault = vault
        self._keytab = keytab
        self._secrets = secrets or {}
        self._temporary = shared is None
        self.shared = shared or memory_folder()
        self._fixed_port = bool(port)
        self.port = port
        self._look_every = look_every
        self.log = log or directory / "sidecar.log"
        self.audit = audit or directory / "audit.jsonl"

    @property
    def configuration(self) -> Path:
        """Its configuration file."""
        return self._directory / "sidecar.yaml"

    @property
    def tickets(self) -> Path:
        """The folder of credential caches."""
        return self.shared / "tickets"

    @property
    def secrets(self) -> Path:
        """The folder of secret files."""
        return self.shared / "secrets"

    def start(self, *, ready: bool = True, seconds: float = 60) -> None:
        """Start it and wait until it is ready: everything is published.

        :param ready: False only waits until it answers, for a sidecar that cannot become ready.
        :raises LabUnavailable: it ended, or did not become ready in time.
        """
        for attempt in range(1, _START_ATTEMPTS + 1):
            if not self.port:
                self.port = free_port()
            self._write_configuration()
            command: list[str | Path] = [_PROGRAM, "run", "--config", self.configuration]
            self._process = ChildProcess("the sidecar", command, log=self.log)
            try:
                self._process.wait_until(lambda: self._answers(ready=ready), seconds=seconds)
            except LabUnavailable:
                self._process.kill()
                if self._fixed_port or attempt == _START_ATTEMPTS:
                    raise
                self.port = 0  # somebody took it between the choice and the bind
            else:
                self._fixed_port = True
                return

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send(number)

    def stop(self) -> None:
        """Stop it; it removes what it published."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL: what it published stays."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Stop it for good and, if the folder in memory is its own, remove that."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.shared, ignore_errors=True)

    def _answers(self, *, ready: bool) -> bool:
        return accepts(self.port) and (not ready or readiness(self.port) is not None)

    def _write_configuration(self) -> None:
        import yaml

        principal: dict[str, Any] = {
            "name": self._kdc.full_name(self._principal),
            "keytab": {"secret": self._keytab, "field": "keytab"},
        }
        principal |= {"share": "tgt"} if self._services is None else {"services": list(self._services)}
        life = self._kdc.ticket_life
        document = {
            "vault": {"kind": "secret-server", **self._vault, "every": _written(self._look_every)},
            "kerberos": {
                "realm": self._kdc.realm,
                "kdcs": [f"{LOOPBACK}:{self._kdc.port}"],
                "domains": dict.fromkeys(own_names(), self._kdc.realm),
                "ticket_life": _written(life),
            },
            "principals": [principal],
            "secrets": [
                {"secret": secret, "as": folder, "fields": ["password"]} for folder, secret in self._secrets.items()
            ],
            "publish": {"tickets": str(self.tickets), "secrets": str(self.secrets)},
            "health": {
                "address": LOOPBACK,
                "port": self.port,
                "minimum_life": _written(min(_MINIMUM_LIFE, life / 10)),
            },
            "audit": {"file": str(self.audit), "stdout": False},
        }
        self.configuration.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def readiness(port: int) -> dict[str, Any] | None:
    """Return what the sidecar on this loopback port says about itself if it is ready, else None."""
    try:
        with ask(f"http://{LOOPBACK}:{port}/readyz", seconds=2) as answer:
            said: dict[str, Any] = json.load(answer)
    except (OSError, ValueError):  # not there yet, not ready yet, or another program
        return None
    return said


def _written(time: timedelta) -> str:
    return f"{time.total_seconds():.3f}s"
