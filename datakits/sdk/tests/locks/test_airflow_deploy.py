"""An environment's Airflow gets an image by digest: by one commit, or by Astronomer's command."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from datakit.testing.images import push_base_image
from datakit_lab.astronomer import Astronomer

from .conftest import push_airflow

REPOSITORY = "platform/airflow-deployment"
OVERLAY = "deploy/airflow/int/kustomization.yaml"


@pytest.fixture
def pushed(airflow_tree: Any, datakit: Any) -> dict[str, Any]:
    return dict(datakit("airflow", "push", "--json").json)


@pytest.fixture
def newer(airflow_tree: Any, datakit: Any, pushed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The image of a later day, which pins sqlserver-bronze 1.1.0 in int; ``pushed`` was deployed there before."""
    datakit("airflow", "deploy", "int")
    with monkeypatch.context() as later:
        later.setenv("GIT_COMMITTER_DATE", "2038-01-01T00:00:00Z")
        datakit("lock", "int", "sqlserver-bronze@1.1.0")
    return dict(datakit("airflow", "push", "--json").json)


def image(releases: Any, said: dict[str, Any]) -> str:
    return f"{releases.reference}/{REPOSITORY}@{said['digest']}"


def test_a_deploy_to_gitops_is_one_commit_of_one_file_with_trailers(
    airflow_tree: Any, datakit: Any, releases: Any, pushed: dict[str, Any]
) -> None:
    before = airflow_tree.count()
    answer = datakit("airflow", "deploy", "int", "--why", "first  day")
    assert before + 1 == airflow_tree.count()
    assert [OVERLAY] == airflow_tree.git("show", "--format=", "--name-only").splitlines()
    version = pushed["image"].rpartition(":v")[2]
    assert f"Deploy Airflow {version} to int" == airflow_tree.git("log", "-1", "--format=%s")
    assert "Why: first day" in airflow_tree.git("log", "-1", "--format=%b")
    assert [
        "Datakit-Action: deploy",
        "Datakit-Environment: int",
        f"Datakit-Image: {image(releases, pushed)}",
        f"Datakit-Revision: {pushed['revision']}",
    ] == airflow_tree.git("log", "-1", "--format=%(trailers:only)").splitlines()
    text = (airflow_tree.root / OVERLAY).read_text()
    assert text.startswith(
        "# Airflow of int\nkind: Kustomization\nresources: [airflow.yaml]  # rendered from the chart\n"
    )
    (entry,) = yaml.safe_load(text)["images"]
    assert {
        "name": "apache/airflow",
        "newName": f"{releases.reference}/{REPOSITORY}",
        "digest": pushed["digest"],
    } == entry
    assert "next:  git push" in answer.out
    assert "" == airflow_tree.git("status", "--porcelain")


def test_a_values_file_of_helm_gets_it_too(
    airflow_tree: Any, datakit: Any, releases: Any, pushed: dict[str, Any]
) -> None:
    datakit("airflow", "deploy", "qa")
    text = (airflow_tree.root / "deploy/airflow/qa.yaml").read_text()
    found = {"repository": f"{releases.reference}/{REPOSITORY}", "digest": pushed["digest"]}
    assert {"executor": "KubernetesExecutor", "images": {"airflow": found}} == yaml.safe_load(text)
    assert text.startswith("# Airflow of qa\n")


def test_a_deploy_is_no_reason_for_another_image(airflow_tree: Any, datakit: Any, pushed: dict[str, Any]) -> None:
    datakit("airflow", "deploy", "int")
    assert pushed["image"] == datakit("airflow", "build", "--json").json["image"]
    before = airflow_tree.count()
    assert "nothing to change: int has Airflow" in datakit("airflow", "deploy", "int").out
    assert before == airflow_tree.count()


def test_a_dry_run_shows_the_change_and_the_message_and_writes_nothing(
    airflow_tree: Any, datakit: Any, pushed: dict[str, Any]
) -> None:
    before = airflow_tree.git("rev-parse", "HEAD")
    text = (airflow_tree.root / OVERLAY).read_text()
    out = datakit("airflow", "deploy", "int", "--dry-run").out
    assert f"+    digest: {pushed['digest']}" in out
    assert "Datakit-Action: deploy" in out
    assert "nothing was written" in out
    assert (before, text) == (airflow_tree.git("rev-parse", "HEAD"), (airflow_tree.root / OVERLAY).read_text())
    said = datakit("airflow", "deploy", "int", "--dry-run", "--json").json
    assert (None, True, None) == (said["commit"], said["dry_run"], said["before"])


def test_a_deploy_says_which_datakits_change_with_it(
    airflow_tree: Any, datakit: Any, releases: Any, newer: dict[str, Any]
) -> None:
    answer = datakit("airflow", "deploy", "int")
    assert "finance/sqlserver-bronze 1.0.0 → 1.1.0" in answer.out
    assert "- marketing/sqlserver-bronze 1.0.0 → 1.1.0" in airflow_tree.git("log", "-1", "--format=%b")
    assert newer["digest"] in (airflow_tree.root / OVERLAY).read_text()


