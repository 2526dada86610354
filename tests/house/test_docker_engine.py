"""``scripts/docker-engine``, with a Docker that only pretends: which engine it starts, which it ends, what it says."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
DAEMON = """
while [ $# -gt 0 ]; do if [ "$1" = --pidfile ]; then echo $$ >"$2"; fi; shift; done
{body}
touch {folder}/up
trap 'rm -f {folder}/up; exit 0' TERM
while :; do sleep 0.05; done
"""

pytestmark = [
    pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="here the engine is systemd's"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may start an engine"),
]


class Engine:
    """A folder with a docker and a dockerd of its own; the engine is up while the file ``up`` is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = folder / "runtime"
        self.script = ROOT / "scripts/docker-engine"
        (folder / "bin").mkdir()
        self.fake("docker", f'[ -e {folder}/up ] && echo 20.10 || {{ echo "cannot connect" >&2; exit 1; }}')
        self.fake("pgrep", "exit 1")
        self.fake("apt-get")
        self.daemon()

    def fake(self, name: str, body: str = ":") -> None:
        path = self.folder / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.folder}/calls\n{body}\n')
        path.chmod(0o755)

    def daemon(self, body: str = ":") -> None:
        self.fake("dockerd", DAEMON.format(body=body, folder=self.folder))

    def run(self, *arguments: str, user: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "DATAKIT_DOCKER_RUNTIME": str(self.runtime),
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
            **variables,
        }
        command = [str(self.script), *arguments]
        return subprocess.run(
            command,
            env=environment,
            user=user,
            group=user,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self, name: str) -> list[str]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if line.split()[0] == name]


@pytest.fixture
def engine() -> Iterator[Engine]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        made = Engine(Path(folder))
        yield made
        made.run("stop")


def test_an_engine_that_answers_is_left_alone(engine: Engine) -> None:
    (engine.folder / "up").touch()
    done = engine.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert engine.calls("dockerd") == []
    (engine.folder / "up").unlink()


def test_an_engine_is_started_found_and_ended(engine: Engine) -> None:
    done = engine.run()
    assert done.returncode == 0, done.stderr
    assert "engine 20.10 answers" in done.stderr
    (call,) = engine.calls("dockerd")
    assert f"--host unix://{engine.folder}/docker.sock --data-root /var/lib/docker" in call
    assert "--bridge" not in call
    pid = int((engine.runtime / "dockerd.pid").read_text())
    assert f"started here (process {pid})" in engine.run("status").stderr
    assert engine.run().stderr == ""
    assert engine.run("stop").stderr == "docker-engine: the engine has ended\n"
    assert not Path(f"/proc/{pid}").exists()
    assert engine.run("status").returncode == 75
    assert len(engine.calls("dockerd")) == 1


def test_two_who_start_it_at_once_start_one(engine: Engine) -> None:
    engine.daemon("sleep 0.5")
    environment = {
        "PATH": f"{engine.folder / 'bin'}:/usr/bin:/bin",
        "DATAKIT_DOCKER_RUNTIME": str(engine.runtime),
        "DOCKER_HOST": f"unix://{engine.folder}/docker.sock",
    }
    both = [subprocess.Popen([engine.script], env=environment) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    assert len(engine.calls("dockerd")) == 1


def test_an_engine_that_does_not_start_says_its_last_words(engine: Engine) -> None:
    engine.daemon("echo 'no space left on device' >&2; exit 1")
    done = engine.run()
    assert done.returncode == 75
    assert "no space left on device" in done.stderr


def test_a_strangers_engine_is_neither_joined_by_another_nor_ended(engine: Engine) -> None:
    engine.fake("pgrep", "echo 4711")
    done = engine.run()
    assert done.returncode == 75
    assert "dockerd runs already (process 4711) and does not answer" in done.stderr
    assert engine.calls("dockerd") == []
    assert "no engine was started here" in engine.run("stop").stderr


def test_who_is_not_root_gets_the_commands_and_nothing_changes(engine: Engine) -> None:
    done = engine.run(user=NOBODY)
    assert done.returncode == 78
    assert "only root can start it" in done.stderr
    (engine.folder / "bin/dockerd").unlink()
    lines = engine.script.read_text().splitlines(keepends=True)
    engine.script = engine.folder / "docker-engine"  # which does not find this machine's own dockerd
    engine.script.write_text("".join(line for line in lines if not line.startswith("export PATH=")))
    engine.script.chmod(0o755)
    done = engine.run(user=NOBODY, PATH=f"{engine.folder / 'bin'}:{tools(engine.folder)}")
    assert done.returncode == 78
    assert "sudo apt-get install --yes --no-install-recommends docker.io" in done.stderr
    assert "sudo usermod --append --groups docker" in done.stderr
    assert not (engine.folder / "calls").exists() or engine.calls("apt-get") == []


def tools(folder: Path) -> Path:
    """Return a folder with the programs that the script calls, and no dockerd."""
    made = folder / "tools"
    made.mkdir()
    for name in ("bash", "cat", "env", "id", "sed", "sleep"):
        (made / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    return made


def test_a_socket_that_this_user_may_not_ask_is_named_and_not_widened(engine: Engine) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        path = engine.folder / "docker.sock"
        listener.bind(str(path))
        path.chmod(0o660)
        done = engine.run(user=NOBODY)
    assert done.returncode == 78
    assert "sudo usermod --append --groups docker nobody" in done.stderr
    assert path.stat().st_mode & 0o777 == 0o660


def test_an_engine_elsewhere_is_not_replaced_by_one_here(engine: Engine) -> None:
    done = engine.run(DOCKER_HOST="tcp://build.corp.example:2376")
    assert done.returncode == 75
    assert "DOCKER_HOST is tcp://build.corp.example:2376, and nobody answers there" in done.stderr
    assert engine.calls("dockerd") == []
