"""Pods live and end as on a real node."""

from __future__ import annotations

import subprocess
import time

import pytest

from .conftest import NAMESPACE, Cluster, container, pod, statuses, waiting_reason

pytestmark = pytest.mark.docker
MEMORY = {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
MOUNTED = {"name": "memory", "mountPath": "/memory"}


def sidecar(script: str, **more: object) -> dict[str, object]:
    return container(script, name="sidecar", restartPolicy="Always", volumeMounts=[MOUNTED], **more)


def test_a_pod_succeeds_with_its_container(cluster: Cluster) -> None:
    cluster.run("succeeds", "echo done")
    found = cluster.until_over("succeeds")
    assert found.status.phase == "Succeeded"
    ended = found.status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (0, "Completed")
    assert ended.started_at <= ended.finished_at
    assert cluster.log("succeeds") == "done\n"
    assert cluster.reasons("succeeds") == ["Scheduled", "Pulled", "Created", "Started"]


def test_a_pod_fails_with_the_exit_code_of_its_container(cluster: Cluster) -> None:
    cluster.run("fails", "echo oh no >&2; exit 78")
    found = cluster.until_over("fails")
    assert found.status.phase == "Failed"
    ended = found.status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (78, "Error")


def test_a_container_that_wants_too_much_memory_is_killed_for_that(cluster: Cluster) -> None:
    script = "python3 -c 'b = bytearray(200_000_000); b[::4096] = b[::4096]'"
    limits = {"limits": {"memory": "32Mi", "cpu": "7"}, "requests": {"memory": "16Mi", "cpu": "100m"}}
    cluster.v1.create_namespaced_pod(NAMESPACE, pod("greedy", container(script, resources=limits)))
    ended = cluster.until_over("greedy").status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")


def test_a_program_that_is_not_there_ends_the_pod_with_a_reason(cluster: Cluster) -> None:
    broken = {**container(), "command": ["/no/such/program"]}
    cluster.v1.create_namespaced_pod(NAMESPACE, pod("no-program", broken))
    found = cluster.until_over("no-program")
    ended = found.status.container_statuses[0].state.terminated
    assert found.status.phase == "Failed"
    assert (ended.exit_code, ended.reason) == (128, "StartError")
    assert "/no/such/program" in ended.message


def test_init_containers_run_one_after_the_other_and_share_memory(cluster: Cluster) -> None:
    first = container("sleep 0.3; echo first > /memory/order", name="first", volumeMounts=[MOUNTED])
    second = container("echo second >> /memory/order", name="second", volumeMounts=[MOUNTED])
    base = container("cat /memory/order; grep -c 'tmpfs /memory ' /proc/mounts", volumeMounts=[MOUNTED])
    given = pod("ordered", base, initContainers=[first, second], volumes=[MEMORY])
    cluster.v1.create_namespaced_pod(NAMESPACE, given)
    found = cluster.until_over("ordered")
    assert cluster.log("ordered", container="base") == "first\nsecond\n1\n"
    assert [each.ready for each in found.status.init_container_statuses] == [True, True]


def test_a_failing_init_container_ends_the_pod_before_the_others_begin(cluster: Cluster) -> None:
    given = pod("init-fails", container("echo never"), initContainers=[container("exit 3", name="first")])
    cluster.v1.create_namespaced_pod(NAMESPACE, given)
    found = cluster.until_over("init-fails")
    assert found.status.phase == "Failed"
    assert found.status.init_container_statuses[0].state.terminated.exit_code == 3
    assert waiting_reason(found) == "PodInitializing"


def test_a_pod_waits_for_its_sidecar_and_ends_with_its_container(cluster: Cluster) -> None:
    helper = sidecar(
        "trap 'echo bye; exit 0' TERM; sleep 0.5; echo > /memory/ready; while :; do sleep 0.05; done",
        startupProbe={"exec": {"command": ["test", "-e", "/memory/ready"]}, "periodSeconds": 1},
    )
    base = container("ls /memory", volumeMounts=[{**MOUNTED, "readOnly": True}])
    cluster.v1.create_namespaced_pod(NAMESPACE, pod("helped", base, initContainers=[helper], volumes=[MEMORY]))
    found = cluster.until_over("helped")
    assert found.status.phase == "Succeeded"
    assert cluster.log("helped", container="base") == "ready\n"
    assert cluster.log("helped", container="sidecar") == "bye\n"
    assert found.status.init_container_statuses[0].state.terminated.exit_code == 0


def test_a_pod_whose_sidecar_never_starts_stays_pending_and_says_why(cluster: Cluster) -> None:
    helper = sidecar(
        "sleep 60", startupProbe={"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2}
    )
    given = pod("unready", container(), initContainers=[helper], volumes=[MEMORY], terminationGracePeriodSeconds=0)
    cluster.v1.create_namespaced_pod(NAMESPACE, given)
    cluster.until(
        "unready", lambda found: any(each.restart_count for each in found.status.init_container_statuses or [])
    )
    assert cluster.pod("unready").status.phase == "Pending"
    assert any("Startup probe failed" in said for said in cluster.messages("unready", "Unhealthy"))
    assert cluster.messages("unready", "Killing") == ["Container sidecar failed startup probe, will be restarted"]
    cluster.v1.delete_namespaced_pod("unready", NAMESPACE, grace_period_seconds=0)
    cluster.until_gone("unready")


def test_a_sidecar_that_dies_is_started_again_while_the_others_go_on(cluster: Cluster) -> None:
    helper = sidecar(
        "trap 'exit 0' TERM; test -e /memory/again && while :; do sleep 0.05; done; echo > /memory/again; exit 7"
    )
    base = container("sleep 3", volumeMounts=[MOUNTED])
    cluster.v1.create_namespaced_pod(NAMESPACE, pod("revived", base, initContainers=[helper], volumes=[MEMORY]))
    found = cluster.until_over("revived")
    status = found.status.init_container_statuses[0]
    assert found.status.phase == "Succeeded"
    assert status.restart_count == 1
    assert status.last_state.terminated.exit_code == 7


def test_a_container_restarts_until_it_succeeds_where_the_pod_says_so(cluster: Cluster) -> None:
    script = "test -e /memory/again || { echo > /memory/again; echo first; exit 1; }; echo second"
    given = pod("stubborn", container(script, volumeMounts=[MOUNTED]), volumes=[MEMORY], restartPolicy="OnFailure")
    cluster.v1.create_namespaced_pod(NAMESPACE, given)
    found = cluster.until_over("stubborn")
    assert found.status.phase == "Succeeded"
    assert found.status.container_statuses[0].restart_count == 1
    assert cluster.log("stubborn") == "second\n"
    assert cluster.log("stubborn", previous=True) == "first\n"


def test_a_sidecar_that_ignores_the_end_costs_the_grace(cluster: Cluster) -> None:
    helper = sidecar("trap '' TERM; while :; do sleep 0.1; done")
    given = pod("stuck", container(), initContainers=[helper], volumes=[MEMORY], terminationGracePeriodSeconds=2)
    cluster.v1.create_namespaced_pod(NAMESPACE, given)
    base_ended = cluster.until("stuck", lambda found: any(each.state.terminated for each in statuses(found)))
    began = time.monotonic()
    assert base_ended.status.phase == "Running"
    assert cluster.until_over("stuck").status.phase == "Succeeded"
    assert time.monotonic() - began > 1


def test_a_deleted_pod_gets_its_grace_and_leaves_nothing(cluster: Cluster) -> None:
    cluster.run("deleted", "trap 'sleep 0.3; exit 0' TERM; echo up; while :; do sleep 0.05; done", volumes=[MEMORY])
    found = cluster.until_phase("deleted", "Running")
    marked = cluster.v1.delete_namespaced_pod("deleted", NAMESPACE, grace_period_seconds=20)
    assert marked.metadata.deletion_grace_period_seconds == 20
    cluster.until_gone("deleted", seconds=15)
    label = f"label=io.kubernetes.pod.uid={found.metadata.uid}"
    for listed in (["docker", "ps", "-aq"], ["docker", "volume", "ls", "-q"]):
        assert subprocess.run([*listed, "--filter", label], capture_output=True, text=True, check=True).stdout == ""


def test_a_pod_that_ignores_its_end_is_killed_after_the_grace(cluster: Cluster) -> None:
    cluster.run("ignores", "trap '' TERM; while :; do sleep 0.1; done")
    cluster.until_phase("ignores", "Running")
    cluster.v1.delete_namespaced_pod("ignores", NAMESPACE, grace_period_seconds=1)
    cluster.until_gone("ignores", seconds=20)


def test_a_pod_that_takes_too_long_is_ended_with_a_reason(cluster: Cluster) -> None:
    cluster.run("too-long", "sleep 60", activeDeadlineSeconds=1, terminationGracePeriodSeconds=1)
    found = cluster.until_over("too-long")
    assert (found.status.phase, found.status.reason) == ("Failed", "DeadlineExceeded")


def test_a_liveness_probe_ends_what_hangs(cluster: Cluster) -> None:
    probe = {"exec": {"command": ["test", "!", "-e", "/tmp/hangs"]}, "periodSeconds": 1, "failureThreshold": 1}
    given = pod(
        "hangs",
        container("touch /tmp/hangs; sleep 60", livenessProbe=probe),
        terminationGracePeriodSeconds=0,
    )
    cluster.v1.create_namespaced_pod(NAMESPACE, given)
    assert cluster.until_over("hangs").status.container_statuses[0].state.terminated.exit_code == 137


def test_a_readiness_probe_over_http_decides_who_is_ready(cluster: Cluster) -> None:
    from datakit_lab.network import free_port

    port = free_port()
    probe = {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1}
    served = container(
        f"sleep 1; exec python3 -m http.server --bind 127.0.0.1 {port}",
        readinessProbe=probe,
        ports=[{"name": "web", "containerPort": port}],
    )
    cluster.v1.create_namespaced_pod(NAMESPACE, pod("served", served))
    found = cluster.until_phase("served", "Running")
    assert found.status.container_statuses[0].ready is False
    found = cluster.until("served", lambda found: all(each.ready for each in statuses(found)))
    assert {each.type: each.status for each in found.status.conditions}["Ready"] == "True"
    cluster.v1.delete_namespaced_pod("served", NAMESPACE, grace_period_seconds=0)


def test_the_last_words_of_a_failure_are_its_message_where_asked_for(cluster: Cluster) -> None:
    spoken = container("echo the reason; exit 1", terminationMessagePolicy="FallbackToLogsOnError")
    cluster.v1.create_namespaced_pod(NAMESPACE, pod("spoken", spoken))
    assert cluster.until_over("spoken").status.container_statuses[0].state.terminated.message == "the reason\n"
