"""Images and volumes for the tests of containers, on the Docker engine of this machine."""

from __future__ import annotations

import io
import os
import secrets
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker

SIDECAR_IMAGE = "registry.corp.example/data/platform/sidecar:v0.1.0"
IMAGE = "registry.corp.example/data/datakits/sqlserver-bronze:v0.1.0"
"""What the tests' environment calls the datakit; it is never pulled, because it is built here."""
PASSWORD = f"canary-{secrets.token_hex(8)}"
"""The vault's credential, which is to be found nowhere."""

_DOCKERFILE = """\
FROM {base}
RUN mkdir -p /airflow/xcom && chown 10002 /airflow/xcom
COPY fake.py /fake.py
USER 10002:10000
ENTRYPOINT ["python3", "-IS", "/fake.py"]
"""
_FAKE = """\
import json, os, pathlib, signal, subprocess, sys, time

run = json.loads(os.environ["DATAKIT_RUN"])


def say(message, level="info"):
    entry = {"time": "2026-01-01", "level": level, "logger": "fake", "message": message}
    print(json.dumps(entry), file=sys.stderr, flush=True)


def report(status="loaded", **more):
    path = pathlib.Path(os.environ["DATAKIT_REPORT"])
    path.write_text(json.dumps({"protocol": "1.0", "status": status, "run_id": run["run_id"], **more}))


exec(os.environ["BODY"])
"""


_SIDECAR_DOCKERFILE = """\
FROM {base}
COPY datakit-sidecar /usr/local/bin/
USER 10001:10000
ENTRYPOINT ["datakit-sidecar"]
CMD ["run"]
"""
_SIDECAR = """\
#!/bin/sh
# what the real one does, as a pod sees it: reads its configuration and bootstrap, publishes, answers, ends
case $1 in
healthcheck) test -e /run/datakit/shared/tickets/svc-datakit ;;
run)
  trap 'exit 0' TERM
  cat /etc/datakit/sidecar.yaml && cat /run/datakit/bootstrap/password >/dev/null || exit 1
  grep -q 'ready: never' /etc/datakit/sidecar.yaml && { echo 'the vault is away' >&2; while :; do sleep 0.2; done; }
  umask 0027
  mkdir -p /run/datakit/shared/tickets /run/datakit/shared/secrets/finance-db
  echo -n 'a password' >/run/datakit/shared/secrets/finance-db/password
  echo -n 'a ticket' >/run/datakit/shared/tickets/svc-datakit
  while :; do sleep 0.2; done
  ;;
esac
"""


def build_fake(base: str, tag: str, folder: Path) -> str:
    """Build an image whose datakit does what the variable BODY says; return its id."""
    return _build(tag, folder, {"Dockerfile": _DOCKERFILE.format(base=base), "fake.py": _FAKE})


def build_fake_sidecar(base: str, tag: str, folder: Path) -> str:
    """Build an image that does for a pod what the sidecar does, without a vault; return its id."""
    return _build(tag, folder, {"Dockerfile": _SIDECAR_DOCKERFILE.format(base=base), "datakit-sidecar": _SIDECAR})


def _build(tag: str, folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    subprocess.run(
        ["docker", "build", "-q", "-t", tag, str(folder)],
        check=True,
        capture_output=True,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},  # works with every client, also one without buildx
    )
    return str(docker.from_env().images.get(tag).id)


class Credentials:
    """A volume in memory, as the sidecar makes it, and the container that keeps it alive."""

    def __init__(self, name: str, holder: Any) -> None:
        self.name = name
        self._holder = holder

    def put(self, path: str, content: bytes) -> None:
        """Publish one file, readable by the datakit's group alone."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            folder, _, _ = path.rpartition("/")
            parts = folder.split("/")
            for count in range(1, len(parts) + 1):
                entry = tarfile.TarInfo("/".join(parts[:count]))
                entry.type, entry.mode, entry.gid = tarfile.DIRTYPE, 0o750, 10000
                tar.addfile(entry)
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.gid = len(content), 0o640, 10000
            tar.addfile(entry, io.BytesIO(content))
        self._holder.exec_run(["mkdir", "-p", "/run/datakit/shared"])
        assert self._holder.put_archive("/run/datakit/shared", buffer.getvalue())


@contextmanager
def credentials_volume(base: str, name: str) -> Iterator[Credentials]:
    """Within, there is a volume of that name in memory; afterwards it is gone."""
    client = docker.from_env()
    client.volumes.create(
        name, driver="local", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=0750,gid=10000"}
    )
    holder = client.containers.run(
        base, ["sleep", "infinity"], detach=True, volumes={name: {"bind": "/run/datakit/shared", "mode": "rw"}}
    )
    try:
        yield Credentials(name, holder)
    finally:
        holder.remove(force=True)
        client.volumes.get(name).remove(force=True)


def left_containers() -> list[Any]:
    """Return the containers of these tests' tasks; an Airflow beside them may have some of its own."""
    mine = {"label": ["datakit.worker", "datakit.dag=example"]}
    return docker.from_env().containers.list(all=True, filters=mine)


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
