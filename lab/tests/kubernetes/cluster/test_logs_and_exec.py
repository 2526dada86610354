"""Logs and commands in containers, as Kubernetes' own client asks for them."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest

from .conftest import NAMESPACE, Cluster, container, pod

pytestmark = pytest.mark.docker


@pytest.fixture
def shell(cluster: Cluster) -> str:
    """A pod that does nothing until it is told to."""
    name = f"shell-{time.monotonic_ns()}"
    cluster.run(name, "trap 'exit 0' TERM; while :; do sleep 0.05; done")
    cluster.until_phase(name, "Running")
    return name


def execute(cluster: Cluster, name: str, *command: str, stdin: str | None = None) -> tuple[str, str, int]:
    from kubernetes.stream import stream

    client = stream(
        cluster.v1.connect_get_namespaced_pod_exec,
        name,
        NAMESPACE,
        command=list(command),
        stdin=stdin is not None,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
    )
    if stdin is not None:
        client.write_stdin(stdin)
    client.run_forever(timeout=30)
    return client.read_stdout(), client.read_stderr(), client.returncode


def test_who_follows_a_log_finds_the_container_ended_after_it(cluster: Cluster) -> None:
    cluster.run("followed", "for i in 1 2 3; do echo $i; sleep 0.2; done; exit 4")
    cluster.until_phase("followed", "Running", "Failed")
    answer = cluster.v1.read_namespaced_pod_log(
        "followed", NAMESPACE, container="base", follow=True, timestamps=True, _preload_content=False
    )
    lines = b"".join(answer.stream()).decode().splitlines()
    assert cluster.pod("followed").status.container_statuses[0].state.terminated.exit_code == 4
    assert [line.split(" ")[1] for line in lines] == ["1", "2", "3"]
    moments = [datetime.fromisoformat(line.split(" ")[0][:26] + "+00:00") for line in lines]
    assert moments == sorted(moments)


def test_a_log_can_be_read_from_its_end(cluster: Cluster) -> None:
    cluster.run("long", "for i in $(seq 100); do echo $i; done; sleep 2.5; echo late")
    cluster.until_over("long")
    assert cluster.log("long", tail_lines=2) == "100\nlate\n"
    assert cluster.log("long", since_seconds=2) == "late\n"
    assert cluster.log("long", limit_bytes=4) == "1\n2\n"


def test_a_line_of_any_length_has_one_timestamp(cluster: Cluster) -> None:
    cluster.run("wide", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo next")
    cluster.until_over("wide")
    lines = cluster.log("wide", timestamps=True).splitlines()
    assert [len(line.split(" ")[1]) for line in lines] == [100_000, 4]


def test_a_container_that_has_no_log_yet_says_why(cluster: Cluster) -> None:
    from kubernetes.client import ApiException

    given = pod("early", container("sleep 1"), initContainers=[container("sleep 1", name="first")])
    cluster.v1.create_namespaced_pod(NAMESPACE, given)
    with pytest.raises(ApiException) as caught:
        cluster.log("early", container="base")
    said = 'container "base" in pod "early" is waiting to start: PodInitializing'
    assert (caught.value.status, json.loads(caught.value.body)["message"]) == (400, said)


def test_with_several_containers_one_has_to_be_named(cluster: Cluster) -> None:
    from kubernetes.client import ApiException

    cluster.v1.create_namespaced_pod(NAMESPACE, pod("two", container("echo 1"), container("echo 2", name="other")))
    cluster.until_over("two")
    with pytest.raises(ApiException, match="a container name must be specified for pod two, choose one of"):
        cluster.log("two")
    with pytest.raises(ApiException, match="container third is not valid for pod two"):
        cluster.log("two", container="third")
    assert cluster.log("two", container="other") == "2\n"


def test_a_command_in_a_container_has_both_outputs_and_an_exit_code(cluster: Cluster, shell: str) -> None:
    assert execute(cluster, shell, "sh", "-c", "echo out; echo err >&2; exit 3") == ("out\n", "err\n", 3)


def test_a_command_reads_what_the_client_writes(cluster: Cluster, shell: str) -> None:
    large = "x" * 200_000
    script = f"wc -c <<'END'\n{large}\nEND\nexit 0\n"
    assert execute(cluster, shell, "sh", stdin=script) == (f"{len(large) + 1}\n", "", 0)


def test_much_output_of_a_command_arrives_whole(cluster: Cluster, shell: str) -> None:
    written, _, code = execute(cluster, shell, "sh", "-c", "seq 200000")
    assert code == 0
    assert len(written.splitlines()) == 200_000


def test_a_command_for_a_container_that_does_not_run_is_refused(cluster: Cluster) -> None:
    cluster.run("ended")
    cluster.until_over("ended")
    status, message = cluster.ask("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/ended/exec?command=true")
    assert (status, message) == (404, 'unable to upgrade connection: container not found ("base")')
