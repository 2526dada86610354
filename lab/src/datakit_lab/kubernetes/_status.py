"""What a pod and its containers are doing, in the words of ``PodStatus``.

https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#PodStatus
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from datakit_lab.kubernetes._fields import ADDRESS

Json = dict[str, Any]

NODE_NAME: Final = "datakit-lab"
_OUT_OF_MEMORY: Final = 137


class Role(Enum):
    """What a container is for: it runs before the others, beside them, or is one of them."""

    INIT = "init"
    SIDECAR = "sidecar"
    APP = "app"

    @classmethod
    def of(cls, group: str, container: Json) -> Role:
        """Return the role of a container in ``initContainers`` or ``containers``."""
        if group == "containers":
            return cls.APP
        return cls.SIDECAR if container.get("restartPolicy") == "Always" else cls.INIT


@dataclass(slots=True)
class ContainerState:
    """One container, as whoever runs it sees it, and nobody else changes it.

    :ivar state: ``{"waiting": …}``, ``{"running": …}`` or ``{"terminated": …}``.
    :ivar last: the state before the last restart, or nothing.
    :ivar container_id: Docker's, of the present or the last attempt.
    :ivar previous_id: Docker's, of the attempt before.
    """

    name: str
    image: str
    role: Role
    state: Json
    last: Json
    restarts: int = 0
    ready: bool = False
    started: bool = False
    container_id: str | None = None
    previous_id: str | None = None
    image_id: str = ""

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        """The exit code if it has ended."""
        return self.state["terminated"]["exitCode"] if "terminated" in self.state else None

    def rendered(self) -> Json:
        """Return its ``ContainerStatus``."""
        succeeded = self.role is Role.INIT and self.exit_code == 0
        return {
            "name": self.name,
            "image": self.image,
            "imageID": self.image_id,
            "state": self.state,
            "lastState": self.last,
            "restartCount": self.restarts,
            "ready": self.ready or succeeded,
            "started": self.started,
            **({"containerID": f"docker://{self.container_id}"} if self.container_id else {}),
        }


def waiting(reason: str, message: str | None = None) -> Json:
    """Return the state of a container that does not run yet."""
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def terminated(found: Json, message: str | None) -> Json:
    """Return the state of a container that has ended, of what the engine says (``GET /containers/ID/json``)."""
    state = found["State"]
    code = int(state["ExitCode"])
    reason = "Completed" if code == 0 else "Error"
    if state.get("OOMKilled") and code == _OUT_OF_MEMORY:
        reason = "OOMKilled"
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "startedAt": _seconds(state["StartedAt"]),
            "finishedAt": _seconds(state["FinishedAt"]),
            "containerID": f"docker://{found['Id']}",
            **({"message": message} if message else {}),
        }
    }


def running(found: Json) -> Json:
    """Return the state of a container that runs, of what the engine says."""
    return {"running": {"startedAt": _seconds(found["State"]["StartedAt"])}}


def pod_status(
    states: Sequence[ContainerState],
    *,
    since: str,
    over: bool,
    quality: str,
    scheduled: bool = True,
    why: Json | None = None,
) -> Json:
    """Return a ``PodStatus``.

    :param since: when the pod came to the node.
    :param over: whether nothing of it runs any more, and nothing will.
    :param why: reason and message, if it was not the containers that ended it.
    """
    init = [each for each in states if each.role is not Role.APP]
    apps = [each for each in states if each.role is Role.APP]
    began = any({"running", "terminated"} & set(each.state) or each.restarts for each in apps)
    initialised = began or all(each.exit_code == 0 if each.role is Role.INIT else each.started for each in init)
    phase = _phase(init, apps, began=began, over=over, failed=why is not None)
    return {
        "phase": phase,
        "qosClass": quality,
        "conditions": _conditions(states, phase, since, initialised=initialised, scheduled=scheduled),
        **({"hostIP": ADDRESS, "podIP": ADDRESS, "podIPs": [{"ip": ADDRESS}], "startTime": since} if scheduled else {}),
        **({"initContainerStatuses": [each.rendered() for each in init]} if init else {}),
        "containerStatuses": [each.rendered() for each in apps],
        **(why or {}),
    }


def _phase(init: list[ContainerState], apps: list[ContainerState], *, began: bool, over: bool, failed: bool) -> str:
    if over:
        broken = [each for each in init if each.role is Role.INIT and each.exit_code != 0]
        good = not failed and not broken and all(each.exit_code == 0 for each in apps)
        return "Succeeded" if good else "Failed"
    return "Running" if began else "Pending"


def _conditions(
    states: Sequence[ContainerState], phase: str, since: str, *, initialised: bool, scheduled: bool
) -> list[Json]:
    unready = [each.name for each in states if each.role is not Role.INIT and not each.ready]
    why: Json = {}
    if phase == "Succeeded":
        why = {"reason": "PodCompleted"}
    elif unready:
        why = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{' '.join(unready)}]"}
    ready = not unready and phase == "Running"

    def condition(kind: str, *, true: bool, more: Json | None = None) -> Json:
        return {"type": kind, "status": str(true), "lastTransitionTime": since, **(more or {})}

    unfit = None if scheduled else {"reason": "Unschedulable", "message": "0/1 nodes are available."}
    found = [condition("PodScheduled", true=scheduled, more=unfit)]
    if scheduled:
        found += [
            condition("Initialized", true=initialised or phase == "Succeeded"),
            condition("ContainersReady", true=ready, more=None if ready else why),
            condition("Ready", true=ready, more=None if ready else why),
        ]
    return found


def _seconds(engine_time: str) -> str:
    """Return Docker's time, which has nanoseconds, as the API writes it."""
    return f"{engine_time[:19]}Z"
