"""How long a datakit's container takes from its start to the source's first answers, and how large its image is.

    .venv/bin/python platform/images/benchmarks/cold_start.py [--rounds 11]

It wants a Docker engine and the images of ``scripts/images ensure``. The laboratory is started on ports of its own; the
tickets come from the real sidecar, in a container. The contenders take turns; the first round is not counted. Seconds
are of the clock, from the command that starts a container that is already made.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from datakit_lab.docker import Engine
from datakit_lab.network import free_port
from datakit_lab.sidecar_container import SidecarContainer
from datakit_lab.state import LabState

ROOT = Path(__file__).resolve().parents[3]
SHARED = "/run/datakit/shared"
PLANNED = "loading about"
"""What the datakit logs when the source has described the table and counted what is to be read."""


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    subprocess.run([ROOT / "scripts/images", "ensure"], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "lab"
        names = ("kdc", "sqlserver", "postgres", "vault", "sidecar")
        ports = [word for name in names for word in (f"--{name}-port", str(free_port()))]
        lab = Path(sys.executable).with_name("datakit-lab")
        subprocess.run([lab, "up", "--state-dir", state, *ports], check=True, capture_output=True)
        try:
            volume = f"datakit-cold-{free_port()}"
            with SidecarContainer(Engine(), LabState(state), image=image("sidecar"), volume=volume):
                measure(state, volume, rounds)
        finally:
            subprocess.run([lab, "down", "--state-dir", state], check=True, capture_output=True)


def measure(state: Path, volume: str, rounds: int) -> None:
    """Let the contenders take turns, and print the medians."""
    bronze = image("datakit/sqlserver-bronze")
    nothing = ["--entrypoint", "python3", bronze, "-IS", "-c", "pass"]
    version = [bronze, "--version"]
    found: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        run = request(state, f"cold-start/{number}")
        seconds = {
            "an empty Python, ended": started(nothing)[0],
            "`datakit --version`, ended": started(version)[0],
        }
        whole, planned = started([*options(volume, run), bronze, "run"], mark=PLANNED)
        seconds |= {"`datakit run`, the source's first answers": planned, "`datakit run`, 16 rows committed": whole}
        if number:
            for name, value in seconds.items():
                found.setdefault(name, []).append(value)
    say(f"| from the start, median of {rounds} | seconds |\n|---|---|")
    for name, values in found.items():
        say(f"| {name} | {statistics.median(values):.2f} |")


def request(state: Path, run_id: str) -> dict[str, Any]:
    """Return a request to load the smallest table of the laboratory, whose configuration travels with it."""
    services = json.loads((state / "lab.json").read_text())["services"]
    local = yaml.safe_load((ROOT / "warehouses/environments/local.yaml").read_text())
    local["sources"]["airline"]["port"] = services["sqlserver"]["port"]
    local["warehouses"]["finance-db"]["port"] = services["postgres"]["port"]
    taken = {key: local[key] for key in ("name", "runtime", "sources", "warehouses")}
    finance = yaml.safe_load((ROOT / "warehouses/finance/warehouse.yaml").read_text())
    return {
        "protocol": "1.0",
        "run_id": run_id,
        "dataset": "airline.airlines",
        "warehouse": "finance",
        "environment": "local",
        "full": True,
        "configuration": {"warehouse": finance, "environment": taken},
    }


def options(volume: str, run: dict[str, Any]) -> list[str]:
    """Return what ``docker create`` is told of a run, as the Docker runtime has it."""
    variables = {
        "DATAKIT_RUN": json.dumps(run),
        "DATAKIT_LOG": "json",
        "DATAKIT_SECRETS": f"{SHARED}/secrets",
        "KRB5CCNAME": f"FILE:{SHARED}/tickets/svc-datakit",
        "KRB5_CONFIG": f"{SHARED}/tickets/krb5.conf",
    }
    hardened = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--init", "--tmpfs", "/tmp"]  # noqa: S108  # in the container
    mounts = ["--network", "host", "-v", "/airflow/xcom", "-v", f"{volume}:{SHARED}:ro"]
    return [*hardened, *mounts, *(word for name, text in variables.items() for word in ("-e", f"{name}={text}"))]


def started(arguments: Sequence[str], mark: str | None = None) -> tuple[float, float]:
    """Run a container; return the seconds to its end, and to the line of its log that holds ``mark``.

    :raises RuntimeError: it fails, or logs no such line.
    """
    container = docker("create", *arguments)
    try:
        began = time.time()
        docker("start", container)
        code = docker("wait", container)
        ended = time.time()
        log = subprocess.run(["docker", "logs", "-t", container], check=True, capture_output=True, text=True)
        lines = [line for line in log.stderr.splitlines() if mark and mark in line]
        if code != "0" or (mark and not lines):
            raise RuntimeError(f"the container ended with {code}\n{log.stdout}{log.stderr}")
        seen = datetime.fromisoformat(lines[0].split()[0][:26] + "+00:00").timestamp() if lines else ended
        return ended - began, seen - began
    finally:
        docker("rm", "-fv", container)


def docker(*arguments: str) -> str:
    """Return what the Docker client prints."""
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def image(name: str) -> str:
    """Return what an image of ``scripts/images`` is called."""
    return subprocess.check_output([ROOT / "scripts/images", "names", name], text=True).strip()


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
