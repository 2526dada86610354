"""Run the benchmark of the registry flow: ``python -m benchmarks.release``, or ``scripts/bench release``.

Each round is a fresh process of the ``datakit`` command, interpreter and imports included.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from datakit import __version__
from datakit.release.registry import open_registry
from datakit.testing.images import push_base_image
from rich.console import Console

from benchmarks import machine, results
from benchmarks.release.measure import Figures, Stage
from benchmarks.release.trees import Size, change, registry, release_tree, status_tree

MARKS: Final = ("<!-- release -->", "<!-- /release -->")
_PAGE: Final = Path(__file__).parents[1] / "README.md"
_HEADINGS: Final = ("command", "seconds", "fastest", "slowest", "of it CPU", "aim")
_BASE: Final = f"platform/datakit-base:v{__version__}"
_SMALL: Final = Size(datakits=5, environments=2, warehouses=2)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="scripts/bench release", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of each command (9)")
    parser.add_argument("--quick", action="store_true", help="one round, few pins, a small base; changes nothing")
    chosen = parser.parse_args()
    rounds, size = (1, _SMALL) if chosen.quick else (chosen.rounds, Size())
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="datakit-bench-") as scratch, registry(Path(scratch) / "registry") as host:
        folder = Path(scratch)
        console.print(f"pinning {size}")
        status_tree(folder / "status", host, size)
        base = _push_base(host, small=chosen.quick)
        release_tree(folder / "release")
        figures = [
            *_status(Stage(folder / "status", host, folder / "cache"), size, rounds),
            *_release(Stage(folder / "release", host, folder / "cache"), base, rounds),
        ]
    rows = [each.cells() for each in figures]
    results.show_rows(_HEADINGS, rows, Console(width=None if sys.stdout.isatty() else 160))
    if not chosen.quick:
        results.write(_PAGE, results.rows_as_markdown(_HEADINGS, rows, _facts(rounds)), MARKS)
        console.print(f"written to {_PAGE}")
    return 0


def _status(stage: Stage, size: Size, rounds: int) -> list[Figures]:
    asked = Figures(f"status: {size}", aim=1)
    offline = Figures("the same with --offline")
    for number in range(rounds + 1):  # the first one warms up caches and does not count
        for figures, arguments in ((asked, ["status"]), (offline, ["status", "--offline"])):
            took = stage.run(arguments)
            if number:
                figures.add(took)
    return [asked, offline]


def _release(stage: Stage, base: str, rounds: int) -> list[Figures]:
    build = Figures(f"build, on {base}")
    warm = Figures("release of a changed datakit", aim=5)
    cold = Figures("the same on a machine that never released on this base")
    again = Figures("release of what was released already")
    stage.run(["release", "airline-source"])
    for number in range(1, rounds + 1):
        change(stage.root, 2 * number - 1)
        build.add(stage.run(["build", "airline-source"]))
        warm.add(stage.run(["release", "airline-source"]))
        again.add(stage.run(["release", "airline-source"]))
        change(stage.root, 2 * number)
        cold.add(stage.run(["release", "airline-source"], cache=stage.cache.with_name(f"cache-{number}")))
    return [build, warm, cold, again]


def _push_base(host: str, *, small: bool) -> str:
    """Push a base into the registry; return what it is: the real one, where an engine of this machine has it."""
    local, there = f"datakit.local/{_BASE}", f"{host}/{_BASE}"
    if not small and _docker("image", "inspect", local):
        try:
            if not (_docker("tag", local, there) and _docker("push", there)):
                raise RuntimeError(f"the Docker engine does not push {there}")
        finally:
            _docker("image", "rm", there)
        return "the real base"
    with open_registry(host) as opened:
        push_base_image(opened)
    return "a base of one small layer"


def _docker(*arguments: str) -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", *arguments], capture_output=True, check=False).returncode == 0


def _facts(rounds: int) -> list[str]:
    return [
        f"Run on {machine.now()} by `scripts/bench release`; medians of {rounds} rounds.",
        f"Machine: {machine.described()}; the registry shares it.",
        f"Python {platform.python_version()}, datakit {__version__}, docker-registry {_registry_version()}.",
    ]


def _registry_version() -> str:
    command = ["dpkg-query", "-W", "-f", "${Version}", "docker-registry"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    sys.exit(main())
