"""The benchmark of the sidecar runs; contenders that are not installed are left out and named."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import ROOT
from benchmarks.sidecar import installed
from benchmarks.sidecar.contenders import CONTENDERS


@pytest.mark.slow
def test_everybody_who_is_installed_gets_a_ticket_and_renews_it() -> None:
    command = [sys.executable, "-m", "benchmarks.sidecar", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    for contender in CONTENDERS:
        said = done.stderr if contender.missing() else done.stdout
        assert contender.name.partition(" ")[0] in said


def test_what_a_distribution_needs_counts_too() -> None:
    assert installed.distributions("datakit-sidecar") > installed.distributions("krb5") > 0


def test_a_debian_package_that_is_not_there_takes_nothing() -> None:
    assert installed.debian_package("no-such-package") == 0
