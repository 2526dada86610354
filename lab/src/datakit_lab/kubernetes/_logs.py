"""A container's log, as ``GET …/pods/NAME/log`` gives it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from datakit_lab.docker import Engine
from datakit_lab.kubernetes._errors import bad_request
from datakit_lab.kubernetes._pod import PodRun
from datakit_lab.kubernetes._status import ContainerState

Json = dict[str, Any]

_STATUS_SECONDS = 5.0


def read_log(engine: Engine, pod: Json, run: PodRun, query: Mapping[str, str]) -> Iterator[bytes]:
    """Yield a container's log as it arrives.

    A follower's log ends only when the pod's status says that the container has ended, so that who reads the status
    next is not told that it still runs.

    :raises ApiError: no such container, or it has no log yet.
    """
    state = _chosen(pod, run, query.get("container"))
    previous = query.get("previous") == "true"
    container_id = state.previous_id if previous else state.container_id
    if container_id is None:
        name, of = state.name, f'container "{state.name}" in pod "{pod["metadata"]["name"]}"'
        if previous:
            raise bad_request(f'previous terminated container "{name}" in pod "{pod["metadata"]["name"]}" not found')
        raise bad_request(f"{of} is waiting to start: {_why_it_waits(state)}")
    tty = any(each["name"] == state.name and each.get("tty") for each in _containers(pod))
    return _limited(_lines(engine, run, state, container_id, query, tty=tty), query.get("limitBytes"))


def _lines(
    engine: Engine, run: PodRun, state: ContainerState, container_id: str, query: Mapping[str, str], *, tty: bool
) -> Iterator[bytes]:
    follow, stamped = query.get("follow") == "true", query.get("timestamps") == "true"
    asked: Json = {"stdout": True, "stderr": True, "follow": follow, "timestamps": stamped}
    asked |= {"since": _since(query), "tail": query.get("tailLines")}
    with engine.stream("GET", f"/containers/{container_id}/logs", query=asked, seconds=None) as response:
        if tty:
            while piece := response.read1(65536):
                yield piece
        else:
            line_began: dict[int, bool] = {}
            for stream, data in engine.demultiplexed(response):
                if stamped and line_began.get(stream):
                    data = data.partition(b" ")[
                        2
                    ]  # the engine stamps each piece of a long line, the kubelet only lines
                line_began[stream] = not data.endswith(b"\n")
                yield data
    if follow:
        run.wait(lambda: state.container_id != container_id or not state.running, _STATUS_SECONDS)


def _limited(pieces: Iterator[bytes], most: str | None) -> Iterator[bytes]:
    left = None if most is None else int(most)
    for piece in pieces:
        if left is None:
            yield piece
            continue
        yield piece[:left]
        left -= len(piece)
        if left <= 0:
            return


def _since(query: Mapping[str, str]) -> str | None:
    if "sinceSeconds" in query:
        return f"{time.time() - int(query['sinceSeconds']):.9f}"
    if "sinceTime" in query:
        return f"{datetime.fromisoformat(query['sinceTime']).timestamp():.9f}"
    return None


def _chosen(pod: Json, run: PodRun, name: str | None) -> ContainerState:
    pod_name = pod["metadata"]["name"]
    states = {each.name: each for each in run.states()}
    if name is None:
        if len(pod["spec"]["containers"]) > 1:
            known = " ".join(each["name"] for each in pod["spec"]["containers"])
            raise bad_request(f"a container name must be specified for pod {pod_name}, choose one of: [{known}]")
        name = pod["spec"]["containers"][0]["name"]
    if name not in states:
        raise bad_request(f"container {name} is not valid for pod {pod_name}")
    return states[name]


def _why_it_waits(state: ContainerState) -> str:
    reason = state.state.get("waiting", {}).get("reason", "ContainerCreating")
    return "trying and failing to pull image" if reason in {"ErrImagePull", "ImagePullBackOff"} else str(reason)


def _containers(pod: Json) -> list[Json]:
    return [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
