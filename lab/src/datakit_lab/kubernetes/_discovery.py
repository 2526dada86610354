"""What the double says of itself to clients that ask before they act, such as kubectl."""

from __future__ import annotations

from typing import Any, Final

from datakit_lab.kubernetes._store import RESOURCES

Json = dict[str, Any]

_VERSION: Final = {"major": "1", "minor": "34", "gitVersion": "v1.34.0+datakit-lab", "platform": "linux/amd64"}
_VERBS: Final = ("create", "delete", "get", "list", "patch", "watch")
_SHORT: Final = {
    "pods": "po",
    "namespaces": "ns",
    "configmaps": "cm",
    "serviceaccounts": "sa",
    "events": "ev",
    "persistentvolumeclaims": "pvc",
}


def discovered(path: str) -> Json | None:
    """Return the document at a path of the discovery API, or None if there is none."""
    if path == "/version":
        return _VERSION
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": []}
    if path == "/api/v1":
        resources = [_resource(plural) for plural in RESOURCES]
        parts = [
            {"name": f"pods/{part}", "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get"]}
            for part, kind in (("log", "Pod"), ("exec", "PodExecOptions"))
        ]
        return {"kind": "APIResourceList", "groupVersion": "v1", "resources": [*resources, *parts]}
    return None


def _resource(plural: str) -> Json:
    known = RESOURCES[plural]
    return {
        "name": plural,
        "singularName": known.kind.lower(),
        "namespaced": known.namespaced,
        "kind": known.kind,
        "verbs": list(_VERBS),
        **({"shortNames": [_SHORT[plural]]} if plural in _SHORT else {}),
    }
