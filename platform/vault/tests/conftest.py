"""A double, a client of it, and a clock that only moves when somebody waits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datakit_vault import Request, Response, RetryPolicy, Secret, Vault, VaultSettings
from datakit_vault.testing import FakeVault

KEYTAB = b"\x05\x02\x00\x00" + bytes(range(256)) + b'"<html>\r\n\x00'
PASSWORD = 'Pä"ß\\w\u00f6rd\n\u20ac \U0001f511'


class ManualClock:
    """Time that passes only in :meth:`sleep`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000 + self.now

    def sleep(self, seconds: float, /) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.now += seconds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["secret-server", "platform"])
def either_fake(request: pytest.FixtureRequest) -> Iterator[FakeVault]:
    with FakeVault(kind=request.param) as fake:
        yield fake


@pytest.fixture
def fake() -> Iterator[FakeVault]:
    with FakeVault() as running:
        running.add_secret("/Kerberos/svc", {"username": "svc", "password": PASSWORD, "keytab": KEYTAB})
        yield running


@pytest.fixture
def open_vault(fake: FakeVault, tmp_path: Path, clock: ManualClock) -> Iterator[Callable[..., Vault]]:
    """Opens a client of the double; without retries, unless a test wants them."""
    opened: list[Vault] = []

    def open_one(*, retry: RetryPolicy | None = None, **settings: Any) -> Vault:
        vault = Vault(
            fake.settings(tmp_path / "credentials", **settings), clock=clock, retry=retry or RetryPolicy(attempts=1)
        )
        opened.append(vault)
        return vault

    yield open_one
    for vault in opened:
        vault.close()


@pytest.fixture
def vault(open_vault: Callable[..., Vault]) -> Vault:
    return open_vault()


class StubTransport:
    """Answers without a network: a login with a token, and everything else as the test says."""

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self._answer = answer
        self.requests: list[Request] = []

    def send(self, request: Request) -> Response:
        self.requests.append(request)
        return self._answer(request)

    def close(self) -> None:
        pass


def response(status: int, body: bytes | object, content_type: str = "application/json", **headers: str) -> Response:
    """Return an answer; a body that is not bytes becomes JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, {"content-type": content_type, **headers}, Secret(content))


def stub_settings(folder: Path, **changes: Any) -> VaultSettings:
    """Return settings for a vault that nobody runs, with a credential in ``folder``."""
    kind = changes.get("kind", "secret-server")
    for name in ("username", "password") if kind == "secret-server" else ("client_id", "client_secret"):
        (folder / name).write_text(f"the-{name}")
    return VaultSettings(**{"kind": kind, "url": "https://vault.example", "credentials": folder, **changes})
