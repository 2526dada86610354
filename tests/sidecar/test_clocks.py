"""A KDC whose clock is another: Debian's ``faketime`` runs it under one."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from .stage import Stage

HOUR = timedelta(hours=1)


@pytest.fixture
def stage_with_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stage]]:
    """Sets a stage whose KDC's clock differs by so much; until its next start, when it is right again."""
    programs = tmp_path / "programs"
    programs.mkdir()
    real = next(
        Path(folder, "krb5kdc") for folder in ("/usr/sbin", "/usr/local/sbin") if Path(folder, "krb5kdc").exists()
    )
    # not run by faketime, whose child it would be, and outlive
    shown = subprocess.run(
        ["faketime", "-f", "+0s", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
    )
    library = shlex.quote(shown.stdout.strip())  # it holds $LIB, for the loader
    wrapper = programs / "krb5kdc"
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with ExitStack() as stack:

        def make(difference: timedelta, life: timedelta, clock_skew: timedelta = timedelta(minutes=5)) -> Stage:
            seconds = f"{difference.total_seconds():+.0f}s"
            wrapper.write_text(f'#!/bin/sh\nexec env LD_PRELOAD={library} FAKETIME={seconds} {real} "$@"\n')
            wrapper.chmod(0o755)
            stage = stack.enter_context(Stage(life, timedelta(days=1), tmp_path, clock_skew=clock_skew))
            wrapper.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
            return stage

        yield make


@pytest.mark.parametrize("difference", [timedelta(minutes=10), timedelta(minutes=-10)])
def test_clocks_that_differ_too_much_are_named_and_tickets_come_when_they_are_set(
    stage_with_clock: Callable[..., Stage], difference: timedelta
) -> None:
    stage = stage_with_clock(difference, HOUR)
    sidecar = stage.sidecar()
    with sidecar:
        sidecar.wait_until(lambda: sidecar.log().count("issue failed") >= 2)
        assert "this machine's clock and the KDC's differ" in sidecar.state()["reasons"][0]
        stage.kdc.stop()
        stage.kdc.start()
        sidecar.wait_until_ready()
    assert [0, 0] == [stage.failed_tries(account) for account in stage.accounts]


@pytest.mark.slow
@pytest.mark.parametrize("difference", [timedelta(seconds=4), timedelta(seconds=-4)])
def test_tickets_are_renewed_in_time_although_clocks_differ_a_little(
    stage_with_clock: Callable[..., Stage], difference: timedelta
) -> None:
    stage = stage_with_clock(difference, timedelta(seconds=10))
    sidecar = stage.sidecar()
    with sidecar:
        sidecar.wait_until_ready()
        unready = 0
        until = time.monotonic() + 30
        while time.monotonic() < until:
            unready += not sidecar.is_ready()
            time.sleep(0.05)
        renewals = [value for name, value in sidecar.metrics().items() if "tickets_renewed_total" in name]
    assert 0 == unready
    assert min(renewals) >= 3
