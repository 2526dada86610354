"""A sidecar that brings an account's key from the vault and its tickets to a volume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datakit_lab.network import free_port
from datakit_sidecar.errors import NotReady
from datakit_sidecar.testing import SidecarProcess
from datakit_vault.testing import FakeVault

from .accounts import Account

SECRET = "/Kerberos/service-account"
WRONG = "NT_STATUS_WRONG_PASSWORD"


@dataclass
class Watched:
    """An account, the vault that holds its key, and what a sidecar for it needs.

    ``configuration`` may be changed before a sidecar is started.
    """

    account: Account
    vault: FakeVault
    folder: Path
    volume: Path
    services: tuple[str, ...]
    configuration: dict[str, Any] = field(default_factory=dict)
    running: ExitStack = field(default_factory=ExitStack)
    password: str = "unknown"

    def __post_init__(self) -> None:
        domain = self.account.domain
        self.vault.add_secret(SECRET, {"keytab": self.account.keytab.read_bytes(), "password": self.password})
        self.configuration |= {
            "vault": {
                "kind": "secret-server",
                "url": self.vault.url,
                "credentials": str(self.vault.credentials_folder(self.folder / "bootstrap")),
                "allow_http": True,
                "every": "1s",
            },
            "kerberos": {"realm": domain.realm, "kdcs": [f"127.0.0.1:{domain.port}"]},
            "principals": [
                {"name": self.account.name, "keytab": {"secret": SECRET}, "services": [*self.services]},
            ],
            "health": {"port": free_port()},
        }
        self.use_volume("pod")

    @property
    def tickets(self) -> Path:
        """The folder that readers are given."""
        return Path(self.configuration["publish"]["tickets"])

    def use_volume(self, name: str) -> None:
        """Let the next sidecar have another volume, as a new pod has."""
        pod = self.volume / name
        self.configuration["publish"] = {"tickets": str(pod / "tickets"), "secrets": str(pod / "secrets")}

    def rotate_in_vault(self) -> None:
        """Put the account's present keys and password into the vault."""
        self.vault.rotate(SECRET, "keytab", self.account.export().read_bytes())
        self.vault.rotate(SECRET, "password", self.password)

    def use_password(self) -> None:
        """Let the sidecar derive the key from a password."""
        principal = self.configuration["principals"][0]
        del principal["keytab"]
        principal["password"] = {"secret": SECRET}
        self.rotate()
        self.rotate_in_vault()

    def rotate(self) -> int:
        """Give the account another password, which the vault does not know of; return the new key version."""
        self.password = f"Rotated-{os.urandom(8).hex()}"
        return self.account.domain.rotate(self.account.name, self.password)

    def start(self) -> SidecarProcess:
        """Start ``datakit-sidecar run``; it ends with the test."""
        return self.running.enter_context(SidecarProcess(self.write(), folder=self.folder))

    def refused(self) -> tuple[int, dict[str, Any]]:
        """Run ``datakit-sidecar once``, which must fail; return its exit code and its error."""
        done = self.command("once")
        assert done.returncode, done.stderr
        said: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
        return done.returncode, said

    def command(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ``datakit-sidecar`` to its end."""
        command = [sys.executable, "-m", "datakit_sidecar.cli", name, "--config", str(self.write()), "--json"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def write(self) -> Path:
        """Write the configuration."""
        path = self.folder / "sidecar.yaml"
        path.write_text(json.dumps(self.configuration), encoding="utf-8")  # YAML takes JSON as it is
        return path

    def wrong_tries(self) -> int:
        """Return how many tries with a wrong key the controller has seen."""
        return self.account.domain.tries(self.account.name).count(WRONG)


def events(sidecar: SidecarProcess, since: int = 0) -> Counter[str]:
    """Count the audit lines of each kind, from a line on."""
    return Counter(line["event"] for line in sidecar.audit()[since:])


def error(sidecar: SidecarProcess) -> dict[str, Any]:
    """Return what went wrong last with the tickets, or nothing."""
    return _principal(sidecar).get("error") or {}


def version(sidecar: SidecarProcess) -> int | None:
    """Return the version of the key that the sidecar uses."""
    return _principal(sidecar).get("kvno")


def _principal(sidecar: SidecarProcess) -> dict[str, Any]:
    """Return the state of the only principal; nothing while the sidecar starts."""
    try:
        (state,) = sidecar.state().get("principals", {"": {}}).values()
    except NotReady:
        state = {}
    assert isinstance(state, dict)
    return state