def test_an_earlier_image_brings_its_datakits_back_and_says_what_to_do_with_the_lock(
    airflow_tree: Any, datakit: Any, releases: Any, pushed: dict[str, Any], newer: dict[str, Any]
) -> None:
    datakit("airflow", "deploy", "int")
    for name in (pushed["image"].rpartition(":")[2], pushed["digest"], pushed["image"], image(releases, pushed)):
        said = datakit("airflow", "deploy", "int", "--image", name, "--dry-run", "--json").json
        assert image(releases, pushed) == said["image"]
    answer = datakit("airflow", "deploy", "int", "--image", pushed["image"].rpartition(":")[2])
    assert "finance/sqlserver-bronze 1.1.0 → 1.0.0" in answer.out
    assert "this image is older than the one that runs" in answer.out
    assert "the lock of this tree is not the image's" in answer.out
    assert "datakit rollback int" in answer.out
    assert pushed["digest"] in (airflow_tree.root / OVERLAY).read_text()
    datakit("rollback", "int")
    assert "the lock of this tree" not in datakit("airflow", "deploy", "int", "--image", pushed["digest"]).out


def test_an_image_that_could_not_run_in_a_frozen_environment_is_for_the_others(airflow_tree: Any, datakit: Any) -> None:
    airflow_tree.path("prod").unlink()
    airflow_tree.commit()
    datakit("airflow", "push")
    datakit("airflow", "deploy", "int", "--dry-run")
    answer = datakit("airflow", "deploy", "prod", "--dry-run", code=78)
    assert "the environment 'prod' is frozen, and this image's lock pins no finance/other-bronze" in answer.err
    assert "next:  datakit promote ENVIRONMENT prod; then push the next image" in answer.err
    datakit("promote", "qa", "prod")
    datakit("airflow", "push")
    datakit("airflow", "deploy", "prod", "--dry-run")


def test_an_image_that_was_not_pushed_is_refused(airflow_tree: Any, datakit: Any, pushed: dict[str, Any]) -> None:
    airflow_tree.write("warehouses/dags/more.py", "A = 1\n")
    airflow_tree.commit()
    answer = datakit("airflow", "deploy", "int", code=78)
    assert "the image of this commit was not pushed" in answer.err
    assert "datakit airflow push; then datakit airflow deploy int" in answer.err
    answer = datakit("airflow", "deploy", "int", "--image", "v2020.01.01-abc-def", code=78)
    assert "there is no Airflow image 'v2020.01.01-abc-def'" in answer.err
    assert pushed["image"].rpartition(":")[2] in answer.err
    assert (
        "there is no Airflow image" in datakit("airflow", "deploy", "int", "--image", f"sha256:{'0' * 64}", code=78).err
    )


def test_an_image_of_something_else_is_refused(airflow_tree: Any, datakit: Any, releases: Any) -> None:
    push_base_image(releases.client, f"{REPOSITORY}:v1")
    answer = datakit("airflow", "deploy", "int", "--image", "v1", code=78)
    assert "does not say that it is an Airflow with the tree in it" in answer.err


def test_an_image_that_does_not_know_the_environment_is_refused(
    airflow_tree: Any, datakit: Any, pushed: dict[str, Any]
) -> None:
    text = (airflow_tree.root / "warehouses/environments/int.yaml").read_text()
    airflow_tree.write("warehouses/environments/inta.yaml", text.replace("name: int", "name: inta"))
    airflow_tree.commit()
    answer = datakit("airflow", "deploy", "inta", "--image", pushed["digest"], code=78)
    assert "there is no environment in this image called 'inta'" in answer.err
    assert "did you mean 'int'?" in answer.err


def test_an_environment_that_does_not_say_how_is_refused(airflow_tree: Any, datakit: Any) -> None:
    path = airflow_tree.root / "warehouses/environments/int.yaml"
    path.write_text("".join(line for line in path.open() if not line.startswith("airflow:")))
    answer = datakit("airflow", "deploy", "int", code=78)
    assert "does not say how its Airflow is deployed" in answer.err
    assert "add the section airflow" in answer.err


def test_a_file_that_is_changed_and_not_committed_is_not_overwritten(
    airflow_tree: Any, datakit: Any, pushed: dict[str, Any]
) -> None:
    text = (airflow_tree.root / OVERLAY).read_text() + "# mine\n"
    airflow_tree.write(OVERLAY, text)
    assert f"{OVERLAY} has changes that are not committed" in datakit("airflow", "deploy", "int", code=78).err
    assert text == (airflow_tree.root / OVERLAY).read_text()


