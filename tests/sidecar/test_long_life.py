"""What happens to a sidecar once in weeks: it is killed, or its own credential changes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from datakit_sidecar import audit

from .soak.watch import Readers
from .stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(timedelta(seconds=20), timedelta(hours=1), tmp_path) as stage:
        yield stage


def test_readers_notice_nothing_of_a_sidecar_that_is_killed_and_started_again(stage: Stage) -> None:
    with stage.sidecar() as sidecar:
        sidecar.wait_until_ready()
        readers = Readers(stage, count=1)
        readers.start()
        try:
            for _ in range(3):
                time.sleep(0.5)
                sidecar.kill()
                sidecar.start()
                sidecar.wait_until_ready()
            time.sleep(1.5)
            found = readers.found()
            assert readers.running
        finally:
            readers.stop()
    assert [] == found.failures
    assert [] == found.unserved
    assert found.opened > 0
    starts = [line for line in stage.audit_file.read_text().splitlines() if '"event":"start"' in line]
    assert 4 == len(starts)
    assert () == audit.verify(stage.audit_file).problems


def test_the_sidecars_own_credential_may_change_and_its_account_is_not_locked(stage: Stage) -> None:
    stage.vault.lock_after = 3
    with stage.sidecar() as sidecar:
        sidecar.wait_until_ready()
        stage.vault.change_password()
        stage.vault.expire_tokens()
        stage.rotate_secret(2)
        sidecar.wait_until(lambda: "LoginRefused" in sidecar.page("/metrics").text)
        for _ in range(3):
            sidecar.signal(signal.SIGHUP)
            time.sleep(1.2)
        assert sidecar.is_ready()
        assert stage.vault.wrong_logins < 3

        stage.vault.credentials_folder(stage.folder / "bootstrap")

        sidecar.wait_until(lambda: stage.secret_file.read_text() == stage.database_password)
