"""One command in a process of its own: how long it took, and how much of that was work."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


class CommandFailed(Exception):
    """A command did not end with 0; holds what it said."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where commands run.

    :ivar root: the tree.
    :ivar registry: ``HOST/PATH``.
    :ivar cache: what a machine remembers between releases.
    """

    root: Path
    registry: str
    cache: Path

    def run(self, arguments: Sequence[str], *, cache: Path | None = None) -> tuple[float, float]:
        """Run ``datakit`` with them; return seconds, and seconds of processor time of it and its children.

        :param cache: another one, as of another machine.
        :raises CommandFailed: it did not end with 0.
        """
        command = [sys.executable, "-m", "datakit", *arguments]
        before, began = _work(), time.perf_counter()
        done = subprocess.run(
            command, cwd=self.root, env=self._environment(cache), capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise CommandFailed(
                f"datakit {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return seconds, _work() - before

    def _environment(self, cache: Path | None) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATAKIT_", "GIT_"))}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody has a command compile itself each time
        return kept | {"DATAKIT_REGISTRY": self.registry, "XDG_CACHE_HOME": str(cache or self.cache)}


@dataclass(slots=True)
class Figures:
    """What one case took, round by round.

    :ivar aim: seconds that its median should stay below; None is no aim.
    """

    name: str
    aim: float | None = None
    seconds: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)

    def add(self, took: tuple[float, float]) -> None:
        """Add a round."""
        self.seconds.append(took[0])
        self.work.append(took[1])

    def cells(self) -> list[str]:
        """Return its row."""
        return [
            self.name,
            f"{median(self.seconds):.2f}",
            f"{min(self.seconds):.2f}",
            f"{max(self.seconds):.2f}",
            f"{median(self.work):.2f}",
            "" if self.aim is None else f"< {self.aim:g}",
        ]


def _work() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
