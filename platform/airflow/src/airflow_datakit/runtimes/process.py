"""A datakit as a child process of the task: its own Python environment, the same protocol, nothing of Airflow's."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from datakit.errors import ConfigurationError
from datakit.model.environment import memory_bytes
from datakit.model.specification import RunSpec

from airflow_datakit._outcome import LARGEST_REPORT, OF_THE_PROTOCOL, Report, fail, parse_report
from airflow_datakit._task import DatakitTask
from airflow_datakit.runtimes import _launch
from airflow_datakit.runtimes._lines import Lines, undisturbed

if TYPE_CHECKING:
    from airflow.sdk import Context

_POLL_SECONDS: Final = 0.5
_CHUNK: Final = 1 << 16
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class DatakitProcessOperator(DatakitTask):
    """Runs a datakit as a process of this machine."""

    hands_over = False

    _process: subprocess.Popen[bytes] | None = None
    _kill_at: float | None = None
    _output = Lines()

    @classmethod
    def rendered(cls, spec: RunSpec) -> dict[str, Any]:  # noqa: ARG003  # BaseOperator needs nothing of it
        """Return nothing: a bare operator has no arguments of its own."""
        return {}

    def execute(self, context: Context) -> Report:
        """Run the datakit, its log in the task's log as it comes, and return its report.

        :raises AirflowException: or one of its subclasses, as the run protocol's exit codes say.
        """
        self.told_to_end, self._process, self._kill_at, self._output = False, None, None, Lines()
        with tempfile.TemporaryDirectory(prefix="datakit-") as folder:
            report = Path(folder) / "report.json"
            try:
                command = self._command()
                environment = self._environment(context, Path(folder), report)
            except ConfigurationError as error:
                fail(error)
            self.log.info("%s, as %s", self.title, " ".join(command))
            exit_code = self._run(command, environment, folder)
            parsed, problem = parse_report(_read(report))
            return self.finish(context, exit_code, parsed, problem, hint=self._hint(exit_code))

    def on_kill(self) -> None:
        """Tell the datakit to end; :meth:`execute`, which goes on reading its log, kills it when its grace is over.

        Airflow calls this in a signal handler, above whatever ``execute`` was doing: to wait here would leave nobody to
        read the log, and a datakit that nobody reads cannot end.
        """
        super().on_kill()
        self._terminate()

    def _terminate(self) -> None:
        if self._kill_at is None and self._signal(signal.SIGTERM):
            self._kill_at = time.monotonic() + self.spec.environment.defaults.grace.total_seconds()

    def _command(self) -> list[str]:
        names = {"datakit": self.spec.datakit, "version": self.spec.version}
        words = [_placed(word, names) for word in self.spec.environment.process.command]
        program = self.spec.home / words[0]  # an absolute path stays what it is
        if not os.access(program, os.X_OK) or program.is_dir():
            raise ConfigurationError(
                f"there is no program to run {self.spec.datakit} {self.spec.version} with",
                subject=str(program),
                cause="the datakit's Python environment was not made on this worker, or is elsewhere",
                fix="install the datakit there, or set process.command in the environment",
            )
        return [str(program), *words[1:], "run"]

    def _environment(self, context: Context, folder: Path, report: Path) -> dict[str, str]:
        """Return the whole environment: of this process's own, which may hold secrets of Airflow, nothing is in it."""
        place = self.spec.environment.process
        environment = {
            "PATH": _PATH,
            "HOME": str(folder),  # libraries look for credentials in a home
            "TMPDIR": str(folder),
            "LANG": "C.UTF-8",
            "DATAKIT_HOME": str(self.spec.home),
            **self.variables_for(
                context,
                report=str(report),
                tickets=str(self.spec.home / place.tickets),
                secrets=str(self.spec.home / place.secrets),
                krb5_conf=place.krb5_conf and str(self.spec.home / place.krb5_conf),
            ),
        }
        if folders := os.environ.get("DATAKIT_ENVIRONMENTS"):
            environment["DATAKIT_ENVIRONMENTS"] = folders
        return environment

    def _run(self, command: list[str], environment: dict[str, str], folder: str) -> int:
        limit = memory_bytes(self.spec.resources.memory)
        launch = [sys.executable, "-I", "-S", str(Path(_launch.__file__)), str(os.getpid()), str(limit)]
        self.refuse_to_begin()
        with subprocess.Popen(
            [*launch, *command],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, so that a signal reaches what it starts, too
        ) as self._process:
            try:
                self._follow(self._process)
            except BaseException:  # a timeout of Airflow's, for example, which is raised out of a signal handler
                self._end()
                raise
            finally:
                self._signal(signal.SIGKILL)  # whoever of its group is left
            exit_code = self._process.wait()
        return exit_code if exit_code >= 0 else 128 - exit_code

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Log its lines until the datakit has ended; kill it when its grace is over or its worker gone."""
        assert process.stdout is not None  # noqa: S101  # as Popen was told
        supervisor = os.getppid()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                ended = process.poll() is not None
                # Airflow's supervisor is this process's parent; without it, nobody would hear of the result
                if self.told_to_end or os.getppid() != supervisor:
                    self._terminate()
                if self._kill_at is not None and time.monotonic() > self._kill_at:
                    self._signal(signal.SIGKILL)
                if selector.select(0 if ended else _POLL_SECONDS):
                    with undisturbed():
                        if piece := os.read(process.stdout.fileno(), _CHUNK):
                            self._output.feed(piece)
                            self.log_lines(self._output)
                        else:  # it writes elsewhere from here on, or has ended
                            selector.unregister(process.stdout)
                elif ended:  # a grandchild may hold the pipe open
                    break
        self._output.finish()
        self.log_lines(self._output)

    def _end(self) -> None:
        """End the datakit within its grace, and go on reading its log meanwhile."""
        if self._process is None or self._process.poll() is not None:
            return
        self._terminate()
        self._follow(self._process)

    def _signal(self, number: signal.Signals) -> bool:
        """Send a signal to the datakit's group; False if it is gone."""
        if self._process is None:
            return False
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
            return True
        return False

    def _hint(self, exit_code: int) -> str | None:
        if exit_code in OF_THE_PROTOCOL:
            return None
        return (
            f"it may have wanted more than {self.spec.resources.memory} of memory; "
            "a larger class is one argument: resource_class"
        )


def _placed(word: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def _read(report: Path) -> bytes | None:
    try:
        with report.open("rb") as file:
            return file.read(LARGEST_REPORT + 1)
    except OSError:
        return None
