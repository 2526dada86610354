"""The fields of a pod that it may ask for: by ``fieldRef`` in its environment, or in a downward API volume."""

from __future__ import annotations

import re
from typing import Any, Final

Json = dict[str, Any]

_ENTRY: Final = re.compile(r"^metadata\.(?P<kind>labels|annotations)\['(?P<key>[^']+)'\]$")
ADDRESS: Final = "127.0.0.1"


def pod_field(pod: Json, path: str) -> str:
    """Return the field as text; an entry that is not there is empty.

    :raises ValueError: a pod cannot ask for that field.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    if match := _ENTRY.match(path):
        return str((metadata.get(match["kind"]) or {}).get(match["key"], ""))
    if path in {"metadata.labels", "metadata.annotations"}:
        entries = metadata.get(path.partition(".")[2]) or {}
        return "\n".join(f'{key}="{value}"' for key, value in sorted(entries.items()))
    known = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": ADDRESS,
        "status.hostIP": ADDRESS,
    }
    if path not in known:
        raise ValueError(f'error converting fieldPath: field label not supported: "{path}"')
    return str(known[path])
