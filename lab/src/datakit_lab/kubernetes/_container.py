"""One container of a pod: pulled, made, started, probed, restarted and stopped."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from datakit_lab.docker import EngineRefused
from datakit_lab.errors import LabUnavailable
from datakit_lab.kubernetes import _probes
from datakit_lab.kubernetes._exec import run_in
from datakit_lab.kubernetes._images import ImagePullError
from datakit_lab.kubernetes._node import Node
from datakit_lab.kubernetes._rendering import ConfigError, container_body
from datakit_lab.kubernetes._sandbox import Sandbox
from datakit_lab.kubernetes._status import ContainerState, Role, running, terminated, waiting
from datakit_lab.kubernetes._store import timestamp

Json = dict[str, Any]

_START_ERROR: Final = 128
_MOST_BACKOFF: Final = 30
_CONFIG_RETRY_SECONDS: Final = 2.0
_LAST_LINES: Final = 80
_LAST_BYTES: Final = 2048


class ContainerRun:
    """One container's life, in a thread of its own.

    :param pod: the pod that it is of.
    :param changed: is called after each change of :attr:`state`.
    """

    def __init__(
        self, node: Node, pod: Json, container: Json, role: Role, sandbox: Sandbox, changed: Callable[[], None]
    ) -> None:
        self._node = node
        self._pod = pod
        self._container = container
        self._sandbox = sandbox
        self._changed = changed
        name = container["name"]
        has_init = bool(pod["spec"].get("initContainers"))
        first = waiting("PodInitializing" if has_init else "ContainerCreating")
        self.state = ContainerState(name, container["image"], role, first, {})
        self._path = f"spec.{'containers' if role is Role.APP else 'initContainers'}{{{name}}}"
        self._gate = threading.Lock()  # between starting and stopping
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"container-{name}", daemon=True)
        self.over = threading.Event()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, grace: float) -> None:
        """End it for good, and wait until it has ended: preStop, SIGTERM, after ``grace`` seconds SIGKILL."""
        with self._gate:
            self._stopping.set()
            running_now = self.state.running
        if not self._thread.ident:
            self.over.set()
            return
        if running_now:
            self._end_it(grace, f"Stopping container {self.state.name}")
        self.over.wait()

    def kill(self) -> None:
        """SIGKILL; nothing happens if it does not run."""
        if self.state.running:
            with contextlib.suppress(EngineRefused):
                self._node.engine.json("POST", f"/containers/{self.state.container_id}/kill")

    def _run(self) -> None:
        try:
            self._live()
        except (EngineRefused, LabUnavailable) as error:
            self._tell("Warning", "Failed", f"Error: {error.what}")
            self.state.state = _ended_before_it_began(str(error.what))
        finally:
            self.over.set()
            self._changed()

    def _live(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            image = self._obtain_image()
            if image is None or not self._start(image, attempt):
                return
            if self.state.running:
                self._until_its_end()
            if not self._restarts():
                return
            seconds = min(self._node.backoff * 2**attempt, self._node.backoff * _MOST_BACKOFF)
            self._wait_to_restart(seconds)
            attempt += 1

    def _obtain_image(self) -> Json | None:
        """Return the image, as soon as it is to be had; None if the pod ends before."""
        attempt = 0
        while not self._stopping.is_set():
            try:
                return self._node.images.ensure(self._pod, self._container, self._tell)
            except ImagePullError as error:
                self._set(waiting(error.reason, error.message))
                if error.reason != "ErrImagePull":  # no waiting will help; still, the pod waits
                    self._tell(
                        "Warning", "Failed" if error.reason.startswith("Err") else "InspectFailed", error.message
                    )
                    self._stopping.wait()
                    return None
                seconds = min(self._node.backoff * 2**attempt, self._node.backoff * _MOST_BACKOFF)
                said = f'Back-off pulling image "{self.state.image}"'
                if not self._stopping.wait(min(1.0, seconds / 4)):
                    self._tell("Normal", "BackOff", said)
                    self._set(waiting("ImagePullBackOff", f"{said}: ErrImagePull: {error.message}"))
                    self._stopping.wait(seconds)
                attempt += 1
        return None

    def _start(self, image: Json, attempt: int) -> bool:
        """Make and start it; False if the pod ends before. A program that cannot run leaves it terminated."""
        while True:
            try:
                with self._gate:
                    if self._stopping.is_set():
                        return False
                    container_id = self._create(image, attempt)
                    self._begin(container_id)
            except ConfigError as error:
                self._tell("Warning", "Failed", f"Error: {error}")
                self._set(waiting("CreateContainerConfigError", str(error)))
            except EngineRefused as error:
                self._tell("Warning", "Failed", f"Error: {error.message}")
                self._set(waiting("CreateContainerError", error.message))
            else:
                return True
            if self._stopping.wait(_CONFIG_RETRY_SECONDS):
                return False

    def _create(self, image: Json, attempt: int) -> str:
        mounts = self._sandbox.mounts(self._container)
        body = container_body(self._pod, self._container, image, mounts, self._node.store, self._sandbox.network)
        body["Labels"] = {**self._node.labels(self._pod), "io.kubernetes.container.name": self.state.name}
        metadata = self._pod["metadata"]
        name = f"k8s_{self.state.name}_{metadata['name'][:80]}_{metadata['namespace']}_{metadata['uid']}_{attempt}"
        container_id: str = self._node.engine.json("POST", "/containers/create", body, query={"name": name})["Id"]
        self._tell("Normal", "Created", f"Created container: {self.state.name}")
        self.state.previous_id, self.state.container_id = self.state.container_id, container_id
        self.state.image_id = next(iter(image.get("RepoDigests") or []), image["Id"])
        return container_id

    def _begin(self, container_id: str) -> None:
        engine = self._node.engine
        try:
            engine.json("POST", f"/containers/{container_id}/start")
        except EngineRefused as error:
            said = f"failed to start container: {error.message}"
            self._tell("Warning", "Failed", f"Error: {said}")
            self._set(_ended_before_it_began(said, container_id))
            return
        self.state.started = not self._container.get("startupProbe")
        self.state.ready = self.state.started and not self._container.get("readinessProbe")
        self._tell("Normal", "Started", f"Started container {self.state.name}")
        self._set(running(engine.json("GET", f"/containers/{container_id}/json")))

    def _until_its_end(self) -> None:
        engine, container_id = self._node.engine, self.state.container_id
        ended = threading.Event()
        probing = threading.Thread(target=self._probe, args=(container_id, ended), daemon=True)
        probing.start()
        engine.json("POST", f"/containers/{container_id}/wait", seconds=None)
        ended.set()
        found = engine.json("GET", f"/containers/{container_id}/json")
        self.state.ready = self.state.started = False
        self._set(terminated(found, self._last_words(found)))

    def _last_words(self, found: Json) -> str | None:
        """Return the log's end as the termination message, where the pod asks for that."""
        wants = self._container["terminationMessagePolicy"] == "FallbackToLogsOnError"
        if not wants or found["State"]["ExitCode"] == 0:
            return None
        query = {"stdout": True, "stderr": True, "tail": _LAST_LINES}
        with self._node.engine.stream("GET", f"/containers/{found['Id']}/logs", query=query) as response:
            if self._container.get("tty"):
                said = response.read()
            else:
                said = b"".join(data for _, data in self._node.engine.demultiplexed(response))
        return said[-_LAST_BYTES:].decode(errors="replace") or None

    def _restarts(self) -> bool:
        if self._stopping.is_set():
            return False
        policy, role, code = self._pod["spec"]["restartPolicy"], self.state.role, self.state.exit_code
        if role is Role.SIDECAR:
            return True
        if role is Role.INIT:
            return policy != "Never" and code != 0
        return policy == "Always" or (policy == "OnFailure" and code != 0)

    def _wait_to_restart(self, seconds: float) -> None:
        self.state.last, self.state.restarts = self.state.state, self.state.restarts + 1
        name, pod = self.state.name, self._pod["metadata"]["name"]
        self._tell("Warning", "BackOff", f"Back-off restarting failed container {name} in pod {pod}")
        said = f"back-off {seconds:g}s restarting failed container={name} pod={pod}"
        self._set(waiting("CrashLoopBackOff", said))
        if self._stopping.wait(seconds):
            self._set(self.state.last)

    def _probe(self, container_id: str, ended: threading.Event) -> None:
        """Run the container's probes while this attempt of it lives: startup first, then the others side by side."""
        prober = _probes.Prober(self._node.engine, self._sandbox.connect)

        def going(seconds: float) -> bool:
            return not ended.wait(seconds)

        def run(kind: str, told: Callable[[bool, str], bool]) -> None:
            probe = self._container[f"{kind}Probe"]

            def once() -> str | None:
                failure = prober.once(container_id, self._container, probe)
                if failure is not None and not ended.is_set():
                    self._tell("Warning", "Unhealthy", f"{kind.capitalize()} probe failed: {failure}")
                return failure

            _probes.watch(probe, once, going, told)

        if self._container.get("startupProbe"):
            run("startup", lambda good, _: self._started() if good else self._doomed("startup"))
        if self.state.started and self._container.get("readinessProbe"):
            threading.Thread(target=run, args=("readiness", self._readiness), daemon=True).start()
        if self.state.started and self._container.get("livenessProbe"):
            run("liveness", lambda good, _: good or self._doomed("liveness"))

    def _started(self) -> bool:
        self.state.started = True
        self.state.ready = not self._container.get("readinessProbe")
        self._changed()
        return False

    def _readiness(self, good: bool, _said: str) -> bool:
        self.state.ready = good and self.state.running
        self._changed()
        return True

    def _doomed(self, kind: str) -> bool:
        grace = float(self._pod["spec"]["terminationGracePeriodSeconds"])
        self._end_it(grace, f"Container {self.state.name} failed {kind} probe, will be restarted")
        return False

    def _end_it(self, grace: float, why: str) -> None:
        self._tell("Normal", "Killing", why)
        engine, container_id = self._node.engine, str(self.state.container_id)
        hook = ((self._container.get("lifecycle") or {}).get("preStop") or {}).get("exec")
        deadline = time.monotonic() + grace
        with contextlib.suppress(EngineRefused, TimeoutError):  # it ended before, or the hook outlived its time
            if hook and grace > 0:
                run_in(engine, container_id, hook["command"], grace)
        left = max(0, round(deadline - time.monotonic()))
        try:
            engine.json("POST", f"/containers/{container_id}/stop", query={"t": left}, seconds=left + 60)
        except EngineRefused as error:
            if error.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                raise

    def _set(self, state: Json) -> None:
        self.state.state = state
        self._changed()

    def _tell(self, kind: str, reason: str, message: str) -> None:
        self._node.tell(self._pod, kind, reason, message, self._path)


def _ended_before_it_began(said: str, container_id: str | None = None) -> Json:
    moment = timestamp()
    ended = {
        "exitCode": _START_ERROR,
        "reason": "StartError",
        "message": said,
        "finishedAt": moment,
        "startedAt": moment,
    }
    return {"terminated": {**ended, **({"containerID": f"docker://{container_id}"} if container_id else {})}}
