"""The objects of the double, in memory: what a real cluster keeps in etcd."""

from __future__ import annotations

import base64
import copy
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from datakit_lab.kubernetes._errors import ApiError, already_exists, not_found

Json = dict[str, Any]
Wanted = Callable[[Json], bool]

_REMEMBERED_CHANGES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object: ``pods`` in paths, ``Pod`` in the object itself."""

    plural: str
    kind: str
    namespaced: bool = True


RESOURCES: Final = {
    each.plural: each
    for each in (
        Resource("namespaces", "Namespace", namespaced=False),
        Resource("serviceaccounts", "ServiceAccount"),
        Resource("configmaps", "ConfigMap"),
        Resource("secrets", "Secret"),
        Resource("persistentvolumeclaims", "PersistentVolumeClaim"),
        Resource("events", "Event"),
        Resource("pods", "Pod"),
    )
}


@dataclass(frozen=True, slots=True)
class _Change:
    version: int
    what: str  # ADDED, MODIFIED, DELETED
    resource: str
    namespace: str
    object: Json


class Store:
    """Thread-safe; every object goes in and comes out as a copy, so that nobody changes it behind the store's back."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._objects: dict[tuple[str, str, str], Json] = {}
        self._version = 1
        self._changes: deque[_Change] = deque(maxlen=_REMEMBERED_CHANGES)

    def __repr__(self) -> str:
        return f"<Store of {len(self._objects)} objects>"  # some are secrets

    def create(self, resource: str, namespace: str, given: Json) -> Json:
        """Keep a new object, with its ``uid``, time and version, and return it.

        :raises ApiError: the name is taken.
        """
        created = copy.deepcopy(given)
        metadata = created.setdefault("metadata", {})
        name = metadata["name"]
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = timestamp()
        if namespace:
            metadata["namespace"] = namespace
        created.update(apiVersion="v1", kind=RESOURCES[resource].kind)
        with self._changed:
            if (resource, namespace, name) in self._objects:
                raise already_exists(resource, name)
            return self._keep("ADDED", resource, namespace, created)

    def get(self, resource: str, namespace: str, name: str) -> Json:
        """Return an object.

        :raises ApiError: there is none of that name.
        """
        with self._changed:
            return copy.deepcopy(self._find(resource, namespace, name))

    def has(self, resource: str, namespace: str, name: str) -> bool:
        """Whether there is an object of that name."""
        with self._changed:
            return (resource, namespace, name) in self._objects

    def select(self, resource: str, namespace: str | None, wanted: Wanted = lambda _: True) -> tuple[list[Json], int]:
        """Return the wanted objects of one namespace, or of all if None, and the version they are of."""
        with self._changed:
            found = [
                copy.deepcopy(kept)
                for (kind, place, _), kept in sorted(self._objects.items())
                if kind == resource and namespace in (None, place) and wanted(kept)
            ]
            return found, self._version

    def change(self, resource: str, namespace: str, name: str, edit: Callable[[Json], None]) -> Json:
        """Let ``edit`` change an object in place and return it; an edit that changes nothing makes no new version.

        :raises ApiError: there is none of that name.
        """
        with self._changed:
            before = self._find(resource, namespace, name)
            after = copy.deepcopy(before)
            edit(after)
            return copy.deepcopy(before) if after == before else self._keep("MODIFIED", resource, namespace, after)

    def remove(self, resource: str, namespace: str, name: str) -> Json:
        """Forget an object and return its last state.

        :raises ApiError: there is none of that name.
        """
        with self._changed:
            gone = self._find(resource, namespace, name)
            del self._objects[resource, namespace, name]
            self._note("DELETED", resource, namespace, gone)
            return copy.deepcopy(gone)

    def wait(self, seconds: float) -> None:
        """Return when anything changed, or after ``seconds``."""
        with self._changed:
            self._changed.wait(seconds)

    def watch(
        self, resource: str, namespace: str | None, since: int | None, seconds: float, wanted: Wanted
    ) -> Iterator[tuple[str, Json]]:
        """Yield what happens to the wanted objects from the version ``since`` on, for ``seconds``.

        Without a version it begins with what is there, each as ADDED, as the real API does.

        :raises ApiError: the version is older than what is remembered (410, Gone).
        """
        if since is None:
            present, since = self.select(resource, namespace, wanted)
            yield from (("ADDED", each) for each in present)
        deadline = time.monotonic() + seconds
        while True:
            with self._changed:
                if self._changes and self._changes[0].version > since + 1 and len(self._changes) == _REMEMBERED_CHANGES:
                    raise ApiError(HTTPStatus.GONE, "Expired", f"too old resource version: {since}")
                news = [each for each in self._changes if each.version > since]
                if not news and not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return
            for each in news:
                since = each.version
                if each.resource == resource and namespace in (None, each.namespace) and wanted(each.object):
                    yield each.what, copy.deepcopy(each.object)
            if time.monotonic() >= deadline:
                return

    def _find(self, resource: str, namespace: str, name: str) -> Json:
        try:
            return self._objects[resource, namespace, name]
        except KeyError:
            raise not_found(resource, name) from None

    def _keep(self, what: str, resource: str, namespace: str, kept: Json) -> Json:
        self._objects[resource, namespace, kept["metadata"]["name"]] = kept
        self._note(what, resource, namespace, kept)
        return copy.deepcopy(kept)

    def _note(self, what: str, resource: str, namespace: str, changed: Json) -> None:
        self._version += 1
        changed["metadata"]["resourceVersion"] = str(self._version)
        self._changes.append(_Change(self._version, what, resource, namespace, copy.deepcopy(changed)))
        self._changed.notify_all()


def object_data(found: Json) -> dict[str, bytes]:
    """Return the entries of a Secret or a ConfigMap."""
    if found["kind"] == "Secret":
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
    texts = {key: value.encode() for key, value in (found.get("data") or {}).items()}
    return texts | {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}


def timestamp(moment: datetime | None = None) -> str:
    """Return a moment, or the present, as the API writes it: in UTC, to the second."""
    return (moment or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
