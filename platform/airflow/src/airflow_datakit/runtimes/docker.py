"""A datakit as a container of a Docker engine: hardened, labelled, and never left behind."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import threading
import time
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
from airflow_datakit._tree import this_airflow
from airflow_datakit.runtimes import _docker_problems as problems
from airflow_datakit.runtimes._lines import Lines, undisturbed
from airflow_datakit.runtimes._places import REPORT, SECRETS, SHARED, TICKETS

if TYPE_CHECKING:
    from airflow.sdk import Context

_WORKER: Final = "datakit.worker"
_ENGINE_SECONDS: Final = 60
_AGAIN_SECONDS: Final = 1
_ENGINE_ERRORS: Final = (DockerException, RequestException)
"""What the client raises: an answer that is an error, and an engine that went away."""


class DatakitDockerOperator(DatakitTask, DockerOperator):
    """Runs a datakit as a container. What the real operator has no argument for is set when the container is made."""

    template_fields = ("request", "image")
    _output = Lines()
    _read = 0
    _ending: threading.Thread | None = None

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
        self.told_to_end, self._ending, self._output, self._read = False, None, Lines(), 0
        self.container = None  # type: ignore[assignment]  # as the real operator begins
        try:
            self._reach_engine()
            self._sweep(context)
            self._check_image(self._image() or self._pulled())
            self._check_credentials()
            self._check_volumes()
            self.environment = self.variables_for(context, report=REPORT, tickets=TICKETS, secrets=SECRETS)
            self.labels = self._labels(context)
            self.refuse_to_begin()
            self.container = self._create()
        except DatakitError as error:
            fail(error)
        except _ENGINE_ERRORS as error:
            fail(problems.of(error, self.image, self.docker_url))
        return self._run(context)

    def on_kill(self) -> None:
        """Let the engine end the container within its grace; :meth:`execute` reads its log meanwhile.

        The engine does it, because Airflow kills this worker long before a grace of more than seconds is over.
        """
        super().on_kill()
        if self.container is not None and self._ending is None:
            self._ending = threading.Thread(target=self._stop, args=[self.container["Id"]], daemon=True)
            self._ending.start()

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
                self.refuse_to_begin()
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

    def _check_volumes(self) -> None:
        for name in self._volumes:
            try:
                self.cli.inspect_volume(name)
            except NotFound:
                raise ConfigurationError(
                    "a volume that the environment names is not there",
                    subject=f"Docker volume {name}",
                    cause="docker.volumes spells it otherwise, or it was never made; Docker would make an empty one",
                    fix=f"docker volume ls; correct the name, or docker volume create {name}",
                ) from None

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
            *(Mount(target, name, type="volume") for name, target in self._volumes.items()),
        ]

    @property
    def _volumes(self) -> dict[str, str]:
        return self.spec.volumes_of(self.spec.environment.docker.volumes)

    def _identity(self, context: Context) -> dict[str, str]:
        task = context["ti"]
        return {
            "datakit.airflow": this_airflow(),
            "datakit.environment": self.spec.environment.name,
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
        self.log.info("%s, container %s of %s", self.title, container[:12], self.image)
        try:
            try:
                self.refuse_to_begin()
                self.cli.start(container)
                if self.told_to_end:  # while it was started, so that there was nothing to end
                    self.on_kill()
                self._follow(container)
                exit_code = self.cli.wait(container, timeout=None)["StatusCode"]
            except BaseException:  # a timeout of Airflow's, for example, which is raised out of a signal handler
                self.on_kill()
                self.cli.wait(container, timeout=self._grace + _ENGINE_SECONDS)
                raise
            finally:
                with suppress(*_ENGINE_ERRORS):  # the connection may have been lost, and lines with it
                    self._log_from(container, follow=False)
                self._output.finish()
                self.log_lines(self._output)
            state = self.cli.inspect_container(container)["State"]
            report, problem = parse_report(self._report(container))
        except _ENGINE_ERRORS as error:
            fail(problems.of(error, self.image, self.docker_url))
        finally:
            self._remove(container)
        return self.finish(context, exit_code, report, problem, hint=self._hint(exit_code, state))

    def _follow(self, container: str) -> None:
        """Log the container's lines as they come, until it has ended; a lost connection ends its log, too."""
        try:
            self._log_from(container, follow=True)
            while self.cli.inspect_container(container)["State"]["Running"]:
                time.sleep(_AGAIN_SECONDS)
                self._log_from(container, follow=True)
        except APIError as error:
            if not problems.keeps_no_log(error):
                raise
            self.log.warning("%s; this task's log has nothing of the datakit's", error.explanation)

    def _log_from(self, container: str, *, follow: bool) -> None:
        """Log what the engine has of the container's output, from the first byte that was not read yet.

        The engine keeps a line whole, whichever stream it came from, and gives the same bytes each time.
        """
        known = self._read
        for piece in self.cli.logs(container, stdout=True, stderr=True, stream=True, follow=follow):
            fresh = piece[known:]
            known = max(0, known - len(piece))
            with undisturbed():
                self._read += len(fresh)
                self._output.feed(fresh)
                self.log_lines(self._output)

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

    def _stop(self, container: str) -> None:
        with suppress(*_ENGINE_ERRORS):  # it has ended
            self.cli.stop(container, timeout=self._grace)

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


def _this_worker() -> str:
    """Return what names this process among all that ever ran on a machine: host, process table, process id, start."""
    return f"{socket.gethostname()}/{_process_table()}/{os.getpid()}/{_started(os.getpid())}"


def _process_table() -> str:
    """Return what names the processes that this one sees: those of one boot of one machine, in one namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot}-{Path('/proc/self/ns/pid').readlink()}"


def _is_dead(worker: str) -> bool:
    """Whether a worker was one of the processes that this one sees, and is no more; of others nothing is known."""
    place, _, process = worker.rpartition("/")[0].rpartition("/")
    started = worker.rpartition("/")[2]
    if place != f"{socket.gethostname()}/{_process_table()}" or not process.isdigit():
        return False
    return _started(int(process)) not in (started, None)


def _started(pid: int) -> str | None:
    """Return when a process started, in clock ticks of the machine (proc(5), stat, field 22).

    :returns: "" if it is gone, None if this one may not know.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except OSError:
        return None
