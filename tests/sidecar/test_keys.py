"""A key that the realm does not take is shown to it once, whatever comes in between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from .stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(timedelta(seconds=4), timedelta(seconds=12), tmp_path) as stage:
        yield stage


def test_a_kdc_that_was_silent_gets_a_wrong_key_once_and_not_from_every_call_that_was_given_up(stage: Stage) -> None:
    account = stage.accounts[0]
    password, kvno, value = stage.new_key(account)
    stage.change_key(account, password, kvno)  # the vault still has the former one
    with ExitStack() as stack:
        with stage.kdc.silent():
            sidecar = stack.enter_context(stage.sidecar())
            time.sleep(7)
        sidecar.wait_until(lambda: "KeyRefused" in str(sidecar.audit()))
        time.sleep(2)

        assert 1 == stage.failed_tries(account)
        stage.vault.rotate(account.secret, account.field, value)
        sidecar.wait_until_ready()
