"""The three ways to change a part of an object: merge patch, strategic merge patch, JSON patch."""

from __future__ import annotations

import copy
from typing import Any

from datakit_lab.kubernetes._errors import bad_request, invalid

Json = dict[str, Any]


def patched(before: Json, content_type: str, patch: Any) -> Json:
    """Return ``before`` with the patch applied.

    Maps are all that may change in a living pod (labels, annotations), and for those a strategic merge is a merge.

    :raises ApiError: the patch is not of its type.
    """
    kind = content_type.partition(";")[0].strip()
    after = copy.deepcopy(before)
    if kind == "application/json-patch+json":
        if not isinstance(patch, list):
            raise bad_request("a JSON patch is a list of operations")
        for operation in patch:
            _operate(after, operation)
        return after
    if kind not in {"application/merge-patch+json", "application/strategic-merge-patch+json"}:
        raise bad_request(f"unsupported patch type {kind!r}")
    if not isinstance(patch, dict):
        raise bad_request("a merge patch is an object")
    _merge(after, patch)
    return after


def only_metadata_changes(kind: str, before: Json, after: Json) -> None:
    """Check that a patch leaves a living object's name and everything below ``spec`` and ``status`` alone.

    :raises ApiError: it does not.
    """
    name = before["metadata"]["name"]
    if after.get("metadata", {}).get("name") != name:
        raise bad_request("the name of the object does not match the name on the URL")
    if before.get("spec") != after.get("spec"):
        what = "Forbidden: pod updates may not change fields other than labels and annotations here"
        raise invalid(kind, name, [("spec", what)])
    after["status"] = before.get("status")


def _merge(target: Json, patch: Json) -> None:
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            inner = target.get(key)
            if not isinstance(inner, dict):
                inner = target[key] = {}
            _merge(inner, value)
        else:
            target[key] = value


def _operate(target: Json, operation: Json) -> None:
    try:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        what = operation["op"]
        for part in parents:
            target = target[part]
        if what in {"add", "replace"}:
            if what == "replace" and last not in target:
                raise KeyError(last)
            target[last] = operation["value"]
        elif what == "remove":
            del target[last]
        elif what == "test":
            if target[last] != operation["value"]:
                raise KeyError(last)
        else:
            raise bad_request(f"the operation {what!r} is not modelled")
    except (KeyError, TypeError, ValueError):
        raise bad_request(f"the server rejected our request due to an error in our request: {operation}") from None
