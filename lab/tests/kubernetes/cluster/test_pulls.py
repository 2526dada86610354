"""Images come from a real registry, or do not, and the pod says why."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import NAMESPACE, Cluster, container, pod, statuses, waiting_reason

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parents[4]
SMALL = subprocess.check_output([ROOT / "scripts/images", "names", "xcom"], text=True).strip()
USER, PASSWORD = "puller", "canary-of-a-pull"


def docker(*arguments: str, stdin: str | None = None) -> str:
    return subprocess.run(["docker", *arguments], input=stdin, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """The host of a registry that wants a login."""
    from datakit_lab.registry import Registry

    with Registry(users={USER: PASSWORD}) as running:
        yield running.host


@pytest.fixture
def image(registry: str) -> Iterator[str]:
    """An image that only the registry has, by digest."""
    name = f"{registry}/team/tool-{time.monotonic_ns()}:v1"
    docker("login", registry, "-u", USER, "--password-stdin", stdin=PASSWORD)
    try:
        docker("tag", SMALL, name)
        docker("push", "-q", name)
    finally:
        docker("logout", registry)
    digest = docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", name).strip()
    docker("rmi", name)
    yield digest
    subprocess.run(["docker", "rmi", digest], capture_output=True, check=False)


@pytest.fixture
def pull_secret(cluster: Cluster, registry: str) -> Iterator[str]:
    name = f"pull-{time.monotonic_ns()}"
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    config = json.dumps({"auths": {registry: {"auth": auth}}})
    cluster.v1.create_namespaced_secret(
        NAMESPACE,
        {
            "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64.b64encode(config.encode()).decode()},
        },
    )
    yield name
    cluster.v1.delete_namespaced_secret(name, NAMESPACE)


def run(cluster: Cluster, name: str, image: str, **spec: object) -> None:
    base = {**container(), "image": image}
    policy = spec.pop("imagePullPolicy", None)
    if policy:
        base["imagePullPolicy"] = policy
    cluster.v1.create_namespaced_pod(NAMESPACE, pod(name, base, **spec))


def end(cluster: Cluster, name: str) -> None:
    cluster.v1.delete_namespaced_pod(name, NAMESPACE)
    cluster.until_gone(name)


def test_a_pull_secret_opens_the_registry_and_only_for_pods_that_have_it(
    cluster: Cluster, image: str, pull_secret: str
) -> None:
    run(cluster, "with-login", image, imagePullSecrets=[{"name": pull_secret}])
    assert cluster.until_over("with-login").status.phase == "Succeeded"
    assert cluster.messages("with-login", "Pulled") == [f'Successfully pulled image "{image}"']
    run(cluster, "again", image, imagePullSecrets=[{"name": pull_secret}])
    assert cluster.until_over("again").status.phase == "Succeeded"
    assert cluster.messages("again", "Pulled") == [f'Container image "{image}" already present on machine']
    run(cluster, "without-login", image)
    cluster.until("without-login", lambda found: waiting_reason(found) == "ImagePullBackOff")
    end(cluster, "without-login")


def test_an_account_brings_its_pull_secrets(cluster: Cluster, image: str, pull_secret: str) -> None:
    account = {"metadata": {"name": pull_secret}, "imagePullSecrets": [{"name": pull_secret}]}
    cluster.v1.create_namespaced_service_account(NAMESPACE, account)
    run(cluster, "of-account", image, serviceAccountName=pull_secret)
    assert cluster.until_over("of-account").status.phase == "Succeeded"


def test_a_pull_secret_that_is_not_there_is_named_and_the_pull_goes_without(cluster: Cluster, image: str) -> None:
    run(cluster, "missing-secret", image, imagePullSecrets=[{"name": "absent"}])
    cluster.until("missing-secret", lambda found: waiting_reason(found) == "ErrImagePull")
    found = cluster.until("missing-secret", lambda found: waiting_reason(found) == "ImagePullBackOff")
    assert "no basic auth credentials" in statuses(found)[0].state.waiting.message
    (said,) = cluster.messages("missing-secret", "FailedToRetrieveImagePullSecret")
    assert "absent" in said
    assert {"Pulling", "Failed", "BackOff"} <= set(cluster.reasons("missing-secret"))
    end(cluster, "missing-secret")


def test_a_pod_starts_as_soon_as_its_image_can_be_pulled(cluster: Cluster, image: str, registry: str) -> None:
    run(cluster, "late-login", image, imagePullSecrets=[{"name": "late-login"}])
    cluster.until("late-login", lambda found: waiting_reason(found) == "ImagePullBackOff")
    config = {"auths": {registry: {"username": USER, "password": PASSWORD}}}
    cluster.v1.create_namespaced_secret(
        NAMESPACE, {"metadata": {"name": "late-login"}, "stringData": {".dockerconfigjson": json.dumps(config)}}
    )
    assert cluster.until_over("late-login").status.phase == "Succeeded"


def test_a_wrong_login_is_refused_with_the_registrys_words_and_not_shown(
    cluster: Cluster, image: str, registry: str
) -> None:
    config = {"auths": {registry: {"username": USER, "password": "canary-that-is-wrong"}}}
    cluster.v1.create_namespaced_secret(
        NAMESPACE, {"metadata": {"name": "wrong-login"}, "stringData": {".dockerconfigjson": json.dumps(config)}}
    )
    run(cluster, "wrong-login", image, imagePullSecrets=[{"name": "wrong-login"}])
    found = cluster.until("wrong-login", lambda found: waiting_reason(found) == "ImagePullBackOff")
    assert "unauthorized" in statuses(found)[0].state.waiting.message
    assert "canary" not in str(found) + " ".join(cluster.messages("wrong-login", "Failed"))
    end(cluster, "wrong-login")


def test_an_image_that_no_registry_has_is_named(cluster: Cluster, registry: str, pull_secret: str) -> None:
    from kubernetes.client import ApiException

    run(cluster, "unknown", f"{registry}/team/nothing:v1", imagePullSecrets=[{"name": pull_secret}])
    found = cluster.until("unknown", lambda found: waiting_reason(found) == "ImagePullBackOff")
    assert "manifest unknown" in statuses(found)[0].state.waiting.message
    with pytest.raises(ApiException, match="is waiting to start: trying and failing to pull image"):
        cluster.log("unknown")
    end(cluster, "unknown")


def test_never_pulling_means_never(cluster: Cluster, registry: str) -> None:
    run(cluster, "never", f"{registry}/team/nothing:v1", imagePullPolicy="Never")
    cluster.until("never", lambda found: waiting_reason(found) == "ErrImageNeverPull")
    end(cluster, "never")


def test_a_name_that_no_image_can_have_is_said_to_be_one(cluster: Cluster) -> None:
    run(cluster, "misnamed", "registry.test/Team/Tool:v1")
    cluster.until("misnamed", lambda found: waiting_reason(found) == "InvalidImageName")
    end(cluster, "misnamed")
