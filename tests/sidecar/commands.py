"""The command ``datakit-sidecar`` hundreds of times, each in a process that is forked with everything imported.

A command changes its process (limits, signals, environment, libkrb5) and ends it, so it cannot run in the test's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from .stage import ROOT

_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a command; ``code`` is negative if a signal ended it."""

    code: int
    out: str
    err: str


class Commands:
    """Runs commands one after the other, without what Python and its imports cost."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.sidecar.commands"],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, *arguments: str | Path) -> Done:
        """Run a command to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(each) for each in arguments]) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))


def _serve() -> None:
    import datakit_vault
    from datakit_sidecar import cli, configuration, doctor, process, sidecar

    assert all((datakit_vault, configuration, doctor, process, sidecar))  # imported once, for all that are forked
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                import signal

                signal.alarm(_SECONDS)
                cli.main(json.loads(line))
            _, status = os.waitpid(pid, 0)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="backslashreplace"))
        answer = {"code": os.waitstatus_to_exitcode(status), "out": texts[0], "err": texts[1]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
