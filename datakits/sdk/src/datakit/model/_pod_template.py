"""The platform team's pod, which a datakit's is laid over: what it may not say.

The real operator takes the template's value wherever a datakit's pod has none, or one that is empty or false. So a
template could bring what the pod goes without on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from datakit.errors import InvalidFile
from datakit.model.yaml import Document

_BASE: Final = "base"
_OURS: Final = re.compile(r"datakit-|airflow-xcom")
_OUR_VARIABLES: Final = re.compile(r"DATAKIT_|KRB5CCNAME$|KRB5_CONFIG$")
_OF_THE_NODE: Final = ("hostNetwork", "hostPID", "hostIPC", "automountServiceAccountToken")
_OF_THE_IMAGE: Final = ("command", "args", "envFrom")
_Place = tuple[str | int, ...]


def read_pod_template(path: Path) -> dict[str, Any]:
    """Return the template.

    :raises InvalidFile: it is no pod, or says what the datakit's pod goes without.
    """
    document = Document.read(path)
    data = document.data
    if not isinstance(data, dict) or data.get("kind") != "Pod":
        raise InvalidFile(
            "the pod template is no pod", subject=str(path), fix="begin it with apiVersion: v1, kind: Pod"
        )
    for place, what, fix in _problems(data.get("spec") or {}):
        raise InvalidFile(what, subject=f"{path}:{document.at(('spec', *place), key=True)}", fix=fix)
    return data


def _problems(spec: dict[str, Any]) -> Iterator[tuple[_Place, str, str]]:
    for key in _OF_THE_NODE:
        if spec.get(key):
            yield (key,), f"a datakit's pod goes without {key}", "remove it; a pod of its own can have it"
    for number, volume in enumerate(spec.get("volumes") or []):
        yield from _of_ours(("volumes", number), "volume", volume)
    for group in ("initContainers", "containers"):
        for number, container in enumerate(spec.get(group) or []):
            place = (group, number)
            yield from _of_ours(place, "container", container)
            for index, mount in enumerate(container.get("volumeMounts") or []):
                yield from _of_ours((*place, "volumeMounts", index), "volume", mount)
            if container.get("name") == _BASE:
                if place != ("containers", 0):
                    yield place, "base, the datakit's container, is not the first one", "write it first in containers"
                yield from _of_base(place, container)


def _of_ours(place: _Place, kind: str, item: dict[str, Any]) -> Iterator[tuple[_Place, str, str]]:
    name = str(item.get("name"))
    if _OURS.match(name):
        yield (*place, "name"), f"the {kind} {name} is the datakit's own", "give another one another name"


def _of_base(place: _Place, container: dict[str, Any]) -> Iterator[tuple[_Place, str, str]]:
    for key in _OF_THE_IMAGE:
        if container.get(key):
            yield (*place, key), f"base has its {key} from the run protocol", "remove it; variables can be in env"
    for number, variable in enumerate(container.get("env") or []):
        where = (*place, "env", number)
        name = str(variable.get("name"))
        if _OUR_VARIABLES.match(name):
            yield where, f"{name} is set by the run protocol", "remove it"
        if "secretKeyRef" in (variable.get("valueFrom") or {}):
            yield (
                where,
                f"{name} would bring a secret into the environment, where every process reads it",
                "let the sidecar publish it as a file",
            )
