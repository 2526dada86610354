"""Only the lines about the image change in a GitOps folder, however people laid the file out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from datakit.errors import ConfigurationError, InvalidFile
from datakit.model.environment import AirflowDeployment
from datakit.release.overlay import Overlay

NAME = "registry.corp.example:5000/data/platform/airflow-deployment"
DIGEST = f"sha256:{'7' * 64}"
KUSTOMIZE = AirflowDeployment(deploy="gitops", overlay="int")
HELM = AirflowDeployment(deploy="gitops", values="int.yaml")
FULL = f"""\
# Airflow of int. Ask the platform team before you change it.
kind: Kustomization
resources:
  - airflow.yaml  # rendered from the chart
images:
  - name: busybox
    newTag: "1.36"
  # written by datakit airflow deploy
  - name: apache/airflow  # the chart's name of it
    newName: old.corp.example/airflow
    digest: sha256:{"0" * 64}  # behind
  - {{name: redis, newTag: "7"}}
labels:
  - pairs: {{a: b}}
"""


def kustomization(folder: Path, text: str) -> Overlay:
    (folder / "int").mkdir(exist_ok=True)
    (folder / "int/kustomization.yaml").write_text(text)
    return Overlay.read(folder, KUSTOMIZE)


def values(folder: Path, text: str) -> Overlay:
    (folder / "int.yaml").write_text(text)
    return Overlay.read(folder, HELM)


def test_name_and_digest_are_replaced_where_they_stand_and_nothing_else_is(tmp_path: Path) -> None:
    overlay = kustomization(tmp_path, FULL)
    written = overlay.with_image(NAME, DIGEST)
    before, after = FULL.splitlines(), written.splitlines()
    assert len(before) == len(after)
    assert [f"    newName: {NAME}", f"    digest: {DIGEST}  # behind"] == [
        line for line, old in zip(after, before, strict=True) if line != old
    ]
    assert f"old.corp.example/airflow@sha256:{'0' * 64}" == overlay.image
    assert f"{NAME}@{DIGEST}" == kustomization(tmp_path, written).image
    assert written == kustomization(tmp_path, written).with_image(NAME, DIGEST)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet\n",
        "kind: Kustomization\nresources: [a.yaml]\n",
        "kind: Kustomization\nresources:\n  - a.yaml",
        "kind: Kustomization\nimages:\n",
        "kind: Kustomization\nimages: []\nresources: [a.yaml]\n",
        "kind: Kustomization\nimages: [{name: redis, newTag: '7'}]\n",
        "kind: Kustomization\nimages: [{name: apache/airflow, newTag: 3.3.2}, {name: redis}]\n",
        "kind: Kustomization\nimages:\n- name: redis\n  newTag: '7'\nresources:\n- a.yaml\n",
        "kind: Kustomization\nimages:\n- newTag: 3.3.2\n  name: apache/airflow\nresources:\n- a.yaml\n",
        "kind: Kustomization\nimages:\n  - name: apache/airflow\n    newTag: 3.3.2  # the chart\nlabels: []\n",
        "kind: Kustomization\nimages:\n    - name: apache/airflow\n\n# the end\n",
        "patches:\n  - patch: |\n      - op: add\n        path: /a\n",
    ],
)
def test_any_kustomization_gets_the_image(tmp_path: Path, text: str) -> None:
    written = kustomization(tmp_path, text).with_image(NAME, DIGEST)
    found = yaml.safe_load(written)
    (entry,) = [each for each in found["images"] if each["name"] == "apache/airflow"]
    assert {"name": "apache/airflow", "newName": NAME, "digest": DIGEST} == {k: v for k, v in entry.items() if v}
    rest = yaml.safe_load(text) or {}
    assert {k: v for k, v in rest.items() if k != "images"} == {k: v for k, v in found.items() if k != "images"}
    others = [each for each in rest.get("images") or [] if each["name"] != "apache/airflow"]
    assert others == [each for each in found["images"] if each["name"] != "apache/airflow"]
    assert [line for line in text.splitlines() if "#" in line and "newTag" not in line] == [
        line for line in written.splitlines() if "#" in line
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "executor: KubernetesExecutor\n",
        "images:\n  airflow:\n    repository: apache/airflow\n    tag: 3.3.2\n    pullPolicy: IfNotPresent\n",
        "images:\n  redis: {tag: '7'}\nexecutor: LocalExecutor\n",
        "images:\n  airflow: {repository: a, tag: b}  # both\nexecutor: LocalExecutor\n",
        "images: {airflow: {repository: a, digest: 'sha256:0'}}\n",
        "images:\n  airflow:\n    digest:\n    repository:\n",
        "images:\n  airflow: {}\nenv:\n  - {name: A, value: b}\n",
    ],
)
def test_any_values_file_of_helm_gets_the_image(tmp_path: Path, text: str) -> None:
    written = values(tmp_path, text).with_image(NAME, DIGEST)
    found = yaml.safe_load(written)["images"]["airflow"]
    assert (NAME, DIGEST, None) == (found["repository"], found["digest"], found.get("tag"))
    assert f"{NAME}@{DIGEST}" == values(tmp_path, written).image
    before, after = yaml.safe_load(text) or {}, yaml.safe_load(written)
    assert {k: v for k, v in before.items() if k != "images"} == {k: v for k, v in after.items() if k != "images"}
    assert (before.get("images") or {}).get("redis") == after["images"].get("redis")


@pytest.mark.parametrize("text", ["executor: LocalExecutor\n", "images:\n  airflow:\n    tag: 3.3.2\n"])
def test_what_names_no_image_by_digest_says_none(tmp_path: Path, text: str) -> None:
    assert values(tmp_path, text).image is None


def test_what_cannot_be_written_without_harm_is_refused_and_says_how_to_begin(tmp_path: Path) -> None:
    overlay = values(tmp_path, "images:\n  redis: &both {repository: a, tag: b}\n  airflow: *both\n")
    with pytest.raises(InvalidFile, match="without changing something else") as caught:
        overlay.with_image(NAME, DIGEST)
    assert DIGEST in (caught.value.fix or "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: Deployment\n", "it is no Kustomization, but a Deployment"),
        ("images: {airflow: {}}\n", "images is no list"),
        ("a: [\n", "it is no YAML"),
        ("- a\n", "it has no keys"),
        ("a: b\n---\nc: d\n", "it is no YAML"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidFile, match=words):
        _ = kustomization(tmp_path, text).image


def test_a_folder_without_one_is_refused_and_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file") as caught:
        Overlay.read(tmp_path, KUSTOMIZE)
    assert str(tmp_path / "int/kustomization.yaml") == caught.value.subject


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders overlays")
def test_kustomize_renders_the_image_by_that_digest(tmp_path: Path) -> None:
    text = "kind: Kustomization\nresources: [pod.yaml]\nimages:\n  - {name: apache/airflow, newTag: 3.3.2}\n"
    written = kustomization(tmp_path, text).with_image(NAME, DIGEST)
    (tmp_path / "int/kustomization.yaml").write_text(written)
    container = "{name: a, image: 'apache/airflow:3.1.0'}"
    pod = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{containers: [{container}]}}\n"
    (tmp_path / "int/pod.yaml").write_text(pod)
    done = subprocess.run(["kubectl", "kustomize", tmp_path / "int"], capture_output=True, text=True, check=True)
    assert f"{NAME}@{DIGEST}" == yaml.safe_load(done.stdout)["spec"]["containers"][0]["image"]
