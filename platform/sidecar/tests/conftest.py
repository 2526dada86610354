"""A realm, a vault, a memory-backed volume, and sidecars between them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from datakit_lab.kdc import Kdc
from datakit_sidecar.testing import SidecarProcess
from datakit_vault.testing import FakeVault

ACCOUNT = "svc-datakit"
SERVICE = "MSSQLSvc/sql01.lab.test:1433"
KEYTAB_SECRET = "/Kerberos/svc-datakit"


class SlowLine:
    """A line to a KDC, by UDP only, on which every request takes so many seconds. What is sent again arrives once."""

    def __init__(self, port: int, seconds: float) -> None:
        self._target = ("127.0.0.1", port)
        self._seconds = seconds
        self._seen: set[tuple[Any, bytes]] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            request, sender = self._socket.recvfrom(65536)
            if not request:
                return
            if (sender, request) not in self._seen:
                self._seen.add((sender, request))
                threading.Thread(target=self._pass_on, args=(request, sender), daemon=True).start()

    def _pass_on(self, request: bytes, sender: Any) -> None:
        time.sleep(self._seconds)
        with (
            contextlib.suppress(OSError),  # the test is over
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line,
        ):
            line.settimeout(10)
            line.sendto(request, self._target)
            self._socket.sendto(line.recv(65536), sender)


@dataclass
class House:
    """Everything around a sidecar. ``configuration`` may be changed before :meth:`write` or :meth:`start`."""

    kdc: Kdc
    vault: FakeVault
    folder: Path
    volume: Path
    configuration: dict[str, Any]
    _running: ExitStack = field(default_factory=ExitStack)

    @property
    def cache(self) -> Path:
        return self.volume / "tickets" / ACCOUNT

    @property
    def audit_file(self) -> Path:
        return self.folder / "audit.jsonl"

    def keytab(self, *names: str) -> bytes:
        return self.kdc.keytab(self.folder / "keytab", *(names or (ACCOUNT,))).read_bytes()

    def rotate(self) -> bytes:
        """Change the account's key in the realm and in the vault."""
        self.kdc.rotate(ACCOUNT)
        data = self.keytab()
        self.vault.rotate(KEYTAB_SECRET, "keytab", data)
        return data

    def failed_tries(self, name: str = ACCOUNT) -> int:
        """How many wrong keys the realm has counted for the account."""
        lines = self.kdc._kadmin("getprinc", name).splitlines()
        return int(next(line for line in lines if line.startswith("Failed password attempts")).rpartition(" ")[2])

    def write(self) -> Path:
        path = self.folder / "sidecar.yaml"
        path.write_text(yaml.safe_dump(self.configuration), encoding="utf-8")
        return path

    def start(self, **options: Any) -> SidecarProcess:
        return self._running.enter_context(SidecarProcess(self.write(), folder=self.folder, **options))

    def command(self, *arguments: str | Path, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a ``datakit-sidecar`` command to its end."""
        command = [sys.executable, "-m", "datakit_sidecar.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)

    def once(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.command("once", "--config", self.write(), *arguments, **options)

    def slow_down(self, seconds: float, *, deadline: str) -> None:
        """Let each request to the KDC take so long, and calls be given up after ``deadline``."""
        line = self._running.enter_context(SlowLine(self.kdc.port, seconds))
        self.configuration["kerberos"] |= {"kdcs": [f"127.0.0.1:{line.port}"], "timeout": deadline}

    def close(self) -> None:
        self._running.close()


@pytest.fixture
def volume() -> Iterator[Path]:
    """An empty folder in memory."""
    folder = Path(tempfile.mkdtemp(prefix="datakit-sidecar-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def make_house(tmp_path: Path, volume: Path) -> Iterator[Callable[..., House]]:
    """Builds a house; the arguments are the KDC's."""
    with ExitStack() as stack:

        def make(**kdc_options: Any) -> House:
            kdc = stack.enter_context(Kdc(**kdc_options))
            vault = stack.enter_context(FakeVault())
            kdc.add_principal(ACCOUNT)
            kdc.add_principal(SERVICE)
            house = House(kdc, vault, tmp_path, volume, {})
            stack.callback(house.close)
            vault.add_secret(KEYTAB_SECRET, {"keytab": house.keytab()})
            house.configuration |= {
                "vault": {
                    "kind": "secret-server",
                    "url": vault.url,
                    "credentials": str(vault.credentials_folder(tmp_path / "bootstrap")),
                    "allow_http": True,
                    "every": "1s",
                },
                "kerberos": {"realm": kdc.realm, "kdcs": [f"127.0.0.1:{kdc.port}"], "timeout": "5s"},
                "principals": [{"name": ACCOUNT, "keytab": {"secret": KEYTAB_SECRET}, "services": [SERVICE]}],
                "publish": {"tickets": str(volume / "tickets"), "secrets": str(volume / "secrets")},
                "health": {"port": 0, "minimum_life": "1s"},
                "audit": {"file": str(tmp_path / "audit.jsonl")},
            }
            return house

        yield make


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    """A house whose tickets live for hours."""
    return make_house()


@pytest.fixture
def hasty_house(make_house: Callable[..., House]) -> House:
    """A house whose tickets live for ten seconds, and whose KDC forgives one second."""
    return make_house(ticket_life=timedelta(seconds=10), clock_skew=timedelta(seconds=1))


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment with changes; None removes."""
    merged = {**os.environ, **changes}
    return {name: value for name, value in merged.items() if value is not None}
