"""The API says what the real one says, also when it says no."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from datakit_lab.kubernetes import KubernetesDouble

from .conftest import IMAGE, NAMESPACE, Cluster, container, pod

pytestmark = pytest.mark.docker


def refused(cluster: Cluster, given: Any, namespace: str = NAMESPACE) -> tuple[int, str, str]:
    """Create a pod that is refused and return status, reason and message."""
    from kubernetes.client import ApiException

    with pytest.raises(ApiException) as caught:
        cluster.v1.create_namespaced_pod(namespace, given)
    body = json.loads(caught.value.body)
    assert (body["kind"], body["status"], body["code"]) == ("Status", "Failure", caught.value.status)
    return caught.value.status, body["reason"], body["message"]


def test_a_pod_in_a_namespace_that_is_not_there_is_refused(cluster: Cluster) -> None:
    assert refused(cluster, pod("lost", container()), "nowhere") == (404, "NotFound", 'namespaces "nowhere" not found')


def test_a_pod_of_an_account_that_is_not_there_is_refused(cluster: Cluster) -> None:
    said = 'pods "lost" is forbidden: error looking up service account data/nobody: serviceaccount "nobody" not found'
    assert refused(cluster, pod("lost", container(), serviceAccountName="nobody")) == (403, "Forbidden", said)


def test_a_name_is_taken_once(cluster: Cluster) -> None:
    cluster.run("once")
    assert refused(cluster, pod("once", container())) == (409, "AlreadyExists", 'pods "once" already exists')


def test_a_pod_that_does_not_fit_is_refused_with_every_cause(cluster: Cluster) -> None:
    broken = pod("Broken", {"name": "base"}, container(volumeMounts=[{"name": "no", "mountPath": "/x"}]))
    code, reason, message = refused(cluster, broken)
    assert (code, reason) == (422, "Invalid")
    for said in (
        'metadata.name: Invalid value: "Broken"',
        "spec.containers[0].image: Required value",
        'spec.containers[1].name: Duplicate value: "base"',
        'spec.containers[1].volumeMounts[0].name: Not found: "no"',
    ):
        assert said in message


def test_a_field_that_no_pod_has_is_refused(cluster: Cluster) -> None:
    code, _, message = refused(cluster, pod("odd", container(), restartPolice="Never"))
    assert code == 400
    assert "restartPolice" in message


def test_what_the_double_cannot_do_is_refused_and_never_ignored(cluster: Cluster) -> None:
    code, _, message = refused(cluster, pod("shared", container(), shareProcessNamespace=True))
    assert code == 501
    assert "does not model spec.shareProcessNamespace" in message


def test_who_has_no_token_is_not_let_in(cluster: Cluster) -> None:
    from kubernetes import client, config

    stranger = client.Configuration()
    config.load_kube_config(str(cluster.double.kubeconfig), client_configuration=stranger)
    stranger.refresh_api_key_hook = None  # it would read the right one again
    stranger.api_key = {"authorization": "Bearer wrong"}
    with client.ApiClient(stranger) as api, pytest.raises(client.ApiException) as caught:
        client.CoreV1Api(api).list_namespaced_pod(NAMESPACE)
    assert (caught.value.status, caught.value.reason) == (401, "Unauthorized")


def test_what_was_forbidden_is_refused_until_it_is_permitted(cluster: Cluster) -> None:
    cluster.double.forbid("create", "pods")
    try:
        code, reason, message = refused(cluster, pod("denied", container()))
    finally:
        cluster.double.permit_all()
    assert (code, reason) == (403, "Forbidden")
    assert 'cannot create resource "pods" in API group "" in the namespace "data"' in message


def test_labels_are_changed_and_the_rest_of_a_pod_is_not(cluster: Cluster) -> None:
    from kubernetes.client import ApiException

    cluster.run("labelled")
    patch = {"metadata": {"labels": {"already_checked": "True"}, "annotations": {"note": "x"}}}
    found = cluster.v1.patch_namespaced_pod("labelled", NAMESPACE, patch)
    assert found.metadata.labels == {"already_checked": "True"}
    found = cluster.v1.patch_namespaced_pod("labelled", NAMESPACE, {"metadata": {"labels": {"already_checked": None}}})
    assert found.metadata.labels is None or found.metadata.labels == {}
    assert found.metadata.annotations == {"note": "x"}
    with pytest.raises(ApiException, match="pod updates may not change fields"):
        cluster.v1.patch_namespaced_pod("labelled", NAMESPACE, {"spec": {"nodeName": "other"}})


def test_pods_are_found_by_labels_and_fields(cluster: Cluster) -> None:
    for number in range(3):
        given = pod(f"chosen-{number}", container())
        given["metadata"]["labels"] = {"set": "chosen", "number": str(number)}
        cluster.v1.create_namespaced_pod(NAMESPACE, given)

    def names(**query: str) -> list[str]:
        return [each.metadata.name for each in cluster.v1.list_namespaced_pod(NAMESPACE, **query).items]

    assert names(label_selector="set=chosen,number!=1") == ["chosen-0", "chosen-2"]
    assert names(label_selector="set,number in (1, 2)", field_selector="metadata.name!=chosen-2") == ["chosen-1"]
    assert len(cluster.v1.list_pod_for_all_namespaces(label_selector="set=chosen").items) == 3


def test_a_watch_tells_a_pods_whole_life(cluster: Cluster) -> None:
    from kubernetes import watch

    seen: list[tuple[str, str]] = []

    def look() -> None:
        selector = "metadata.name=watched"
        for each in watch.Watch().stream(
            cluster.v1.list_namespaced_pod, NAMESPACE, field_selector=selector, timeout_seconds=30
        ):
            seen.append((each["type"], each["object"].status.phase))
            if each["type"] == "DELETED":
                return

    looking = threading.Thread(target=look)
    looking.start()
    cluster.run("watched")
    cluster.until_over("watched")
    cluster.v1.delete_namespaced_pod("watched", NAMESPACE)
    looking.join(30)
    assert seen[0] == ("ADDED", "Pending")
    assert seen[-1] == ("DELETED", "Succeeded")
    assert ("MODIFIED", "Succeeded") in seen


def test_a_kubeconfig_is_for_its_owner_and_a_double_leaves_nothing(double: KubernetesDouble) -> None:
    assert double.kubeconfig.stat().st_mode & 0o777 == 0o600
    with KubernetesDouble() as other:
        inside = Cluster(other)
        inside.v1.create_namespaced_pod("default", pod("left", container("sleep 60")))
        kept = other.kubeconfig
    assert other.pods() == []
    assert not kept.exists()


def test_the_example_of_the_documentation_runs() -> None:
    page = (Path(__file__).parents[4] / "docs" / "lab.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (example,) = [each for each in examples if "KubernetesDouble" in each]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("kubeconfig")


def test_what_a_killed_double_left_is_removed_by_the_next_one() -> None:
    script = """
import os, signal, sys
from datakit_lab.kubernetes import KubernetesDouble
with KubernetesDouble() as double:
    pod = {"name": "base", "image": sys.argv[1], "command": ["sleep", "600"]}
    double.create("pods", {"metadata": {"name": "orphan"}, "spec": {"containers": [pod]}})
    while double.pods()[0]["status"]["phase"] != "Running":
        pass
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script, IMAGE], check=False)

    def orphans() -> str:
        command = ["docker", "ps", "-aq", "--filter", "label=io.kubernetes.pod.name=orphan"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert orphans() != ""
    with KubernetesDouble():
        assert orphans() == ""
