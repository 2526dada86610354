"""What a container is given: volumes, users, limits, an environment."""

from __future__ import annotations

import json
import platform
import re
import time
from typing import Any

import pytest

from .conftest import NAMESPACE, Cluster, container, pod, waiting_reason

pytestmark = pytest.mark.docker
HARDENED = {
    "runAsUser": 10002,
    "runAsGroup": 10000,
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def output(cluster: Cluster, name: str, script: str, *, spec: dict | None = None, **more: object) -> str:
    """Run a script in a pod and return what it wrote."""
    cluster.v1.create_namespaced_pod(NAMESPACE, pod(name, container(script, **more), **(spec or {})))
    found = cluster.until_over(name)
    written = cluster.log(name)
    assert found.status.phase == "Succeeded", written
    return written


def test_a_hardened_container_can_do_no_more_than_it_says(cluster: Cluster) -> None:
    script = "id -u; id -g; touch /x 2>&1; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status"
    written = output(cluster, "hardened", script, securityContext=HARDENED)
    assert written.split("\n")[:2] == ["10002", "10000"]
    assert "Read-only file system" in written
    assert "CapEff:\t0000000000000000" in written
    assert "NoNewPrivs:\t1" in written
    assert "Seccomp:\t2" in written


def test_without_a_word_about_it_nothing_is_confined(cluster: Cluster) -> None:
    assert "Seccomp:\t0" in output(cluster, "unconfined", "grep ^Seccomp: /proc/self/status")


def test_a_pod_that_must_not_be_root_and_would_be_waits_with_the_reason(cluster: Cluster) -> None:
    cluster.run("root", securityContext={"runAsNonRoot": True})
    found = cluster.until("root", lambda found: waiting_reason(found) == "CreateContainerConfigError")
    assert "image will run as root" in found.status.container_statuses[0].state.waiting.message
    assert any("image will run as root" in said for said in cluster.messages("root", "Failed"))
    cluster.v1.delete_namespaced_pod("root", NAMESPACE)
    cluster.until_gone("root")


def test_a_memory_volume_keeps_its_size_and_its_group(cluster: Cluster) -> None:
    script = "stat -c '%a %g' /m; head -c 2000000 /dev/zero > /m/x || echo full; grep 'tmpfs /m ' /proc/mounts"
    spec = {
        "securityContext": {"fsGroup": 10000},
        "volumes": [{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
    }
    mounts = [{"name": "m", "mountPath": "/m"}]
    written = output(cluster, "sized", script, spec=spec, volumeMounts=mounts, securityContext=HARDENED)
    assert written.startswith("2777 10000\n")
    assert "full" in written
    assert "tmpfs" in written
    if [int(part) for part in re.findall(r"\d+", platform.release())[:2]] >= [6, 4]:
        assert "noswap" in written


def test_a_plain_volume_is_everybodys(cluster: Cluster) -> None:
    spec = {"volumes": [{"name": "plain", "emptyDir": {}}]}
    mounts = [{"name": "plain", "mountPath": "/plain"}]
    script = "echo mine > /plain/x; stat -c '%a' /plain; grep -c 'tmpfs /plain ' /proc/mounts || true"
    written = output(cluster, "plain", script, spec=spec, volumeMounts=mounts, securityContext=HARDENED)
    assert written == "777\n0\n"


def test_secrets_and_configurations_are_files_in_memory_that_nobody_writes(cluster: Cluster) -> None:
    cluster.double.create(
        "secrets",
        {"metadata": {"name": "bootstrap"}, "stringData": {"username": "svc", "password": "canary"}},
        namespace=NAMESPACE,
    )
    cluster.double.create(
        "configmaps", {"metadata": {"name": "settings"}, "data": {"sidecar.yaml": "a: 1\n"}}, namespace=NAMESPACE
    )
    spec = {
        "volumes": [
            {"name": "secret", "secret": {"secretName": "bootstrap", "defaultMode": 0o440}},
            {"name": "config", "configMap": {"name": "settings", "items": [{"key": "sidecar.yaml", "path": "a/b"}]}},
        ],
        "securityContext": {"fsGroup": 10000},
    }
    mounts = [{"name": "secret", "mountPath": "/s"}, {"name": "config", "mountPath": "/c"}]
    script = (
        "cat /s/password; echo; stat -L -c '%a %g' /s/password; readlink /s/password; cat /c/a/b;"
        " touch /s/x 2>&1 | grep -o 'Read-only'; grep -c 'tmpfs /[sc] ' /proc/mounts"
    )
    written = output(cluster, "mounted", script, spec=spec, volumeMounts=mounts, securityContext=HARDENED)
    assert written.splitlines() == ["canary", "440 10000", "..data/password", "a: 1", "Read-only", "2"]


def test_a_pod_waits_for_a_secret_that_is_not_there_yet(cluster: Cluster) -> None:
    spec = {"volumes": [{"name": "late", "secret": {"secretName": "late"}}]}
    base = container("cat /s/key", volumeMounts=[{"name": "late", "mountPath": "/s"}])
    cluster.v1.create_namespaced_pod(NAMESPACE, pod("patient", base, **spec))
    deadline = time.monotonic() + 30
    while "FailedMount" not in cluster.reasons("patient"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    said = 'MountVolume.SetUp failed for volume "late" : secret "late" not found'
    assert cluster.messages("patient", "FailedMount") == [said]
    assert cluster.pod("patient").status.phase == "Pending"
    cluster.v1.create_namespaced_secret(NAMESPACE, {"metadata": {"name": "late"}, "stringData": {"key": "found"}})
    assert cluster.until_over("patient").status.phase == "Succeeded"
    assert cluster.log("patient") == "found"


def test_a_pod_for_a_claim_that_is_not_there_is_not_scheduled(cluster: Cluster) -> None:
    cluster.run("claims", volumes=[{"name": "disk", "persistentVolumeClaim": {"claimName": "big"}}])
    found = cluster.until("claims", lambda found: (found.status.conditions or [None])[0] is not None)
    assert (found.status.conditions[0].type, found.status.conditions[0].status) == ("PodScheduled", "False")
    assert any('"big" not found' in said for said in cluster.messages("claims", "FailedScheduling"))
    cluster.v1.delete_namespaced_pod("claims", NAMESPACE)
    cluster.until_gone("claims")


def claim(name: str, **spec: Any) -> dict[str, Any]:
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **spec}
    return {"metadata": {"name": name}, "spec": wanted}


def test_what_is_written_to_a_claim_outlives_the_pod_and_nobody_needs_root_for_it(cluster: Cluster) -> None:
    made = cluster.v1.create_namespaced_persistent_volume_claim(NAMESPACE, claim("kept"))
    assert (made.status.phase, made.status.capacity) == ("Bound", {"storage": "1Gi"})
    used: dict[str, Any] = {"claimName": "kept"}
    spec = {"volumes": [{"name": "disk", "persistentVolumeClaim": used}]}
    mounts = [{"name": "disk", "mountPath": "/data"}]
    more = {"spec": spec, "volumeMounts": mounts, "securityContext": HARDENED}
    output(cluster, "writer", "echo rows > /data/file", **more)
    cluster.v1.delete_namespaced_pod("writer", NAMESPACE)
    cluster.until_gone("writer")
    assert output(cluster, "reader", "cat /data/file", **more) == "rows\n"
    folder = cluster.double.claim_folder("kept", namespace=NAMESPACE)
    assert (folder / "file").read_text() == "rows\n"
    used["readOnly"] = True
    said = output(cluster, "looker", "echo more > /data/file || echo refused", **more)
    assert "refused" in said
    for name in ("reader", "looker"):
        cluster.v1.delete_namespaced_pod(name, NAMESPACE)
        cluster.until_gone(name)
    cluster.v1.delete_namespaced_persistent_volume_claim("kept", NAMESPACE)
    assert not folder.exists()


def test_a_pod_waits_for_its_claim(cluster: Cluster) -> None:
    spec = {"volumes": [{"name": "disk", "persistentVolumeClaim": {"claimName": "soon"}}]}
    base = container("touch /data/file", volumeMounts=[{"name": "disk", "mountPath": "/data"}])
    cluster.v1.create_namespaced_pod(NAMESPACE, pod("claimant", base, **spec))
    cluster.until("claimant", lambda found: any(each.status == "False" for each in found.status.conditions or []))
    cluster.v1.create_namespaced_persistent_volume_claim(NAMESPACE, claim("soon"))
    assert cluster.until_over("claimant").status.phase == "Succeeded"


@pytest.mark.parametrize(
    ("spec", "code", "said"),
    [
        ({"accessModes": []}, 422, "spec.accessModes: Required value"),
        ({"accessModes": ["ReadWriteTwice"]}, 422, 'spec.accessModes: Unsupported value: "ReadWriteTwice"'),
        ({"accessModes": ["ReadWriteOncePod"]}, 501, "does not model the access mode ReadWriteOncePod"),
        ({"resources": {}}, 422, "spec.resources[storage]: Required value"),
        ({"resources": {"requests": {"storage": "much"}}}, 422, 'Invalid value: "much"'),
        ({"volumeName": "mine"}, 501, "does not model volumeName of a claim"),
    ],
)
def test_a_claim_that_does_not_fit_is_refused(cluster: Cluster, spec: dict[str, Any], code: int, said: str) -> None:
    from kubernetes.client import ApiException

    with pytest.raises(ApiException) as caught:
        cluster.v1.create_namespaced_persistent_volume_claim(NAMESPACE, claim("wrong", **spec))
    assert caught.value.status == code
    assert said in json.loads(caught.value.body)["message"]


def test_a_claim_is_made_once_and_not_taken_from_a_pod(cluster: Cluster) -> None:
    from kubernetes.client import ApiException

    cluster.v1.create_namespaced_persistent_volume_claim(NAMESPACE, claim("used"))
    with pytest.raises(ApiException, match="already exists"):
        cluster.v1.create_namespaced_persistent_volume_claim(NAMESPACE, claim("used"))
    cluster.run("user", volumes=[{"name": "disk", "persistentVolumeClaim": {"claimName": "used"}}])
    with pytest.raises(ApiException, match="deleting a claim that a pod has"):
        cluster.v1.delete_namespaced_persistent_volume_claim("used", NAMESPACE)
    assert cluster.double.claim_folder("used", namespace=NAMESPACE).is_dir()
    cluster.v1.delete_namespaced_pod("user", NAMESPACE)


def test_the_accounts_token_is_mounted_unless_it_is_declined(cluster: Cluster) -> None:
    script = "ls /var/run/secrets/kubernetes.io/serviceaccount 2>/dev/null || echo none"
    assert output(cluster, "token", script).split() == ["ca.crt", "namespace", "token"]
    assert output(cluster, "tokenless", script, spec={"automountServiceAccountToken": False}) == "none\n"


def test_the_environment_comes_from_values_fields_secrets_and_configurations(cluster: Cluster) -> None:
    cluster.double.create(
        "secrets", {"metadata": {"name": "env-secret"}, "stringData": {"key": "hidden"}}, namespace=NAMESPACE
    )
    cluster.double.create(
        "configmaps", {"metadata": {"name": "env-config"}, "data": {"COLOUR": "blue"}}, namespace=NAMESPACE
    )
    given = pod(
        "environment",
        container(
            'echo "$NAME $KEY $MY_COLOUR $BOTH $LIMIT [$NOTHING]"',
            env=[
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['team']"}}},
                {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "env-secret", "key": "key"}}},
                {"name": "BOTH", "value": "$(NAME)-$(KEY)-$(UNKNOWN)-$$(NAME)"},
                {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                {"name": "NOTHING", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k", "optional": True}}},
            ],
            envFrom=[{"prefix": "MY_", "configMapRef": {"name": "env-config"}}],
            resources={"limits": {"memory": "64Mi"}},
        ),
    )
    given["metadata"]["labels"] = {"team": "finance"}
    cluster.v1.create_namespaced_pod(NAMESPACE, given)
    cluster.until_over("environment")
    assert cluster.log("environment") == "finance hidden blue finance-hidden-$(UNKNOWN)-$(NAME) 67108864 []\n"


def test_a_missing_key_keeps_the_container_waiting_with_the_reason(cluster: Cluster) -> None:
    variable = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "nowhere", "key": "key"}}}
    cluster.v1.create_namespaced_pod(NAMESPACE, pod("keyless", container(env=[variable])))
    found = cluster.until("keyless", lambda found: waiting_reason(found) == "CreateContainerConfigError")
    assert found.status.container_statuses[0].state.waiting.message == 'secret "nowhere" not found'
    cluster.v1.delete_namespaced_pod("keyless", NAMESPACE)
    cluster.until_gone("keyless")
