"""A datakit as a container of a Docker engine: hardened, labelled, and never left behind."""

from __future__ import annotations

import io
import os
import signal
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import AirflowException
from airflow.providers.docker.operators.docker import DockerOperator
from datakit.errors import ConfigurationError, DatakitError
from datakit.model.environment import memory_bytes
from datakit.model.specification import RunSpec
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import Mount
from requests.exceptions import RequestException

from airflow_datakit._outcome import LARGEST_REPORT, SIGNALS, Report, fail, parse_report
from airflow_datakit._task import DatakitTask
from airflow_datakit.runtimes import _docker_problems as problems
from airflow_datakit.runtimes._places import REPORT, SECRETS, SHARED, TICKETS

if TYPE_CHECKING:
    from airflow.sdk import Context

_WORKER: Final = "datakit.worker"
_ENGINE_SECONDS: Final = 60
_ENGINE_ERRORS: Final = (DockerException, RequestException)
"""What the client raises: an answer that is an error, and an engine that went away."""


class DatakitDockerOperator(DatakitTask, DockerOperator):
    """Runs a datakit as a container. What the real operator has no argument for is set when the container is made."""

    template_fields = ("request", "image")
    _told_to_end = False

    @classmethod
    def rendered(cls, spec: RunSpec) -> dict[str, Any]:
        """Return the real operator's arguments for a specification."""
        place = spec.environment.docker
        return {
            "image": spec.image,
            "command": ["run"],
            "docker_url": place.url,
            "docker_conn_id": place.connection,
            "network_mode": place.network,
            "mem_limit": memory_bytes(spec.resources.memory),
            "cpus": spec.resources.cpu,
            "mount_tmp_dir": False,
            "auto_remove": "never",
            "timeout": _ENGINE_SECONDS,
        }

    def execute(self, context: Context) -> Report:  # type: ignore[override]  # the same in every runtime
        """Run the container, its log in the task's log as it comes, and return its report.

        :raises AirflowException: or one of its subclasses, as the run protocol's exit codes say.
        """
        try:
            self._reach_engine()
            self._sweep(context)
            self._check_image(self._image() or self._pulled())
            self._check_credentials()
            self.environment = self.variables_for(context, report=REPORT, tickets=TICKETS, secrets=SECRETS)
            self.labels = self._labels(context)
            self.container = self._create()
        except DatakitError as error:
            fail(error)
        except _ENGINE_ERRORS as error:
            fail(problems.of(error, self.image, self.docker_url))
        return self._run(context)

    def on_kill(self) -> None:
        """Tell the container to end, and kill it when its grace is over; :meth:`execute` reads its log meanwhile."""
        if self.container is None or self._told_to_end:
            return
        self._told_to_end = True
        self._kill(signal.SIGTERM)
        grace = threading.Timer(self._grace, self._kill, [signal.SIGKILL])
        grace.daemon = True
        grace.start()

    # Before the container

    def _reach_engine(self) -> None:
        """Connect, and find out why not: the real hook says only that it could not."""
        problems.check_socket(str(self.docker_url))
        try:
            _ = self.cli  # connects, and logs in
        except APIError as error:
            raise problems.of_login(str(error.explanation or error), self.image) from None
        except AirflowException as error:
            raise problems.of_connection(error, str(self.docker_url), self.docker_conn_id) from None

    def _sweep(self, context: Context) -> None:
        """Remove containers that nobody looks after: of earlier tries of this task, of dead workers of this machine.

        An earlier try that still ran would hold its dataset, and this one would have to wait for it.
        """
        mine = self._identity(context)
        for found in self.cli.containers(all=True, filters={"label": [_WORKER]}):
            labels = found["Labels"]
            earlier = all(labels.get(name) == value for name, value in mine.items())
            if earlier or _is_dead(labels[_WORKER]):
                reason = "an earlier try of this task" if earlier else "a worker that is gone"
                self.log.warning("removing container %s, which %s left behind", found["Id"][:12], reason)
                self._remove(found["Id"])

    def _image(self) -> dict[str, Any] | None:
        try:
            image: dict[str, Any] = self.cli.inspect_image(self.image)
        except ImageNotFound:
            return None
        return image

    def _pulled(self) -> dict[str, Any]:
        if self.spec.environment.docker.pull == "never":
            raise problems.not_built(self.image)
        self.log.info("pulling %s", self.image)
        try:
            for answer in self.cli.pull(self.image, stream=True, decode=True):
                if "error" in answer:  # docker-py does not raise it
                    raise problems.of_pull(str(answer["error"]), self.image)
        except APIError as error:
            raise problems.of_pull(str(error.explanation or error), self.image) from None
        self.log.info("pulled %s", self.image)
        image: dict[str, Any] = self.cli.inspect_image(self.image)
        return image

    def _check_image(self, image: dict[str, Any]) -> None:
        user = str(image["Config"].get("User") or "")
        if user.partition(":")[0] in {"", "0", "root"}:
            raise ConfigurationError(
                "the image runs as root",
                subject=self.image,
                cause="it was not built from datakit-base, or its USER was changed",
                fix="let its Dockerfile end with a USER that is not root",
            )

    def _check_credentials(self) -> None:
        name = self.spec.environment.docker.credentials_volume
        try:
            volume = self.cli.inspect_volume(name)
        except NotFound:
            raise ConfigurationError(
                "there is no volume with tickets and secrets",
                subject=f"Docker volume {name}",
                cause="the sidecar was never started on this engine, or the environment names another volume",
                fix="start the sidecar, which makes it; docker volume ls shows what there is",
            ) from None
        if (volume.get("Options") or {}).get("type") != "tmpfs":
            raise ConfigurationError(
                "the volume with tickets and secrets is not in memory",
                subject=f"Docker volume {name}",
                cause="Docker made it by itself, on the disk, when something named it before the sidecar did",
                fix=f"stop what uses it, docker volume rm {name}, and start the sidecar",
            )

    def _create(self) -> dict[str, Any]:
        limit, size = memory_bytes(self.spec.resources.memory), memory_bytes(self.spec.resources.scratch)
        container: dict[str, Any] = self.cli.create_container(
            image=self.image,
            command=self.command,
            environment=self.environment,
            labels=self.labels,
            host_config=self.cli.create_host_config(
                mounts=self._mounts(),
                network_mode=self.network_mode,
                mem_limit=limit,
                memswap_limit=limit,  # no swap: a secret in memory must not get to a disk
                nano_cpus=round(self.cpus * 1_000_000_000),  # a limit, where the real operator sets a share
                pids_limit=self.spec.environment.docker.pids,
                read_only=True,
                tmpfs={"/tmp": f"rw,nosuid,nodev,noexec,size={size},mode=1777"},  # noqa: S108  # inside the container
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                init=True,  # reaps what the datakit starts, and passes signals on
            ),
        )
        return container

    def _mounts(self) -> list[Mount]:
        place = self.spec.environment.docker
        return [
            Mount(SHARED, place.credentials_volume, type="volume", read_only=True, no_copy=True),
            # the report has to be there still when the container has ended, which memory is not
            Mount(str(Path(REPORT).parent), None, type="volume"),
            *(Mount(target, name, type="volume") for name, target in place.volumes.items()),
        ]

    def _identity(self, context: Context) -> dict[str, str]:
        task = context["ti"]
        return {
            "datakit.dag": task.dag_id,
            "datakit.task": task.task_id,
            "datakit.run": task.run_id,
            "datakit.map_index": str(task.map_index),
        }

    def _labels(self, context: Context) -> dict[str, str]:
        return {
            **self.spec.labels,
            **self._identity(context),
            "datakit.name": self.spec.datakit,
            "datakit.version": self.spec.version,
            "datakit.image": self.image,
            "datakit.try": str(context["ti"].try_number),
            _WORKER: _this_worker(),
        }

    # The container

    def _run(self, context: Context) -> Report:
        container = self.container["Id"]
        self._told_to_end, self._lines_read = False, 0
        self.log.info("%s, container %s of %s", self.title, container[:12], self.image)
        try:
            try:
                self._follow(container)
                exit_code = self.cli.wait(container, timeout=None)["StatusCode"]
            except BaseException:  # a timeout of Airflow's, for example, which is raised out of a signal handler
                self.on_kill()
                self.cli.wait(container, timeout=self._grace + _ENGINE_SECONDS)
                raise
            finally:
                self._catch_up(container)
            state = self.cli.inspect_container(container)["State"]
            report, problem = parse_report(self._report(container))
        except _ENGINE_ERRORS as error:
            fail(problems.of(error, self.image, self.docker_url))
        finally:
            self._remove(container)
        return self.finish(context, exit_code, report, problem, hint=self._hint(exit_code, state))

    def _follow(self, container: str) -> None:
        """Start the container and log its lines until its log ends, which a lost connection makes it do, too."""
        stream = self.cli.attach(container, stdout=True, stderr=True, stream=True)
        self.cli.start(container)
        for line in _lines(stream):
            self._lines_read += 1
            self.log_line(line)

    def _catch_up(self, container: str) -> None:
        """Log the lines that were not read while they came: each line is in the task's log once."""
        with suppress(*_ENGINE_ERRORS):  # a log driver that keeps nothing
            whole = self.cli.logs(container, stdout=True, stderr=True, stream=False)
            for line in list(_lines(iter([whole])))[self._lines_read :]:
                self.log_line(line)

    def _report(self, container: str) -> bytes | None:
        try:
            archive, stat = self.cli.get_archive(container, REPORT)
        except NotFound:
            return None
        if stat["size"] > LARGEST_REPORT:
            archive.close()
            return b" " * (LARGEST_REPORT + 1)
        with tarfile.open(fileobj=io.BytesIO(b"".join(archive))) as tar:
            file = tar.extractfile(stat["name"])
            return file.read() if file else None

    def _remove(self, container: str) -> None:
        with suppress(*_ENGINE_ERRORS):  # somebody else may remove it at the same time
            self.cli.stop(container, timeout=self._grace)
            self.cli.remove_container(container, force=True, v=True)

    def _kill(self, number: signal.Signals) -> None:
        with suppress(*_ENGINE_ERRORS):  # it has ended
            self.cli.kill(self.container["Id"], signal=number)

    def _hint(self, exit_code: int, state: dict[str, Any]) -> str | None:
        if state.get("OOMKilled"):
            return (
                f"it wanted more than {self.spec.resources.memory} of memory; "
                "a larger class is one argument: resource_class"
            )
        return "somebody killed it, or the engine was stopped" if exit_code > SIGNALS else None

    @property
    def _grace(self) -> int:
        return max(1, round(self.spec.environment.defaults.grace.total_seconds()))


def _lines(stream: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in stream:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode("utf-8", errors="replace") for line in lines)
    if rest:
        yield rest.decode("utf-8", errors="replace")


def _this_worker() -> str:
    """Return what names this process among all that ever ran on a machine: host, process id and start."""
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}"


def _is_dead(worker: str) -> bool:
    """Whether a worker was on this machine and is no more; of another machine's, nothing is known."""
    host, _, process = worker.partition("/")
    pid, _, started = process.partition("/")
    return host == socket.gethostname() and pid.isdigit() and _started(int(pid)) != started


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks of the machine (proc(5), stat, field 22); "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""
