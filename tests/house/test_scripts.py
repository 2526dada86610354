"""The scripts, on machines that this one is not: their commands are exchanged for ones that only write down calls."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
TOOLS = ("awk", "bash", "cat", "chmod", "dirname", "env", "head", "ln", "mkdir", "sed", "sha256sum", "true")


class Machine:
    """A copy of what ``scripts/setup`` reads, and a PATH with nothing on it but basic tools and recorded fakes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools = folder / "bin"
        self.calls_file = folder / "calls"
        self.tools.mkdir()
        for name in ("scripts", "locks"):
            shutil.copytree(ROOT / name, folder / name)
        for member in ("datakits/sdk", "lab", "platform/airflow", "platform/sidecar", "platform/vault"):
            (folder / member).mkdir(parents=True)
            shutil.copy(ROOT / member / "pyproject.toml", folder / member)
        for tool in TOOLS:
            (self.tools / tool).symlink_to(shutil.which(tool) or f"/bin/{tool}")
        self.fake("python3", "shift; case $* in *import\\ sys*print*) echo 3.11;; esac")
        self.fake("ldconfig", "echo libltdl.so.7")
        wanted = ("krb5kdc", "kadmin.local", "klist", "tsql", "docker-registry", "htpasswd", "faketime", "node", "npm")
        for name in (*wanted, "gcc", "krb5-config"):
            self.fake(name)
        venv = 'for venv; do :; done; mkdir -p "$venv/bin" && ln -sf "$(dirname "$0")/python3" "$venv/bin/python"'
        self.fake("uv", f'if [ "$1" = venv ]; then {venv}; fi')
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o777)

    def fake(self, name: str, body: str = ":") -> None:
        """Put a command on PATH that writes down how it was called, then runs ``body``."""
        path = self.tools / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls_file}\n{body}\n')
        path.chmod(0o755)

    def without(self, *names: str) -> None:
        """Take commands off PATH."""
        for name in names:
            (self.tools / name).unlink()

    def setup(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``scripts/setup`` as somebody who is not root."""
        command = [str(self.folder / "scripts/setup"), *arguments]
        if os.geteuid() == 0:
            command = ["/usr/bin/setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
        environment = {"PATH": str(self.tools), "HOME": str(self.folder)}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def calls(self, name: str) -> list[str]:
        """Return how a fake command was called, in order."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [line.partition(" ")[2] for line in lines if line.partition(" ")[0] == name]


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine that lacks nothing. Not below pytest's own folder, which only its owner may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Machine(Path(folder))


def test_setup_makes_a_venv_of_exactly_the_pins(machine: Machine) -> None:
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    venv, sync, ours = machine.calls("uv")
    assert venv == "venv -q --python 3.11 .venv"
    assert "--require-hashes" in sync
    assert sync.endswith("locks/requirements.txt")
    assert "--no-deps" in ours
    assert ours.endswith("-e datakits/sdk -e lab -e platform/sidecar -e platform/vault")


def test_a_second_setup_does_nothing(machine: Machine) -> None:
    machine.setup()
    before = machine.calls("uv")
    done = machine.setup()
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.calls("uv") == before


def test_setup_ends_with_the_line_that_finds_the_commands(machine: Machine) -> None:
    said = machine.setup("--tests").stderr
    assert said.splitlines()[-1] == f'    export PATH="{machine.folder}/.venv/bin:$PATH"'


def test_airflow_gets_a_venv_of_its_own_and_only_when_it_is_asked_for(machine: Machine) -> None:
    machine.setup()
    before = machine.calls("uv")
    assert machine.setup("--airflow").returncode == 0
    venv, sync, ours = machine.calls("uv")[len(before) :]
    assert venv == "venv -q --python 3.11 .venv-airflow"
    assert sync.endswith("--python .venv-airflow/bin/python --require-hashes --compile-bytecode locks/airflow.txt")
    assert ours.endswith("-e datakits/sdk -e platform/airflow -e platform/vault")
    assert machine.setup("--airflow").returncode == 0
    assert len(machine.calls("uv")) == len(before) + 3


def test_setup_installs_again_when_a_pin_changes_and_keeps_the_venv(machine: Machine) -> None:
    machine.setup()
    before = len(machine.calls("uv"))
    with (machine.folder / "locks/requirements.txt").open("a") as pins:
        pins.write("# another pin\n")
    machine.setup()
    assert [call.split()[0] for call in machine.calls("uv")[before:]] == ["pip", "pip"]


def test_a_setup_that_failed_is_not_taken_for_done(machine: Machine) -> None:
    machine.fake("uv", "exit 2")
    assert machine.setup().returncode == 2
    tries = len(machine.calls("uv"))
    assert machine.setup().returncode == 2
    assert len(machine.calls("uv")) > tries


def test_without_root_setup_prints_the_commands_and_changes_nothing(machine: Machine) -> None:
    machine.without("tsql", "gcc")
    machine.fake("apt-get")
    machine.fake("sudo", "exit 1")
    done = machine.setup("--tests")
    assert done.returncode == 78
    assert "    sudo apt-get update\n" in done.stderr
    assert "    sudo apt-get install -y -q --no-install-recommends freetds-bin gcc\n" in done.stderr
    assert machine.calls("apt-get") == []
    assert machine.calls("uv") == []


def test_with_sudo_setup_installs_what_is_missing_and_goes_on(machine: Machine) -> None:
    machine.without("gcc")
    machine.fake("apt-get")
    machine.fake("sudo", 'shift; exec "$@"')
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert machine.calls("apt-get") == ["update -q", "install -y -q --no-install-recommends gcc"]
    assert "env DEBIAN_FRONTEND=noninteractive apt-get" in machine.calls("sudo")[-1]
    assert machine.calls("uv")


def test_a_machine_that_is_not_debian_is_told_what_to_bring(machine: Machine) -> None:
    machine.without("gcc")
    done = machine.setup()
    assert done.returncode == 78
    assert "not Debian or Ubuntu" in done.stderr
    assert done.stderr.rstrip().endswith(": gcc")


def test_the_clients_of_the_tests_are_not_asked_of_who_only_runs_the_demo(machine: Machine) -> None:
    machine.without("tsql", "node", "npm")
    assert machine.setup().returncode == 0


def test_setup_takes_the_microsoft_drivers_library_seriously(machine: Machine) -> None:
    machine.fake("ldconfig", "echo libc.so.6")
    done = machine.setup()
    assert done.returncode == 78
    assert "libltdl7" in done.stderr


def test_every_target_of_the_makefile_is_in_its_help_and_runs_one_script() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)*)", makefile, re.MULTILINE)
    shown = subprocess.run(["make", "-s"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert {name for name, _ in targets} >= {"help", "demo", "test", "lint", "bench"}
    for name, recipe in targets:
        assert f"make {name} " in shown
        lines = recipe.splitlines()
        assert len(lines) == 1, name
        if name != "help":
            script = ROOT / lines[0].strip().lstrip("@").split()[0]
            assert os.access(script, os.X_OK), script


SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_what_it_is_for_and_stops_at_the_first_error(script: str) -> None:
    lines = (ROOT / "scripts" / script).read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# ")
    assert "set -euo pipefail" in lines
    subprocess.run(["bash", "-n", ROOT / "scripts" / script], check=True)
