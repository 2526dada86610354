"""The Airflow image: what is in it, what is refused, and a tag that names one image for ever."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from datakit.release import registry as registries
from datakit.release.registry import open_registry
from datakit.testing.images import push_base_image

from .conftest import RUNTIME, push_airflow

REPOSITORY = "platform/airflow-deployment"


def content(releases: Any, digest: str) -> dict[str, tarfile.TarInfo]:
    manifest = releases.client.manifest(REPOSITORY, digest)
    data = releases.client.blob(REPOSITORY, manifest["layers"][-1]["digest"])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {entry.name: entry for entry in archive}


def test_an_image_holds_what_airflow_reads_where_airflow_and_datakit_look(
    airflow_tree: Any, datakit: Any, releases: Any
) -> None:
    airflow_tree.write("datakits/airline-source/contracts/flights.yaml", "dataset: airline.flights\nkey: [FlightID]\n")
    airflow_tree.write("datakits/airline-source/sql/flights.sql", "SELECT 1\n")
    airflow_tree.write("datakits/airline-source/code.py", "A = 1\n")
    airflow_tree.write("datakits/airline-source/tests/test_it.py", "def test_it() -> None: ...\n")
    airflow_tree.write("warehouses/finance/dags/report.py", "A = 1\n")
    airflow_tree.write("warehouses/dags/.airflowignore", "drafts\n")
    airflow_tree.write("warehouses/.gitignore", "*.pyc\n")
    columns = "columns:\n  - {name: FlightID, type: int32, nullable: false}\n"
    path = airflow_tree.root / "datakits/airline-source/contracts/flights.yaml"
    path.write_text(path.read_text() + columns)
    airflow_tree.commit()
    pushed = datakit("airflow", "push", "--json").json
    found = content(releases, pushed["digest"])
    environments = [
        f"opt/datakit/tree/warehouses/environments/{name}{kind}.yaml"
        for name in ("int", "qa", "prod")
        for kind in ("", ".lock")
    ]
    assert sorted(
        [
            "usr/local/airflow/dags/warehouses.py",
            "usr/local/airflow/dags/.airflowignore",
            "usr/local/airflow/dags/finance/report.py",
            "opt/datakit/tree/datakits/airline-source/contracts/flights.yaml",
            "opt/datakit/tree/datakits/airline-source/datakit.yaml",
            "opt/datakit/tree/datakits/airline-source/sql/flights.sql",
            "opt/datakit/tree/datakits/other-bronze/datakit.yaml",
            "opt/datakit/tree/datakits/sqlserver-bronze/datakit.yaml",
            "opt/datakit/tree/warehouses/finance/warehouse.yaml",
            "opt/datakit/tree/warehouses/marketing/warehouse.yaml",
            *environments,
        ]
    ) == sorted(name for name, entry in found.items() if entry.isfile())
    assert (2, 14) == (pushed["dags"], pushed["files"])
    assert {0} == {entry.mtime for entry in found.values()}
    assert not {"usr", "usr/local", "opt"} & found.keys()


def test_airflows_home_stays_its_users_and_what_is_deployed_is_roots(
    airflow_tree: Any, datakit: Any, releases: Any
) -> None:
    found = content(releases, datakit("airflow", "push", "--json").json["digest"])
    owned = {name: entry.mode for name, entry in found.items() if entry.uid == 10002}
    assert {"usr/local/airflow": 0o775, "usr/local/airflow/dags": 0o775} == owned
    others = [entry for name, entry in found.items() if name not in owned]
    assert {(0, 0, False)} == {(entry.uid, entry.gid, bool(entry.mode & 0o022)) for entry in others}


def test_a_base_that_runs_as_a_name_is_refused(airflow_tree: Any, datakit: Any, releases: Any) -> None:
    variables = ("AIRFLOW_HOME=/usr/local/airflow",)
    push_base_image(releases.client, "platform/named:v1", variables=variables, user="astro")
    answer = datakit("airflow", "build", "--base", "platform/named:v1", code=78)
    assert "runs as the user 'astro', whose number it does not say" in answer.err


def test_the_image_says_what_it_is_and_keeps_the_version_of_the_runtime(
    airflow_tree: Any, datakit: Any, releases: Any
) -> None:
    base = releases.client.resolve("platform/airflow", "v0.1.0")
    pushed = datakit("airflow", "push", "--json").json
    head = airflow_tree.git("rev-parse", "HEAD")
    day = airflow_tree.git("log", "-1", "--format=%cd", "--date=format-local:%Y.%m.%d")
    tag = f"v{day}-{head[:12]}-{base[7:15]}"
    assert f"{releases.reference}/{REPOSITORY}:{tag}" == pushed["image"]
    manifest = releases.client.manifest(REPOSITORY, pushed["digest"])
    config = json.loads(releases.client.blob(REPOSITORY, manifest["config"]["digest"]))["config"]
    said = manifest["annotations"]
    assert ("airflow-deployment", tag[1:], head, base) == tuple(
        said[f"org.opencontainers.image.{key}"] for key in ("title", "version", "revision", "base.digest")
    )
    assert said | {"io.astronomer.docker.runtime.version": "3.1-4"} == config["Labels"]
    assert ["AIRFLOW_HOME=/usr/local/airflow", "DATAKIT_HOME=/opt/datakit/tree"] == config["Env"]


def test_the_same_commit_makes_the_same_digest_elsewhere_and_another_commit_of_other_files_too(
    airflow_tree: Any, datakit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = datakit("airflow", "build", "--json").json
    subprocess.run(["git", "clone", "--quiet", airflow_tree.root, tmp_path / "clone"], check=True)
    monkeypatch.chdir(tmp_path / "clone")
    assert built["digest"] == datakit("airflow", "build", "--json").json["digest"]
    monkeypatch.chdir(airflow_tree.root)
    airflow_tree.write("README.md", "New\n")
    airflow_tree.commit()
    assert built["image"] == datakit("airflow", "build", "--json").json["image"]
    airflow_tree.write("warehouses/dags/more.py", "A = 1\n")
    airflow_tree.commit()
    other = datakit("airflow", "build", "--json").json
    assert built["image"] != other["image"]
    assert built["digest"] != other["digest"]


def test_another_base_makes_another_tag(airflow_tree: Any, datakit: Any, releases: Any) -> None:
    first = datakit("airflow", "push", "--json").json
    push_airflow(releases.client, labels=RUNTIME | {"io.astronomer.docker.runtime.version": "3.1-5"})
    second = datakit("airflow", "push", "--json").json
    assert first["image"].rpartition("-")[0] == second["image"].rpartition("-")[0]
    assert first["image"] != second["image"]
    assert "pushed" == second["state"]


def test_pushing_again_sends_nothing(airflow_tree: Any, datakit: Any) -> None:
    first = datakit("airflow", "push", "--json").json
    second = datakit("airflow", "push", "--json").json
    assert ("pushed", "already pushed") == (first["state"], second["state"])
    assert first["digest"] == second["digest"]
    assert f"was pushed already, as {first['digest']}" in datakit("airflow", "push").out


def test_a_tag_that_names_another_image_is_not_moved(airflow_tree: Any, datakit: Any, releases: Any) -> None:
    first = datakit("airflow", "push", "--json").json
    answer = datakit("airflow", "push", "--dags-folder", "/opt/airflow/dags", code=78)
    assert "names another image" in answer.err
    assert "another --dags-folder" in answer.err
    tag = first["image"].rpartition(":")[2]
    assert first["digest"] == releases.client.resolve(REPOSITORY, tag)


def test_an_interrupted_push_leaves_no_tag_and_the_next_one_completes_it(
    airflow_tree: Any, datakit: Any, releases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(reference: str, **more: Any) -> Any:
        registry = open_registry(reference, **more)
        put = registry.push_manifest

        def push(repository: str, data: bytes, *, tag: str | None = None, **rest: Any) -> str:
            if tag is not None:
                raise KeyboardInterrupt
            return put(repository, data, tag=tag, **rest)

        monkeypatch.setattr(registry, "push_manifest", push)
        return registry

    monkeypatch.setattr(registries, "open_registry", broken)
    with pytest.raises(BaseException):  # noqa: B017  # what ends the process
        datakit("airflow", "push")
    assert () == releases.client.tags(REPOSITORY)
    monkeypatch.setattr(registries, "open_registry", open_registry)
    pushed = datakit("airflow", "push", "--json").json
    assert {"blobs": 0, "bytes": 0} == pushed["pushed"]
    assert (pushed["image"].rpartition(":")[2],) == releases.client.tags(REPOSITORY)


@pytest.mark.parametrize("path", ["warehouses/dags/draft.py", "warehouses/finance/notes.md", "datakits/a/datakit.yaml"])
def test_what_is_not_committed_is_refused(airflow_tree: Any, datakit: Any, path: str) -> None:
    airflow_tree.write(
        path, (airflow_tree.root / "datakits/other-bronze/datakit.yaml").read_text().replace("other", "a")
    )
    answer = datakit("airflow", "build", code=78)
    assert f"the tree is not what is committed: {path}" in answer.err.replace("\n", "")


def test_what_is_not_in_the_image_may_be_uncommitted(airflow_tree: Any, datakit: Any) -> None:
    airflow_tree.write("notes.md", "Mine\n")
    airflow_tree.write("datakits/airline-source/tests/test_it.py", "A = 1\n")
    datakit("airflow", "build")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("warehouses/.env", "A=b\n"),
        ("warehouses/finance/svc.keytab", "no matter what\n"),
        ("warehouses/finance/blob.bin", "\x05\x02\x00\x00"),
        ("warehouses/finance/tls.pem", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n"),
        ("warehouses/dags/key.txt", "# mine\n-----BEGIN PRIVATE KEY-----\nMIIE\n"),
        ("warehouses/finance/id_ed25519", "x\n"),
        ("datakits/airline-source/contracts/.netrc", "x\n"),
    ],
)
def test_a_file_that_looks_like_a_secret_is_refused(airflow_tree: Any, datakit: Any, path: str, text: str) -> None:
    airflow_tree.write(path, text)
    airflow_tree.commit()
    answer = datakit("airflow", "build", code=78)
    assert "looks like a secret" in answer.err
    assert path in answer.err
    assert "MIIE" not in answer.err


def test_a_certificate_is_no_secret(airflow_tree: Any, datakit: Any) -> None:
    airflow_tree.write("warehouses/finance/ca.pem", "-----BEGIN CERTIFICATE-----\nMIIE\n")
    airflow_tree.commit()
    datakit("airflow", "build")


def test_a_pin_that_was_edited_by_hand_is_refused(airflow_tree: Any, datakit: Any) -> None:
    airflow_tree.edit("int", "version: 1.0.0", "version: 1.0.1")
    airflow_tree.commit()
    answer = datakit("airflow", "build", code=78)
    assert "a pin was edited by hand" in answer.err
    assert "int.lock.yaml: finance/sqlserver-bronze" in answer.err


def test_a_frozen_environment_without_a_pin_is_told(airflow_tree: Any, datakit: Any) -> None:
    assert {} == datakit("airflow", "build", "--json").json["unpinned"]
    airflow_tree.path("prod").unlink()
    airflow_tree.commit()
    lacking = ["finance/other-bronze", "finance/sqlserver-bronze", "marketing/sqlserver-bronze"]
    assert {"prod": lacking} == datakit("airflow", "build", "--json").json["unpinned"]
    for command in ("build", "push"):
        answer = datakit("airflow", command)
        assert f"note  prod is frozen and pins no {', '.join(lacking)}: this image is not for it yet" in answer.out


def test_another_environment_needs_no_pin(airflow_tree: Any, datakit: Any) -> None:
    airflow_tree.path("int").unlink()
    airflow_tree.commit()
    datakit("airflow", "build")


def test_a_lock_with_a_conflict_is_refused(airflow_tree: Any, datakit: Any) -> None:
    text = airflow_tree.path("qa").read_text()
    airflow_tree.path("qa").write_text(f"{text}<<<<<<< a\n=======\n>>>>>>> b\n")
    airflow_tree.commit()
    assert "two people changed the same pin" in datakit("airflow", "build", code=78).err


def test_a_tree_that_check_refuses_is_refused(airflow_tree: Any, datakit: Any) -> None:
    airflow_tree.write("warehouses/finance/warehouse.yml", "name: a\n")
    airflow_tree.commit()
    answer = datakit("airflow", "push", code=78)
    assert "datakit check finds a problem: the file is never read" in answer.err


def test_a_tree_without_dags_is_refused_with_a_line_to_begin(airflow_tree: Any, datakit: Any) -> None:
    shutil.rmtree(airflow_tree.root / "warehouses/dags")
    airflow_tree.commit()
    answer = datakit("airflow", "build", code=78)
    assert "the tree has no DAG file" in answer.err
    assert "dags_from_warehouses" in answer.err


def test_two_dag_files_of_one_place_are_refused(airflow_tree: Any, datakit: Any) -> None:
    airflow_tree.write("dags/warehouses.py", "A = 1\n")
    airflow_tree.commit()
    assert "two DAG files of the tree have one place" in datakit("airflow", "build", code=78).err


def test_a_link_is_refused(airflow_tree: Any, datakit: Any) -> None:
    (airflow_tree.root / "warehouses/dags/link.py").symlink_to("warehouses.py")
    airflow_tree.commit()
    assert "symbolic link" in datakit("airflow", "build", code=78).err


def test_a_shallow_clone_is_refused(
    airflow_tree: Any, datakit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["git", "clone", "--quiet", "--depth=1", f"file://{airflow_tree.root}", str(tmp_path / "clone")]
    subprocess.run(command, check=True)
    monkeypatch.chdir(tmp_path / "clone")
    assert "git fetch --unshallow" in datakit("airflow", "build", code=78).err


def test_a_base_that_is_not_there_or_no_airflow_is_refused(airflow_tree: Any, datakit: Any, releases: Any) -> None:
    assert "the base image is not in the registry" in datakit("airflow", "build", "--base", "a/b:c", code=78).err
    push_base_image(releases.client, "platform/plain:v1")
    answer = datakit("airflow", "build", "--base", "platform/plain:v1", code=78)
    assert "does not say where its Airflow looks for DAGs" in answer.err
    assert 0 == datakit("airflow", "build", "--base", "platform/plain:v1", "--dags-folder", "/dags").code


def test_one_datakit_alone_is_no_tree(airflow_tree: Any, datakit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = airflow_tree.root.parent / "alone"
    shutil.copytree(airflow_tree.root / "datakits/airline-source", alone)
    monkeypatch.chdir(alone)
    monkeypatch.setenv("DATAKIT_REGISTRY", "127.0.0.1:1")
    assert "an Airflow has a whole tree" in datakit("airflow", "build", code=78).err


def test_a_build_says_what_the_image_is(airflow_tree: Any, datakit: Any, tmp_path: Path) -> None:
    answer = datakit("airflow", "build", "--output", str(tmp_path / "image"))
    assert "runtime   Astronomer 3.1-4" in answer.out
    assert "holds     1 DAG file, 11 others of the tree" in answer.out
    assert (tmp_path / "image/index.json").is_file()
