"""The one node: what its pods share, and where their events are written."""

from __future__ import annotations

import os
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from datakit_lab.docker import Engine
from datakit_lab.kubernetes._claims import Claims
from datakit_lab.kubernetes._images import Images
from datakit_lab.kubernetes._status import NODE_NAME
from datakit_lab.kubernetes._store import Store, timestamp

Json = dict[str, Any]

LABEL = "datakit-lab.kubernetes"
OWNER_LABEL = "datakit-lab.owner"


@dataclass(frozen=True, slots=True)
class Node:
    """What the pods of one double run on.

    :ivar name: of this double, on everything it makes on the engine.
    :ivar own_network: whether each pod has a network of its own, or this machine's.
    :ivar backoff: seconds before the second try of a pull or a restart; doubled each time, up to 30 times as much.
    """

    engine: Engine
    store: Store
    images: Images
    claims: Claims
    backoff: float
    own_network: bool
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def labels(self, pod: Json) -> dict[str, str]:
        """Return the labels of everything that is made for a pod."""
        metadata = pod["metadata"]
        return {
            LABEL: self.name,
            OWNER_LABEL: str(os.getpid()),
            "io.kubernetes.pod.name": metadata["name"],
            "io.kubernetes.pod.namespace": metadata["namespace"],
            "io.kubernetes.pod.uid": metadata["uid"],
        }

    def tell(self, pod: Json, kind: str, reason: str, message: str, container: str | None = None) -> None:
        """Write an event about a pod, or count the same one again.

        :param kind: Normal or Warning.
        :param container: the path of the container in the pod (``spec.containers{base}``).
        """
        metadata = pod["metadata"]
        namespace = metadata["namespace"]
        about = {"kind": "Pod", "apiVersion": "v1"} | {key: metadata[key] for key in ("name", "namespace", "uid")}
        if container:
            about["fieldPath"] = container

        def same(event: Json) -> bool:
            return bool(event["involvedObject"] == about and (event["reason"], event["message"]) == (reason, message))

        def again(event: Json) -> None:
            event["count"] += 1
            event["lastTimestamp"] = timestamp()

        with self._telling:
            found, _ = self.store.select("events", namespace, same)
            if found:
                self.store.change("events", namespace, found[0]["metadata"]["name"], again)
                return
            now = timestamp()
            component = (
                "default-scheduler" if reason.endswith("cheduled") or reason == "FailedScheduling" else "kubelet"
            )
            event = {
                "metadata": {"name": f"{metadata['name']}.{time.time_ns():x}"},
                "involvedObject": about,
                "type": kind,
                "reason": reason,
                "message": message,
                "source": {"component": component, "host": NODE_NAME},
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
            }
            self.store.create("events", namespace, event)
