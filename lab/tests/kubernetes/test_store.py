"""What the double keeps, how it changes, and who is told."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from datakit_lab.kubernetes._errors import ApiError
from datakit_lab.kubernetes._patches import only_metadata_changes, patched
from datakit_lab.kubernetes._store import Store

Json = dict[str, Any]


def everything(_: Json) -> bool:
    return True


def test_nobody_changes_an_object_behind_the_stores_back() -> None:
    store = Store()
    given = {"metadata": {"name": "a"}, "data": {"key": "one"}}
    store.create("configmaps", "data", given)
    given["data"]["key"] = "two"
    store.get("configmaps", "data", "a")["data"]["key"] = "three"
    store.select("configmaps", "data")[0][0]["data"]["key"] = "four"
    assert store.get("configmaps", "data", "a")["data"]["key"] == "one"


def test_a_store_of_secrets_shows_none() -> None:
    store = Store()
    store.create("secrets", "data", {"metadata": {"name": "a"}, "data": {"key": "Y2FuYXJ5"}})
    assert "Y2FuYXJ5" not in repr(store)


def test_a_name_is_taken_once_in_each_namespace() -> None:
    store = Store()
    for namespace in ("one", "two"):
        store.create("pods", namespace, {"metadata": {"name": "a"}})
    with pytest.raises(ApiError, match='pods "a" already exists'):
        store.create("pods", "one", {"metadata": {"name": "a"}})


def test_a_watch_goes_on_from_the_version_of_a_list() -> None:
    store = Store()
    store.create("pods", "data", {"metadata": {"name": "old"}})
    _, version = store.select("pods", "data")
    store.create("pods", "data", {"metadata": {"name": "new"}})
    store.create("secrets", "data", {"metadata": {"name": "other"}})
    store.change("pods", "data", "old", lambda pod: pod["metadata"].update(labels={"a": "b"}))
    store.change("pods", "data", "old", lambda pod: None)  # changes nothing
    store.remove("pods", "data", "new")
    seen = [(what, each["metadata"]["name"]) for what, each in store.watch("pods", "data", version, 0, everything)]
    assert seen == [("ADDED", "new"), ("MODIFIED", "old"), ("DELETED", "new")]


def test_a_watch_without_a_version_begins_with_what_is_there_and_hears_what_comes() -> None:
    store = Store()
    store.create("pods", "data", {"metadata": {"name": "there"}})
    later = threading.Timer(0.05, store.create, ["pods", "data", {"metadata": {"name": "comes"}}])
    later.start()
    changes = store.watch("pods", None, None, 30, everything)
    assert [next(changes)[1]["metadata"]["name"] for _ in range(2)] == ["there", "comes"]
    later.join()


def test_a_watch_from_a_version_that_is_forgotten_is_refused() -> None:
    store = Store()
    store.create("pods", "data", {"metadata": {"name": "a"}})
    for number in range(10_001):
        store.change("pods", "data", "a", lambda pod, number=number: pod.update(status={"number": number}))
    with pytest.raises(ApiError, match="too old resource version"):
        next(store.watch("pods", None, 2, 0, everything))


POD = {"metadata": {"name": "a", "labels": {"x": "1", "y": "2"}}, "spec": {"nodeName": "n"}, "status": {}}


@pytest.mark.parametrize("kind", ["application/merge-patch+json", "application/strategic-merge-patch+json; charset=u"])
def test_a_merge_patch_sets_and_removes(kind: str) -> None:
    after = patched(POD, kind, {"metadata": {"labels": {"x": None, "z": "3"}, "annotations": {"n": "1"}}})
    assert after["metadata"] == {"name": "a", "labels": {"y": "2", "z": "3"}, "annotations": {"n": "1"}}
    assert POD["metadata"]["labels"] == {"x": "1", "y": "2"}


def test_a_json_patch_adds_replaces_removes_and_tests() -> None:
    operations = [
        {"op": "test", "path": "/metadata/name", "value": "a"},
        {"op": "add", "path": "/metadata/labels/a~1b", "value": "3"},
        {"op": "replace", "path": "/metadata/labels/x", "value": "4"},
        {"op": "remove", "path": "/metadata/labels/y"},
    ]
    after = patched(POD, "application/json-patch+json", operations)
    assert after["metadata"]["labels"] == {"x": "4", "a/b": "3"}


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        ("application/json-patch+json", [{"op": "test", "path": "/metadata/name", "value": "b"}]),
        ("application/json-patch+json", [{"op": "remove", "path": "/metadata/labels/none"}]),
        ("application/json-patch+json", [{"op": "copy", "path": "/metadata/labels/none"}]),
        ("application/json-patch+json", {}),
        ("application/merge-patch+json", []),
        ("application/json", {}),
    ],
)
def test_a_patch_that_does_not_fit_is_refused(kind: str, patch: Any) -> None:
    with pytest.raises(ApiError) as caught:
        patched(POD, kind, patch)
    assert caught.value.code == 400


@pytest.mark.parametrize("change", [{"spec": {"nodeName": "other"}}, {"metadata": {"name": "b"}}])
def test_a_living_pods_substance_stays(change: Json) -> None:
    with pytest.raises(ApiError):
        only_metadata_changes("Pod", POD, patched(POD, "application/merge-patch+json", change))
