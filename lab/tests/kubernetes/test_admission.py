"""What the API server's side makes of a pod before a node sees it, and what the node asks the engine for."""

from __future__ import annotations

from typing import Any

import pytest
from datakit_lab.kubernetes._admission import admit
from datakit_lab.kubernetes._errors import ApiError
from datakit_lab.kubernetes._images import registry_of
from datakit_lab.kubernetes._rendering import ConfigError, container_body
from datakit_lab.kubernetes._store import Store

Json = dict[str, Any]
IMAGE = {"Id": "sha256:1", "Config": {"User": "", "Env": ["HOME=/root"]}}


@pytest.fixture
def store() -> Store:
    made = Store()
    made.create("namespaces", "", {"metadata": {"name": "data"}})
    made.create("serviceaccounts", "data", {"metadata": {"name": "default"}})
    return made


def pod(*containers: Json, **spec: Any) -> Json:
    return {"metadata": {"name": "a"}, "spec": {"containers": list(containers), **spec}}


def test_a_pod_gets_the_defaults_of_the_api_server(store: Store) -> None:
    limited = {"name": "base", "image": "team/tool", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}
    admitted = admit(pod(limited, automountServiceAccountToken=False), "data", store)
    spec, container = admitted["spec"], admitted["spec"]["containers"][0]
    assert (spec["restartPolicy"], spec["terminationGracePeriodSeconds"]) == ("Always", 30)
    assert spec["serviceAccountName"] == "default"
    assert container["imagePullPolicy"] == "Always"
    assert container["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert admitted["status"] == {"phase": "Pending", "qosClass": "Guaranteed"}
    assert "volumes" not in spec


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("team/tool:v1", "IfNotPresent"),
        ("team/tool:latest", "Always"),
        ("localhost:5000/tool", "Always"),
        ("localhost:5000/tool@sha256:0f", "IfNotPresent"),
    ],
)
def test_only_a_name_that_may_move_is_pulled_always(store: Store, image: str, policy: str) -> None:
    admitted = admit(pod({"name": "base", "image": image}), "data", store)
    assert admitted["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_a_name_may_be_made_up(store: Store) -> None:
    given = pod({"name": "base", "image": "x"})
    given["metadata"] = {"generateName": "task-"}
    assert admit(given, "data", store)["metadata"]["name"].startswith("task-")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metadata": {"name": "a", "labels": {"dag": "über"}}}, "a valid label must be"),
        ({"metadata": {"name": "a", "labels": {"dag": "x" * 64}}}, "must be no more than 63 bytes"),
        ({"metadata": {"name": "a", "labels": {"-dag": "x"}}}, "name part must consist of"),
        ({"metadata": {"name": "a_b"}}, "a lowercase RFC 1123 subdomain"),
        ({"spec": {"containers": []}}, "spec.containers: Required value"),
        ({"spec": {"containers": [{"name": "b", "image": "x", "restartPolicy": "Always"}]}}, "only a native sidecar"),
        (
            {"spec": {"containers": [{"name": "b", "image": "x", "resources": {"limits": {"memory": "1GB"}}}]}},
            "quantities must match",
        ),
        (
            {
                "spec": {
                    "containers": [
                        {
                            "name": "b",
                            "image": "x",
                            "resources": {"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}},
                        }
                    ]
                }
            },
            "must be less than or equal to memory limit",
        ),
        (
            {
                "spec": {
                    "containers": [{"name": "b", "image": "x"}],
                    "initContainers": [{"name": "i", "image": "x", "startupProbe": {"exec": {"command": ["true"]}}}],
                }
            },
            "may not be set for init containers without restartPolicy=Always",
        ),
    ],
)
def test_what_does_not_fit_is_said(store: Store, change: Json, said: str) -> None:
    with pytest.raises(ApiError) as caught:
        admit({**pod({"name": "base", "image": "x"}), **change}, "data", store)
    assert caught.value.code == 422
    assert said in caught.value.message