def test_what_else_is_staged_is_not_taken_along(airflow_tree: Any, datakit: Any, pushed: dict[str, Any]) -> None:
    airflow_tree.write("notes.md", "Mine\n")
    airflow_tree.git("add", "notes.md")
    datakit("airflow", "deploy", "int")
    assert [OVERLAY] == airflow_tree.git("show", "--format=", "--name-only").splitlines()
    assert "A  notes.md" == airflow_tree.git("status", "--porcelain")


def test_a_detached_head_is_refused(airflow_tree: Any, datakit: Any, pushed: dict[str, Any]) -> None:
    airflow_tree.git("switch", "--quiet", "--detach")
    assert "git switch -c BRANCH" in datakit("airflow", "deploy", "int", code=78).err


def test_a_gitops_folder_may_be_in_another_repository(
    airflow_tree: Any, datakit: Any, tmp_path: Path, pushed: dict[str, Any]
) -> None:
    other = tmp_path / "gitops"
    (other / "int").mkdir(parents=True)
    (other / "int/kustomization.yaml").write_text("kind: Kustomization\n")
    for command in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "-m", "Begin")):
        subprocess.run(["git", "-C", other, *command], check=True)
    path = airflow_tree.root / "warehouses/environments/int.yaml"
    path.write_text(path.read_text().replace("deploy/airflow/int", "../gitops/int"))
    airflow_tree.commit()
    datakit("airflow", "push")
    before = airflow_tree.count()
    datakit("airflow", "deploy", "int")
    assert before == airflow_tree.count()
    shown = subprocess.check_output(["git", "-C", other, "log", "-1", "--format=%s"], text=True)
    assert shown.startswith("Deploy Airflow ")


@pytest.fixture
def astronomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Astronomer, Path]]:
    """Astronomer's double, and the log of its command, which is first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    with Astronomer() as double:
        log = double.install_command(folder)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield double, log


def test_astro_is_told_the_image_by_digest_and_the_runtime_in_a_folder_of_its_own(
    airflow_tree: Any, datakit: Any, releases: Any, pushed: dict[str, Any], astronomer: tuple[Astronomer, Path]
) -> None:
    double, log = astronomer
    answer = datakit("airflow", "deploy", "prod")
    (call,) = [json.loads(line) for line in log.read_text().splitlines()]
    name = image(releases, pushed)
    assert f"deploy clx0int --image-name {name} --remote --runtime-version 3.1-4 --force --workspace-id clw0data" == (
        " ".join(call["argv"])
    )
    assert [".astro"] == call["files"]
    assert not Path(call["folder"]).exists()
    (deployment,) = double.deployments.values()
    assert (name, "3.1-4") == (deployment.image, deployment.runtime_version)
    assert "pins      finance/sqlserver-bronze 1.0.0" in answer.out
    assert "deployment clx0int gets Airflow" in answer.out


def test_a_dry_run_of_astro_shows_the_command_and_calls_nothing(
    airflow_tree: Any, datakit: Any, pushed: dict[str, Any], astronomer: tuple[Astronomer, Path]
) -> None:
    _, log = astronomer
    assert "astro deploy clx0int --image-name" in datakit("airflow", "deploy", "prod", "--dry-run").out
    assert not log.exists()


def test_what_astro_says_when_it_refuses_is_repeated(
    airflow_tree: Any, datakit: Any, pushed: dict[str, Any], astronomer: tuple[Astronomer, Path]
) -> None:
    double, _ = astronomer
    double.answer = lambda _: (200, b'{"errors": [{"message": "Your token has expired. Please log in again"}]}')
    answer = datakit("airflow", "deploy", "prod", code=78)
    assert "astro ended with 1" in answer.err
    assert "Your token has expired. Please log in again" in answer.err
    assert "astro login BASEDOMAIN" in answer.err


def test_an_astro_that_is_too_old_or_missing_is_said(
    airflow_tree: Any, datakit: Any, pushed: dict[str, Any], astronomer: tuple[Astronomer, Path], tmp_path: Path
) -> None:
    program = tmp_path / "bin/astro"
    program.write_text("#!/bin/sh\necho 'Error: unknown flag: --remote' >&2\nexit 1\n")
    assert "this astro is too old" in datakit("airflow", "deploy", "prod", code=78).err
    program.unlink()
    answer = datakit("airflow", "deploy", "prod", code=78)
    assert "astro, Astronomer's command, is not installed here" in answer.err


def test_an_image_on_no_astronomer_runtime_is_refused_for_astronomer(
    airflow_tree: Any, datakit: Any, releases: Any, astronomer: tuple[Astronomer, Path]
) -> None:
    push_airflow(releases.client, labels={"a": "b"})
    datakit("airflow", "push")
    answer = datakit("airflow", "deploy", "prod", code=78)
    assert "does not say which Astronomer runtime it holds" in answer.err
    datakit("airflow", "deploy", "int")
