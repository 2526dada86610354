"""The API: what a path and a method mean, without HTTP."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from datakit_lab.kubernetes._admission import admit
from datakit_lab.kubernetes._claims import claims_of
from datakit_lab.kubernetes._errors import ApiError, bad_request, forbidden, not_found, not_modelled
from datakit_lab.kubernetes._logs import read_log
from datakit_lab.kubernetes._node import Node
from datakit_lab.kubernetes._patches import only_metadata_changes, patched
from datakit_lab.kubernetes._pod import PodRun
from datakit_lab.kubernetes._selectors import by_fields, by_labels
from datakit_lab.kubernetes._status import Role
from datakit_lab.kubernetes._store import RESOURCES, Resource, timestamp

Json = dict[str, Any]

_WATCH_SECONDS: Final = 300.0
_METHOD_VERBS: Final = {"POST": "create", "GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
USER: Final = "system:serviceaccount:datakit-lab:tester"


@dataclass(frozen=True, slots=True)
class Target:
    """An address below ``/api/v1``: a resource, perhaps in a namespace, perhaps one object of it, perhaps a part."""

    resource: Resource
    namespace: str | None
    name: str | None
    part: str | None

    @classmethod
    def of(cls, path: str) -> Target:
        """Parse a path.

        :raises ApiError: nothing of the double is there.
        """
        parts = [part for part in path.split("/") if part]
        if parts[:2] != ["api", "v1"]:
            raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", "the server could not find the requested resource")
        parts = parts[2:]
        namespace = None
        if len(parts) > 2 and parts[0] == "namespaces":
            namespace, parts = parts[1], parts[2:]
        resource = RESOURCES.get(parts[0]) if parts else None
        if resource is None or len(parts) > 3:
            raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", "the server could not find the requested resource")
        return cls(resource, namespace, *[*parts[1:], None, None][:2])

    @property
    def place(self) -> str:
        """The namespace as the store knows it."""
        return self.namespace or ""


@dataclass(slots=True)
class Api:
    """The objects and the pods that run."""

    node: Node
    _runs: dict[tuple[str, str], PodRun] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _forbidden: set[tuple[str, str]] = field(default_factory=set)

    def forbid(self, verb: str, resource: str) -> None:
        """From now on refuse ``verb`` (create, get, list, watch …) on ``resource`` (pods, pods/log …)."""
        self._forbidden.add((verb, resource))

    def permit_all(self) -> None:
        """Forget what was forbidden."""
        self._forbidden.clear()

    def authorise(self, method: str, target: Target, query: Mapping[str, str]) -> None:
        """Check that the user may do this.

        :raises ApiError: it was forbidden.
        """
        verb = _METHOD_VERBS[method]
        if verb == "get" and target.name is None:
            verb = "watch" if query.get("watch") == "true" else "list"
        full = target.resource.plural + (f"/{target.part}" if target.part else "")
        if (verb, full) in self._forbidden:
            where = f' in the namespace "{target.namespace}"' if target.namespace else " at the cluster scope"
            why = f'User "{USER}" cannot {verb} resource "{full}" in API group ""{where}'
            raise forbidden(target.resource.plural, target.name or "", why)

    def create(self, target: Target, given: Json) -> Json:
        """Keep a new object; a pod starts to run."""
        store, plural = self.node.store, target.resource.plural
        if target.name is not None:
            raise not_modelled(f"POST to {target.part or 'an object'}")
        if plural == "pods":
            return self._create_pod(target.place, given)
        if not (given.get("metadata") or {}).get("name"):
            raise bad_request(f"{target.resource.kind}: metadata.name is required")
        if target.resource.namespaced and not store.has("namespaces", "", target.place):
            raise not_found("namespaces", target.place)
        if plural == "persistentvolumeclaims":
            return self._create_claim(target.place, given)
        created = store.create(plural, target.place, _with_data(given))
        if plural == "namespaces":
            self.furnish(created["metadata"]["name"])
        return created

    def furnish(self, namespace: str) -> None:
        """Give a new namespace what a cluster puts in: the account ``default``, the authority's certificate."""
        store = self.node.store
        store.create("serviceaccounts", namespace, {"metadata": {"name": "default"}})
        store.create("configmaps", namespace, {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": ""}})

    def get(self, target: Target) -> Json:
        """Return one object."""
        return self.node.store.get(target.resource.plural, target.place, str(target.name))

    def select(self, target: Target, query: Mapping[str, str]) -> Json:
        """Return the list of the objects that the query's selectors want."""
        found, version = self.node.store.select(target.resource.plural, target.namespace, _wanted(query))
        kind = f"{target.resource.kind}List"
        return {"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": str(version)}, "items": found}

    def watch(self, target: Target, query: Mapping[str, str]) -> Iterator[Json]:
        """Yield what happens to the wanted objects."""
        since = query.get("resourceVersion") or None
        seconds = float(query.get("timeoutSeconds", _WATCH_SECONDS))
        version = int(since) if since not in {None, "0"} else None
        changes = self.node.store.watch(target.resource.plural, target.namespace, version, seconds, _wanted(query))
        return _watch_events(changes)

    def replace(self, target: Target, given: Json) -> Json:
        """Replace the data of an object that is no pod."""
        if target.resource.plural == "pods":
            raise not_modelled("PUT of a pod")
        return self._edit(target, lambda before: {**before, **_with_data(given), "metadata": before["metadata"]})

    def patch(self, target: Target, content_type: str, patch: Any) -> Json:
        """Change a part of an object; of a pod only its metadata."""

        def change(before: Json) -> Json:
            after = patched(before, content_type, patch)
            if target.resource.plural == "pods":
                only_metadata_changes("Pod", before, after)
            return _with_data(after)

        return self._edit(target, change)

    def delete(self, target: Target, options: Mapping[str, Any]) -> Json:
        """Remove an object; a pod ends first, within its grace, and vanishes then."""
        plural, name = target.resource.plural, str(target.name)
        if plural != "pods":
            remove = self._remove_claim if plural == "persistentvolumeclaims" else self.node.store.remove
            gone = remove(plural, target.place, name)
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": {
                "name": name, "kind": plural, "uid": gone["metadata"]["uid"],
            }}  # fmt: skip
        run = self.run_of(target.place, name)
        uid = (options.get("preconditions") or {}).get("uid")
        if uid not in {None, self.get(target)["metadata"]["uid"]}:
            raise ApiError(
                HTTPStatus.CONFLICT, "Conflict", f'Operation cannot be fulfilled on pods "{name}": uid mismatch'
            )
        asked = options.get("gracePeriodSeconds")
        grace = run.grace if asked is None else float(asked)

        def edit(kept: Json) -> None:
            moment = datetime.now(UTC) + timedelta(seconds=grace)
            kept["metadata"]["deletionTimestamp"] = timestamp(moment)
            kept["metadata"]["deletionGracePeriodSeconds"] = int(grace)

        marked = self.node.store.change("pods", target.place, name, edit)
        run.delete(grace)
        return marked

    def log(self, target: Target, query: Mapping[str, str]) -> Iterator[bytes]:
        """Yield the log of a pod's container."""
        run = self.run_of(target.place, str(target.name))
        return read_log(self.node.engine, self.get(target), run, query)

    def container_to_enter(self, target: Target, name: str | None) -> str:
        """Return the engine's id of a running container, for exec.

        :raises ApiError: there is none.
        """
        states = self.run_of(target.place, str(target.name)).states()
        wanted = name or next(each.name for each in states if each.role is Role.APP)
        for state in states:
            if state.name == wanted and state.running and state.container_id is not None:
                return state.container_id
        message = f'unable to upgrade connection: container not found ("{wanted}")'
        raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", message)

    def run_of(self, namespace: str, name: str) -> PodRun:
        """Return the running side of a pod.

        :raises ApiError: there is no such pod.
        """
        with self._lock:
            run = self._runs.get((namespace, name))
        if run is None:
            raise not_found("pods", name)
        return run

    def end_all(self) -> None:
        """Kill and remove every pod."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.delete(0)
        for run in runs:
            run.join(30)

    def _create_pod(self, namespace: str, given: Json) -> Json:
        store = self.node.store
        created = store.create("pods", namespace, admit(given, namespace, store))
        key = (namespace, created["metadata"]["name"])

        def gone() -> None:
            with self._lock:
                self._runs.pop(key, None)

        run = PodRun(self.node, created, gone=gone)
        with self._lock:
            self._runs[key] = run
        run.start()
        return store.get("pods", namespace, key[1])

    def _create_claim(self, namespace: str, given: Json) -> Json:
        claim = self.node.claims.bound(given)
        try:
            return self.node.store.create("persistentvolumeclaims", namespace, claim)
        except ApiError:
            self.node.claims.remove(claim)
            raise

    def _remove_claim(self, plural: str, namespace: str, name: str) -> Json:
        if self.node.store.select("pods", namespace, lambda pod: name in claims_of(pod))[0]:
            raise not_modelled("deleting a claim that a pod has")  # which a real cluster does when the pod is gone
        gone = self.node.store.remove(plural, namespace, name)
        self.node.claims.remove(gone)
        return gone

    def _edit(self, target: Target, change: Any) -> Json:
        def edit(kept: Json) -> None:
            after = change(kept)
            kept.clear()
            kept.update(after)

        return self.node.store.change(target.resource.plural, target.place, str(target.name), edit)


def _wanted(query: Mapping[str, str]) -> Any:
    labels, fields = by_labels(query.get("labelSelector", "")), by_fields(query.get("fieldSelector", ""))
    return lambda each: labels(each) and fields(each)


def _watch_events(changes: Iterator[tuple[str, Json]]) -> Iterator[Json]:
    try:
        for what, changed in changes:
            yield {"type": what, "object": changed}
    except ApiError as error:
        yield {"type": "ERROR", "object": error.status()}


def _with_data(given: Json) -> Json:
    """Return an object whose ``stringData`` is part of its ``data``, as it is read back from a real cluster."""
    texts = given.get("stringData")
    if not texts:
        return given
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in texts.items()}
    kept = {key: value for key, value in given.items() if key != "stringData"}
    return {**kept, "data": {**(given.get("data") or {}), **encoded}}
