"""The process that changes the directory's accounts, seen from here."""

from __future__ import annotations

import contextlib
import json
import selectors
import subprocess
import threading
from pathlib import Path
from typing import Any, Final

from datakit_lab.errors import LabError, LabUnavailable
from datakit_lab.processes import last_words, launched

_PYTHON: Final = "/usr/bin/python3"  # Debian's; no other one has Samba's modules
_SCRIPT: Final = Path(__file__).with_name("_samba.py")
_SECONDS: Final = 60


class Administration:
    """Calls ``_samba.py``, which starts with the first call and dies with this process.

    :param directory: the folder of the domain.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory / "administration.log"
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    @property
    def smb_conf(self) -> Path:
        """The configuration of the domain controller."""
        return self._directory / "smb.conf"

    def environment(self) -> dict[str, str]:
        """Return the whole environment of Samba's programs."""
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "SMB_CONF_PATH": str(self.smb_conf),
            "KRB5_CONFIG": str(self._directory / "krb5.conf"),
            "TDB_NO_FSYNC": "1",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }

    def call(self, name: str, *, within: float = _SECONDS, **arguments: Any) -> Any:
        """Call a method of the directory and return its answer.

        :raises LabError: it refuses.
        :raises LabUnavailable: it ended, or does not answer within ``within`` seconds.
        """
        with self._lock:
            line = self._asked(json.dumps([name, arguments]), within)
            if not line:
                self._end()
                raise LabUnavailable(
                    f"the directory gave no answer to {name}: {last_words(self._log)}", fix=f"read its log: {self._log}"
                )
        answer = json.loads(line)
        if "error" in answer:
            raise LabError(f"the directory refuses {name}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _asked(self, question: str, within: float) -> str:
        """Return the line that answers; none if the process ended, or is silent for too long."""
        process = self._started()
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{question}\n")
            process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            return process.stdout.readline() if selector.select(within) else ""

    def _end(self) -> None:
        """Kill the process: what it has answered is committed, and a late answer would be taken for the next one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.communicate()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    launched([_PYTHON, "-I", _SCRIPT, self.smb_conf]),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self.environment(),
                    text=True,
                    start_new_session=True,
                )
        return self._process
