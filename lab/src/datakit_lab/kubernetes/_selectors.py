"""Label and field selectors, as query parameters of a list.

Grammar: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#api
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from datakit_lab.kubernetes._errors import bad_request

Json = dict[str, Any]
Wanted = Callable[[Json], bool]

_SET: Final = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUAL: Final = re.compile(r"^(?P<key>[^\s!=,()]+)\s*(?P<operator>==|!=|=)\s*(?P<value>[^\s!=,()]*)$")
_EXISTS: Final = re.compile(r"^(?P<absent>!?)\s*(?P<key>[^\s!=,()]+)$")
_COMMA: Final = re.compile(r",(?![^()]*\))")


def by_labels(selector: str) -> Wanted:
    """Return what tells whether labels fit: ``a=b``, ``a!=b``, ``a in (b,c)``, ``a notin (b)``, ``a``, ``!a``.

    :raises ApiError: the selector cannot be parsed.
    """
    requirements = [_label_requirement(part.strip()) for part in _COMMA.split(selector) if part.strip()]
    return lambda each: all(fits(each["metadata"].get("labels") or {}) for fits in requirements)


def by_fields(selector: str) -> Wanted:
    """Return what tells whether an object's fields fit: ``metadata.name=x,status.phase!=Failed``.

    :raises ApiError: the selector cannot be parsed.
    """
    requirements = []
    for part in filter(None, (part.strip() for part in selector.split(","))):
        match = _EQUAL.match(part)
        if match is None:
            raise bad_request(f"invalid field selector: {part!r}")
        requirements.append((match["key"].split("."), match["operator"] != "!=", match["value"]))
    return lambda each: all((_field(each, path) == value) is equal for path, equal, value in requirements)


def _label_requirement(part: str) -> Callable[[Json], bool]:
    if match := _SET.match(part):
        key, values = match["key"], {value.strip() for value in match["values"].split(",")}
        if match["operator"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if match := _EQUAL.match(part):
        key, value, equal = match["key"], match["value"], match["operator"] != "!="
        return lambda labels: (labels.get(key) == value) is equal
    if match := _EXISTS.match(part):
        key, present = match["key"], not match["absent"]
        return lambda labels: (key in labels) is present
    raise bad_request(f"unable to parse requirement: {part!r}")


def _field(found: Any, path: list[str]) -> str:
    for name in path:
        found = (found or {}).get(name)
    return "" if found is None else str(found)