@pytest.mark.parametrize(
    "spec",
    [
        {"hostPID": True},
        {"ephemeralContainers": [{"name": "debug"}]},
        {"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]},
        {
            "volumes": [
                {"name": "v", "downwardAPI": {"items": [{"path": "cpu", "resourceFieldRef": {"resource": "cpu"}}]}}
            ]
        },
    ],
)
def test_what_is_not_modelled_is_refused(store: Store, spec: Json) -> None:
    with pytest.raises(ApiError) as caught:
        admit(pod({"name": "base", "image": "x"}, **spec), "data", store)
    assert caught.value.code == 501


def body(store: Store, container: Json, image: Json = IMAGE, **spec: Any) -> Json:
    admitted = admit(pod({"name": "base", "image": "x", **container}, **spec), "data", store)
    return container_body(admitted, admitted["spec"]["containers"][0], image, [], store, "host")


def test_limits_are_in_the_engines_units(store: Store) -> None:
    resources = {"limits": {"cpu": "1500m", "memory": "1Gi"}, "requests": {"cpu": "250m"}}
    host = body(store, {"resources": resources})["HostConfig"]
    assert (host["CpuQuota"], host["CpuPeriod"], host["CpuShares"]) == (150_000, 100_000, 256)
    assert host["Memory"] == host["MemorySwap"] == 1024**3


def test_command_and_arguments_know_the_environment(store: Store) -> None:
    made = body(
        store,
        {"command": ["tool", "$(HOME)"], "args": ["$(NAME)", "$$(NAME)"], "env": [{"name": "NAME", "value": "n"}]},
    )
    assert (made["Entrypoint"], made["Cmd"]) == (["tool", "/root"], ["n", "$(NAME)"])


def test_a_command_alone_drops_the_images_arguments(store: Store) -> None:
    assert body(store, {"command": ["tool"]})["Cmd"] == []
    assert "Entrypoint" not in body(store, {"args": ["x"]})


@pytest.mark.parametrize(
    ("user", "security", "expected"),
    [
        ("", {}, None),
        ("10002:10000", {"runAsNonRoot": True}, None),
        ("app", {"runAsUser": 7, "runAsGroup": 8, "runAsNonRoot": True}, "7:8"),
        ("app", {"runAsGroup": 8}, "app:8"),
        ("", {"runAsUser": 7}, "7:0"),
    ],
)
def test_a_container_runs_as_who_it_should(store: Store, user: str, security: Json, expected: str | None) -> None:
    image = {"Id": "sha256:1", "Config": {"User": user}}
    assert body(store, {"securityContext": security}, image).get("User") == expected


@pytest.mark.parametrize(
    ("user", "security", "said"),
    [
        ("", {}, "image will run as root"),
        ("root", {}, "image will run as root"),
        ("app", {}, "image has non-numeric user (app)"),
        ("7", {"runAsUser": 0}, "runAsUser breaks non-root policy"),
    ],
)
def test_who_must_not_be_root_is_not(store: Store, user: str, security: Json, said: str) -> None:
    image = {"Id": "sha256:1", "Config": {"User": user}}
    with pytest.raises(ConfigError, match=said.replace("(", r"\(").replace(")", r"\)")):
        body(store, {"securityContext": {"runAsNonRoot": True, **security}}, image)


def test_a_field_that_a_pod_has_not_is_no_variable(store: Store) -> None:
    variable = {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.secret"}}}
    with pytest.raises(ConfigError, match="field label not supported"):
        body(store, {"env": [variable]})


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("debian", "docker.io"),
        ("team/tool:v1", "docker.io"),
        ("localhost/tool", "localhost"),
        ("127.0.0.1:5000/a/b@sha256:0f", "127.0.0.1:5000"),
        ("registry.corp.example/data/x:v1", "registry.corp.example"),
    ],
)
def test_an_images_name_says_its_registry(image: str, registry: str) -> None:
    assert registry_of(image) == registry
