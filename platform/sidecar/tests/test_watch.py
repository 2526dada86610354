"""When the vault is looked at, with a clock that the test moves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datakit_sidecar import configuration
from datakit_sidecar.audit import AuditLog
from datakit_sidecar.publish import Publisher
from datakit_sidecar.status import Board
from datakit_sidecar.watch import Watch
from datakit_vault import RetryPolicy, Vault
from datakit_vault.testing import FakeVault

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A watch of one secret, looked at every hour."""

    def __init__(self, fake: FakeVault, vault: Vault, folder: Path, volume: Path) -> None:
        self.fake, self.clock = fake, Clock()
        text = f"""\
vault: {{kind: secret-server, url: "{fake.url}", credentials: {folder}/bootstrap, allow_http: true, every: 1h}}
secrets: [{{secret: /Databases/finance-db, as: finance-db}}]
publish: {{tickets: {volume}/tickets, secrets: {volume}/secrets}}
audit: {{stdout: false}}
"""
        settings = configuration.parse(text)
        self.board = Board(settings, self.clock)
        publisher = Publisher(settings.publish)
        publisher.prepare(settings.publish.secrets)
        self.file = volume / "secrets/finance-db/password"
        self.watch = Watch(
            settings,
            vault,
            agents=(),
            enctypes=None,
            publisher=publisher,
            audit=AuditLog(settings.audit),
            board=self.board,
            now=self.clock,
        )

    def looks(self) -> int:
        return sum("/api/v2/secrets" in request.path for request in self.fake.requests)

    def move(self, seconds: float) -> None:
        """Move the clock, and let the watch see it."""
        self.clock.now += seconds
        with self.watch._changed:
            self.watch._changed.notify()


def until(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(1000):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("it did not happen within 10 s")


@pytest.fixture
def watched(tmp_path: Path, volume: Path) -> Iterator[Watched]:
    with FakeVault() as fake:
        fake.add_secret("/Databases/finance-db", {"password": "first"})
        fake.credentials_folder(tmp_path / "bootstrap")
        settings = fake.settings(tmp_path / "bootstrap")
        with Vault(settings, retry=RetryPolicy(attempts=1)) as vault:
            made = Watched(fake, vault, tmp_path, volume)
            made.watch.start()
            until(made.file.exists)
            until(lambda: made.board.secrets["finance-db"].checked_at is not None)
            yield made
            made.watch.stop()


def reads(watched: Watched) -> int:
    return sum("/fields/" in request.path for request in watched.fake.requests)


def test_it_looks_on_schedule_and_reads_only_what_changed(watched: Watched) -> None:
    before = watched.looks()

    watched.move(HOUR)
    until(lambda: watched.looks() == before + 1)

    assert reads(watched) == 1
    watched.fake.rotate("/Databases/finance-db", "password", "second")
    watched.move(HOUR)
    until(lambda: watched.file.read_text() == "second")
    assert reads(watched) == 2


def test_between_two_looks_it_asks_nothing(watched: Watched) -> None:
    before = watched.looks()

    watched.move(HOUR / 2)
    threading.Event().wait(0.3)

    assert watched.looks() == before


def test_a_clock_that_is_set_back_does_not_stop_it(watched: Watched) -> None:
    watched.move(-1000 * HOUR)
    threading.Event().wait(0.1)
    before = watched.looks()

    watched.move(HOUR)

    until(lambda: watched.looks() == before + 1)


def test_a_request_reads_the_value_whatever_the_vault_says_of_changes(watched: Watched) -> None:
    watched.watch.look_now()

    until(lambda: reads(watched) == 2)


def test_a_failure_is_retried_at_once_and_then_after_pauses(watched: Watched) -> None:
    watched.fake.fault("unavailable", times=2, matching="/api/v2")
    before = watched.looks()

    watched.move(HOUR)
    until(lambda: watched.looks() == before + 2)
    threading.Event().wait(0.2)
    assert watched.looks() == before + 2
    error: Any = watched.board.secrets["finance-db"].error
    assert error is not None
    watched.move(2)

    until(lambda: watched.board.secrets["finance-db"].error is None)


def test_a_file_that_is_gone_is_published_again(watched: Watched) -> None:
    watched.file.unlink()

    watched.move(HOUR)

    until(watched.file.exists)
