"""One pod's life on the node: its volumes, its init containers in order, its sidecars, its containers, its end."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from datakit_lab.docker import EngineRefused
from datakit_lab.errors import LabError
from datakit_lab.kubernetes._container import ContainerRun
from datakit_lab.kubernetes._errors import ApiError
from datakit_lab.kubernetes._node import Node
from datakit_lab.kubernetes._sandbox import MountFailed, Sandbox
from datakit_lab.kubernetes._status import NODE_NAME, ContainerState, Role, pod_status
from datakit_lab.kubernetes._store import timestamp

Json = dict[str, Any]

_log = logging.getLogger(__name__)
_MOUNT_RETRY_SECONDS: Final = 1.0


class PodRun:
    """A pod that was admitted; :meth:`start` begins its life.

    :param gone: is called when it was deleted and nothing of it is left.
    :ivar grace: seconds that its containers have between SIGTERM and SIGKILL.
    """

    def __init__(self, node: Node, pod: Json, *, gone: Callable[[], None]) -> None:
        self._node = node
        self._pod = pod
        self._gone = gone
        self._changed = threading.Condition(threading.RLock())
        self._since = timestamp()
        self._scheduled = True
        self._over = False
        self._why: Json | None = None
        self._ending: float | None = None  # when, on the monotonic clock, the grace ends
        self._deleted = threading.Event()
        self._timer: threading.Timer | None = None
        spec = pod["spec"]
        spec["nodeName"] = NODE_NAME
        self.grace = float(spec["terminationGracePeriodSeconds"])
        self._sandbox = Sandbox(
            node.engine, node.store, node.claims, pod, node.labels(pod), own_network=node.own_network
        )
        self._init = [self._container("initContainers", each) for each in spec.get("initContainers") or []]
        self._apps = [self._container("containers", each) for each in spec["containers"]]
        self._thread = threading.Thread(target=self._run, name=f"pod-{pod['metadata']['name']}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def states(self) -> list[ContainerState]:
        """Return the containers in the order of the pod, the init containers first."""
        return [each.state for each in [*self._init, *self._apps]]

    def wait(self, ready: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until ``ready()`` is true, looking after each change of a container; False if ``seconds`` passed."""
        with self._changed:
            return self._changed.wait_for(ready, seconds)

    def delete(self, grace: float) -> None:
        """Let it end and vanish; return at once.

        :param grace: seconds between SIGTERM and SIGKILL; 0 kills.
        """
        with self._changed:
            deadline = time.monotonic() + grace
            self._ending = deadline if self._ending is None else min(self._ending, deadline)
            self._deleted.set()
            self._changed.notify_all()
        if grace == 0:
            for each in [*self._init, *self._apps]:
                each.kill()

    def join(self, seconds: float) -> None:
        """Wait until nothing of a deleted pod is left."""
        self._thread.join(seconds)

    def _container(self, group: str, container: Json) -> ContainerRun:
        role = Role.of(group, container)
        return ContainerRun(self._node, self._pod, container, role, self._sandbox, self._publish)

    def _run(self) -> None:
        try:
            self._live()
        except (LabError, ApiError) as error:
            _log.warning("pod %s: %s", self._pod["metadata"]["name"], error)
            self._why = {"reason": "DoubleFailed", "message": str(error)}
            self._end(self._apps + self._init)
        if self._timer is not None:
            self._timer.cancel()
        self._over = True
        self._publish()
        self._release()
        self._deleted.wait()
        self._clean_up()
        self._gone()

    def _live(self) -> None:
        self._limit_its_time()
        if self._set_up() and self._initialise():
            for each in self._apps:
                each.start()
            self.wait(lambda: self._ending is not None or all(each.over.is_set() for each in self._apps))
        self._end(self._apps)
        sidecars = [each for each in self._init if each.state.role is Role.SIDECAR]
        for each in reversed(sidecars):
            self._end([each])
        self._end(self._init)

    def _set_up(self) -> bool:
        """Set the volumes up, however long that takes; False if the pod ends before."""
        name, namespace = self._pod["metadata"]["name"], self._pod["metadata"]["namespace"]
        told_scheduled = False
        while self._ending is None:
            try:
                self._sandbox.set_up()
            except MountFailed as error:
                self._scheduled = error.reason != "FailedScheduling"
                self._node.tell(self._pod, "Warning", error.reason, error.message)
                self._publish()
            else:
                self._scheduled = True
            if self._scheduled and not told_scheduled:
                told_scheduled = True
                said = f"Successfully assigned {namespace}/{name} to {NODE_NAME}"
                self._node.tell(self._pod, "Normal", "Scheduled", said)
            if self._sandbox.ready:
                self._publish()
                return True
            self.wait(lambda: self._ending is not None, _MOUNT_RETRY_SECONDS)
        return False

    def _initialise(self) -> bool:
        """Run the init containers in order, and start the sidecars among them; False if the pod ends here."""
        for each in self._init:
            each.start()
            if each.state.role is Role.SIDECAR:
                self.wait(lambda each=each: self._ending is not None or each.state.started)  # type: ignore[misc]
            else:
                self.wait(lambda each=each: self._ending is not None or each.over.is_set())  # type: ignore[misc]
                if each.state.exit_code != 0:
                    return False
            if self._ending is not None:
                return False
        return True

    def _end(self, containers: Sequence[ContainerRun]) -> None:
        """Stop containers side by side, within what is left of the grace."""
        left = self.grace if self._ending is None else max(0.0, self._ending - time.monotonic())
        stopping = [threading.Thread(target=each.stop, args=(left,), daemon=True) for each in containers]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()

    def _limit_its_time(self) -> None:
        seconds = self._pod["spec"].get("activeDeadlineSeconds")
        if seconds is None:
            return

        def expire() -> None:
            with self._changed:
                if self._over or self._ending is not None:
                    return
                said = "Pod was active on the node longer than the specified deadline"
                self._why = {"reason": "DeadlineExceeded", "message": said}
                self._ending = time.monotonic() + self.grace
                self._changed.notify_all()
            self._node.tell(self._pod, "Normal", "DeadlineExceeded", said)

        self._timer = threading.Timer(seconds, expire)
        self._timer.daemon = True
        self._timer.start()

    def _publish(self) -> None:
        metadata = self._pod["metadata"]
        with self._changed:
            status = pod_status(
                self.states(),
                since=self._since,
                over=self._over,
                quality=self._pod["status"]["qosClass"],
                scheduled=self._scheduled,
                why=self._why,
            )

            def edit(kept: Json) -> None:
                kept["status"] = status
                if self._scheduled:
                    kept["spec"]["nodeName"] = NODE_NAME

            with contextlib.suppress(ApiError):  # it was deleted by force
                self._node.store.change("pods", metadata["namespace"], metadata["name"], edit)
            self._changed.notify_all()

    def _release(self) -> None:
        """Let the memory go that the volumes held; the containers stay, for their logs."""
        try:
            self._sandbox.release()
        except LabError as error:
            _log.warning("pod %s: %s", self._pod["metadata"]["name"], error)

    def _clean_up(self) -> None:
        engine = self._node.engine
        wanted = {"label": [f"io.kubernetes.pod.uid={self._pod['metadata']['uid']}"]}
        try:
            for found in engine.json("GET", "/containers/json", query={"all": True, "filters": wanted}):
                with contextlib.suppress(EngineRefused):  # somebody removed it first
                    engine.json("DELETE", f"/containers/{found['Id']}", query={"force": True})
            self._sandbox.remove()
        except LabError as error:
            _log.warning("pod %s: %s", self._pod["metadata"]["name"], error)
        metadata = self._pod["metadata"]
        with contextlib.suppress(ApiError):
            self._node.store.remove("pods", metadata["namespace"], metadata["name"])
