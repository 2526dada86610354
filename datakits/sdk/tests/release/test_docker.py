"""A release runs on a real engine: pulled by digest, loaded from a build, on the base image of production."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest
from datakit import __version__
from datakit.release.registry import Registry, open_registry
from datakit_lab.registry import Registry as LabRegistry

from .conftest import Answer, Tree

pytestmark = pytest.mark.docker

BASE = f"datakit.local/platform/datakit-base:v{__version__}"


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def address(lab: LabRegistry) -> Iterator[str]:
    """A registry that holds the real base."""
    where = f"{lab.host}/data"
    name = f"{where}/platform/datakit-base:v{__version__}"
    docker("tag", BASE, name)
    docker("push", "--quiet", name)
    docker("rmi", name)
    yield where
    images = docker("images", "--quiet", "--filter", f"reference={where}/*/*").split()
    if images:
        docker("rmi", "--force", *sorted(set(images)))


@pytest.fixture
def here(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DATAKIT_REGISTRY", address)
    return address


def test_a_release_runs_by_digest_and_a_build_runs_from_the_engine(
    tree: Tree, here: str, call: Callable[..., Answer]
) -> None:
    for name in ("airline-source", "sqlserver-bronze"):
        answer = call("release", name)
        assert answer.code == 0, answer.err
    image = answer.json["image"]
    docker("pull", "--quiet", image)
    ran = docker("run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL", image, "check", "--json")
    assert json.loads(ran)["checked"] == {
        "source_datakits": 1,
        "bronze_datakits": 1,
        "warehouses": 0,
        "environments": 0,
    }
    labels = json.loads(docker("image", "inspect", image, "--format", "{{json .Config.Labels}}"))
    assert labels["org.opencontainers.image.revision"] == tree.git("rev-parse", "HEAD")
    assert labels["org.opencontainers.image.title"] == "sqlserver-bronze"

    built = call("build", "sqlserver-bronze", "--load").json
    assert built["digest"] == answer.json["digest"]
    loaded = docker("image", "inspect", built["loaded"], "--format", "{{.Id}}")
    assert loaded == docker("image", "inspect", image, "--format", "{{.Id}}")  # the very same image, by another way


def test_the_bill_of_materials_of_the_real_base_names_what_it_installs(
    tree: Tree, here: str, call: Callable[..., Answer]
) -> None:
    with open_registry(here) as registry:
        if registry.release("airline-source", "1.0.0") is None:
            assert call("release", "airline-source").code == 0
    bill = json.loads(call("show", "airline-source@1.0.0", "--sbom", text=True).out)
    kinds = {each["purl"].partition("/")[0] for each in bill["components"] if "purl" in each}
    assert kinds == {"pkg:pypi", "pkg:deb"}
    names = {each["name"] for each in bill["components"]}
    assert {"datakit", "pyarrow", "mssql-python", "libkrb5-3", "libssl3"} <= names


def test_an_engine_s_own_manifest_is_a_base_too(here: str) -> None:
    with open_registry(here) as registry:
        assert _media_type(registry) == "application/vnd.docker.distribution.manifest.v2+json"


def _media_type(registry: Registry) -> str:
    digest = registry.resolve("platform/datakit-base", f"v{__version__}")
    assert digest is not None
    return str(registry.manifest("platform/datakit-base", digest)["mediaType"])
