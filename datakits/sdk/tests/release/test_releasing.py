"""Releases: what is refused, what is pushed, and that the same commit is the same image everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from datakit import __version__
from datakit.release.registry import Registry, open_registry
from datakit.testing.images import push_base_image

from .conftest import Answer, Tree

Call = Callable[..., Answer]


# What a release is


def test_a_release_has_tag_annotations_and_three_attachments(released: Tree, registry: Registry) -> None:
    release = registry.release("airline-source", "1.0.0")
    assert release is not None
    assert (release.name, release.version, release.kind) == ("airline-source", "1.0.0", "source")
    assert release.revision == released.git("rev-parse", "HEAD")
    assert release.created.isoformat() == "2026-03-01T09:00:00+00:00"
    kinds = {each["artifactType"] for each in registry.referrers("datakits/airline-source", release.digest)}
    assert kinds == {
        "application/vnd.datakit.contract.v1+json",
        "application/vnd.cyclonedx+json",
        "application/vnd.in-toto+json",
    }


def test_a_bronze_datakit_takes_the_layer_of_its_source_datakit_from_the_registry(
    released: Tree, registry: Registry
) -> None:
    source, bronze = registry.release("airline-source", "1.0.0"), registry.release("sqlserver-bronze", "1.0.0")
    assert source is not None
    assert bronze is not None
    assert bronze.includes == (("airline-source", "1.0.0", source.digest),)
    theirs = registry.manifest("datakits/airline-source", source.digest)["layers"][-1]
    mine = registry.manifest("datakits/sqlserver-bronze", bronze.digest)["layers"]
    assert mine[-2] == theirs


def test_a_bronze_datakit_waits_for_the_release_of_its_source_datakit(tree: Tree, address: str, call: Call) -> None:
    answer = call("release", "sqlserver-bronze")
    assert answer.code == 78
    assert answer.error["type"] == "UnknownName"
    assert answer.error["fix"] == "datakit release airline-source"


def test_a_bronze_datakit_is_not_released_beside_a_source_datakit_that_was_changed_since(
    released: Tree, call: Call
) -> None:
    released.edit("datakits/airline-source/datakit.yaml", "ops.Planes", "ops.Aircraft")
    released.set_version("sqlserver-bronze", "1.0.1")
    released.commit()
    answer = call("release", "sqlserver-bronze")
    assert answer.code == 78
    assert "airline-source 1.0.0 in this tree is not the one that was released" in answer.error["what"]


# The same again


def test_a_second_release_of_the_same_commit_changes_nothing(released: Tree, registry: Registry, call: Call) -> None:
    before = registry.referrers("datakits/airline-source", registry.resolve("datakits/airline-source", "v1.0.0") or "")
    answer = call("release", "airline-source")
    assert (answer.code, answer.json["state"], answer.json["attached"]) == (0, "already released", [])
    assert registry.referrers("datakits/airline-source", answer.json["digest"]) == before


def test_a_commit_elsewhere_in_the_tree_makes_no_other_image(released: Tree, call: Call) -> None:
    released.write("README.md", "Another file.\n")
    released.commit(when="2026-04-01T10:00:00+01:00")
    assert call("release", "airline-source").json["state"] == "already released"


def test_a_newer_base_does_not_make_another_image_of_a_released_version(
    released: Tree, registry: Registry, call: Call
) -> None:
    push_base_image(registry, packages=(("pyarrow", "26.0.0"),))
    assert call("release", "airline-source").json["state"] == "already released"


def test_hours_later_on_another_machine_the_same_commit_is_the_same_image(
    released: Tree, registry: Registry, tmp_path: Path
) -> None:
    """With what differs there: folder, clock, zone, language, umask, modes and times of files, order of hashes."""
    other = tmp_path / "somewhere" / "else"
    other.mkdir(parents=True)
    its_own = {"TZ": "Pacific/Auckland", "LC_ALL": "C", "PYTHONHASHSEED": "7", "HOME": str(tmp_path)}
    differently = os.environ | its_own

    def there(*command: str) -> str:
        later = ["faketime", "-f", "+7h", *command]
        done = subprocess.run(
            later, cwd=other, env=differently, umask=0o077, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    there("git", "clone", "--quiet", str(released.root), ".")
    datakit = (sys.executable, "-m", "datakit")
    for name in ("airline-source", "sqlserver-bronze"):
        first = registry.resolve(f"datakits/{name}", "v1.0.0")
        assert json.loads(there(*datakit, "build", name, "--json"))["digest"] == first
        again = json.loads(there(*datakit, "release", name, "--json"))
        assert (again["state"], again["digest"], again["attached"]) == ("already released", first, [])


def test_a_base_with_layers_that_cannot_be_read_is_refused_before_anything_is_sent(
    tree: Tree, registry: Registry, call: Call
) -> None:
    from datakit.release._media import MANIFEST, descriptor, encoded

    name = f"v{__version__}"
    base = registry.manifest("platform/datakit-base", registry.resolve("platform/datakit-base", name) or "")
    layer = descriptor("application/vnd.oci.image.layer.v1.tar+zstd", b"\x28\xb5\x2f\xfd no archive")
    registry.push_blob("platform/datakit-base", layer["digest"], b"\x28\xb5\x2f\xfd no archive", layer["size"])
    registry.push_manifest(
        "platform/datakit-base", encoded({**base, "layers": [layer], "mediaType": MANIFEST}), tag=name
    )
    answer = call("release", "airline-source")
    assert (answer.code, answer.error["cause"]) == (78, "it is compressed with zstd")
    assert registry.tags("datakits/airline-source") == ()
    assert not registry.has_blob("datakits/airline-source", layer["digest"])


def test_another_registry_does_not_make_another_image(tree: Tree, address: str, call: Call) -> None:
    first = call("build", "airline-source").json["digest"]
    elsewhere = f"{address}/mirror"
    with open_registry(elsewhere) as mirror:
        push_base_image(mirror)
    assert call("build", "airline-source", "--registry", elsewhere).json["digest"] == first


def test_what_does_not_belong_into_an_image_does_not_change_it(tree: Tree, address: str, call: Call) -> None:
    first = call("build", "airline-source").json
    tree.write(".gitignore", "*.local\n")
    tree.write("datakits/airline-source/notes.local", "ignored\n")
    tree.write("datakits/airline-source/tests/test_more.py", "def test_more() -> None: ...\n")
    (tree.root / "datakits/airline-source/__pycache__").mkdir()
    tree.write("datakits/airline-source/__pycache__/x.pyc", "compiled\n")
    second = call("build", "airline-source").json
    assert second["own_size"] == first["own_size"]


@pytest.mark.parametrize(("mode", "same"), [(0o640, True), (0o755, False)])
def test_of_a_file_s_mode_only_the_right_to_execute_counts(
    tree: Tree, address: str, call: Call, mode: int, same: bool
) -> None:
    first = call("build", "airline-source").json["digest"]
    (tree.root / "datakits/airline-source/contracts/planes.yaml").chmod(mode)
    tree.git("update-index", "--really-refresh") if same else tree.git("config", "core.fileMode", "false")
    assert (call("build", "airline-source").json["digest"] == first) is same


# What is refused


def test_a_tree_with_something_uncommitted_is_refused(tree: Tree, address: str, registry: Registry, call: Call) -> None:
    tree.write("datakits/airline-source/new.sql", "SELECT 1\n")
    answer = call("release", "airline-source")
    assert answer.code == 78
    assert answer.error["type"] == "ReleaseRefused"
    assert "datakits/airline-source/new.sql" in answer.error["what"]
    assert registry.tags("datakits/airline-source") == ()


def test_a_repository_of_another_account_is_told_as_git_tells_it(tree: Tree, address: str, call: Call) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    for path in (tree.root, tree.root / ".git"):
        os.chown(path, 12345, 12345)
    answer = call("release", "airline-source")
    assert answer.code == 78
    assert "safe.directory" in answer.error["fix"]


def test_a_datakit_outside_of_git_is_refused(tree: Tree, address: str, call: Call) -> None:
    shutil.rmtree(tree.root / ".git")
    answer = call("release", "airline-source")
    assert answer.code == 78
    assert "never committed" in answer.error["what"]


def test_a_shallow_clone_is_refused_because_its_last_commit_may_not_be_the_datakit_s(
    tree: Tree, address: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.write("README.md", "One more commit.\n")
    tree.commit()
    tree.git("clone", "--quiet", "--depth=1", f"file://{tree.root}", str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    answer = call("release", "airline-source")
    assert answer.code == 78
    assert "git fetch --unshallow" in answer.error["fix"]


def test_a_failing_test_is_refused_and_its_words_are_shown(
    tree: Tree, registry: Registry, address: str, call: Call
) -> None:
    tree.write("datakits/airline-source/tests/test_datakit.py", "def test_it():\n    assert 'the key' == 'unique'\n")
    tree.commit()
    answer = call("release", "airline-source")
    assert answer.code == 78
    assert "assert 'the key' == 'unique'" in answer.error["what"]
    assert registry.tags("datakits/airline-source") == ()


@pytest.mark.parametrize("empty", ["", "# nothing\n"])
def test_a_datakit_without_a_test_is_refused(tree: Tree, address: str, call: Call, empty: str) -> None:
    if empty:
        tree.write("datakits/airline-source/tests/test_datakit.py", empty)
    else:
        shutil.rmtree(tree.root / "datakits/airline-source/tests")
    tree.commit()
    answer = call("release", "airline-source")
    assert (answer.code, answer.error["what"]) == (78, "there is no test")


def test_a_problem_that_check_finds_is_refused(tree: Tree, address: str, call: Call) -> None:
    tree.edit("datakits/airline-source/datakit.yaml", "key: [TailNumber]", "key: [Nowhere]")
    tree.commit()
    answer = call("release", "airline-source")
    assert answer.code == 78
    assert answer.error["what"].startswith("datakit check finds a problem")


def test_a_dataset_without_a_contract_is_refused(tree: Tree, address: str, call: Call) -> None:
    (tree.root / "datakits/airline-source/contracts/planes.yaml").unlink()
    tree.commit()
    answer = call("release", "airline-source")
    assert (answer.code, answer.error["fix"]) == (78, "datakit contract pull airline.planes")


def test_a_released_version_is_never_released_with_other_content(
    released: Tree, registry: Registry, call: Call
) -> None:
    before = registry.resolve("datakits/airline-source", "v1.0.0")
    released.edit("datakits/airline-source/datakit.yaml", "ops.Planes", "ops.Aircraft")
    released.commit()
    answer = call("release", "airline-source")
    assert answer.code == 78
    assert str(before) in answer.error["what"]
    assert answer.error["cause"].startswith("its files differ from those of commit")
    assert registry.resolve("datakits/airline-source", "v1.0.0") == before


def test_a_version_with_build_metadata_is_refused_because_no_tag_can_hold_it(
    tree: Tree, address: str, call: Call
) -> None:
    tree.set_version("airline-source", "1.0.0+exp.1")
    tree.commit()
    answer = call("release", "airline-source")
    assert (answer.code, answer.error["fix"]) == (78, "release it as 1.0.0")


@pytest.mark.parametrize(
    ("old", "new", "too_low", "enough"),
    [
        ("  - {name: Delay, type: int32}\n", "", "1.1.0", "2.0.0"),
        ("name: Delay, type: int32", "name: Delay, type: int16", "1.1.0", "2.0.0"),
        ("name: Delay, type: int32", "name: Delay, type: int32, nullable: false", "1.9.0", "2.0.0"),
        (
            "name: Delay, type: int32}\n",
            "name: Delay, type: int32}\n  - {name: Gate, type: string}\n",
            "1.0.1",
            "1.1.0",
        ),
        ("name: Delay, type: int32", "name: Delay, type: int64", "1.0.9", "1.1.0"),
    ],
    ids=["removed", "narrowed", "tightened", "added", "widened"],
)
def test_a_version_has_to_rise_as_much_as_its_contracts_change(
    released: Tree, registry: Registry, call: Call, old: str, new: str, too_low: str, enough: str
) -> None:
    released.edit("datakits/airline-source/contracts/flights.yaml", old, new)
    released.set_version("airline-source", too_low)
    released.commit()
    refused = call("release", "airline-source")
    assert (refused.code, refused.error["type"]) == (78, "ReleaseRefused")
    assert refused.error["cause"].startswith("airline.flights: ")
    assert f"set version: {enough}" in refused.error["fix"]
    released.set_version("airline-source", enough)
    released.commit()
    answer = call("release", "airline-source")
    assert (answer.code, answer.json["previous"]) == (0, "1.0.0")
    assert [each.version for each in registry.releases("airline-source")] == ["1.0.0", enough]


def test_another_key_calls_for_a_major_bump_and_a_new_dataset_for_a_minor_one(released: Tree, call: Call) -> None:
    released.edit("datakits/airline-source/datakit.yaml", "key: [TailNumber]", "")
    released.edit("datakits/airline-source/contracts/planes.yaml", "key: [TailNumber]\n", "")
    released.set_version("airline-source", "1.5.0")
    released.commit()
    assert "major" in call("release", "airline-source").error["what"]
    released.git("revert", "--no-edit", "HEAD")
    released.write(
        "datakits/airline-source/contracts/gates.yaml",
        "dataset: airline.gates\ncolumns:\n  - {name: Gate, type: string}\n",
    )
    released.edit("datakits/airline-source/datakit.yaml", "  planes:", "  gates: {table: ops.Gates}\n  planes:")
    released.set_version("airline-source", "1.0.1")
    released.commit()
    answer = call("release", "airline-source")
    assert "minor" in answer.error["what"]
    assert answer.error["cause"] == "airline.gates: + the dataset"


def test_a_breaking_source_makes_the_bronze_datakit_break_too(released: Tree, call: Call) -> None:
    released.edit("datakits/airline-source/contracts/flights.yaml", "  - {name: Delay, type: int32}\n", "")
    released.set_version("airline-source", "2.0.0")
    released.set_version("sqlserver-bronze", "1.0.1")
    released.commit()
    assert call("release", "airline-source").code == 0
    answer = call("release", "sqlserver-bronze")
    assert answer.code == 78
    assert "airline.flights: - Delay" in answer.error["cause"]


def test_an_older_line_is_compared_with_its_own_last_release(released: Tree, registry: Registry, call: Call) -> None:
    flights = "datakits/airline-source/contracts/flights.yaml"
    released.edit(flights, "  - {name: Delay, type: int32}\n", "")
    released.set_version("airline-source", "2.0.0")
    released.commit()
    assert call("release", "airline-source").code == 0
    released.git("revert", "--no-edit", "HEAD")
    released.set_version("airline-source", "1.0.1")
    released.commit()
    assert call("release", "airline-source").json["previous"] == "1.0.0"
    assert [each.version for each in registry.releases("airline-source")] == ["1.0.0", "1.0.1", "2.0.0"]


def test_a_dry_run_pushes_nothing(tree: Tree, registry: Registry, call: Call) -> None:
    answer = call("release", "airline-source", "--dry-run")
    assert (answer.code, answer.json["state"]) == (0, "would be released")
    assert registry.tags("datakits/airline-source") == ()
    assert not registry.has_manifest("datakits/airline-source", answer.json["digest"])


def test_a_symbolic_link_is_not_taken_into_an_image(tree: Tree, address: str, call: Call) -> None:
    (tree.root / "datakits/airline-source/secret").symlink_to("/etc/passwd")
    answer = call("build", "airline-source")
    assert answer.code == 78
    assert answer.error["subject"].endswith("airline-source/secret")


def test_the_login_in_a_remote_s_address_never_reaches_the_image(
    tree: Tree, registry: Registry, address: str, call: Call
) -> None:
    tree.git("remote", "add", "origin", "https://ann:canary-4711@git.corp.example/data/kits.git")
    assert call("release", "airline-source").code == 0
    release = registry.release("airline-source", "1.0.0")
    assert release is not None
    manifest = registry.manifest("datakits/airline-source", release.digest)
    assert manifest["annotations"]["org.opencontainers.image.source"] == "https://git.corp.example/data/kits"
    shown = call("show", "airline-source@1.0.0")
    assert "canary-4711" not in json.dumps(manifest) + shown.out


def test_https_and_ssh_remotes_make_the_same_image(tree: Tree, address: str, call: Call) -> None:
    tree.git("remote", "add", "origin", "git@git.corp.example:data/kits.git")
    first = call("build", "airline-source").json["digest"]
    tree.git("remote", "set-url", "origin", "https://git.corp.example/data/kits")
    assert call("build", "airline-source").json["digest"] == first


def test_what_is_not_committed_is_told_by_the_revision_of_a_build(tree: Tree, address: str, call: Call) -> None:
    revision = tree.git("rev-parse", "HEAD")
    assert call("build", "airline-source").json["revision"] == revision
    tree.write("datakits/airline-source/new.sql", "SELECT 1\n")
    assert call("build", "airline-source").json["revision"] == f"{revision}-dirty"


def test_a_release_without_a_registry_says_how_to_choose_one(
    tree: Tree, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAKIT_REGISTRY", raising=False)
    answer = call("release", "airline-source")
    assert (answer.code, answer.error["what"]) == (78, "no registry is chosen")
    assert "DATAKIT_REGISTRY" in answer.error["fix"]


def test_the_registry_of_the_tree_s_environments_is_taken(
    tree: Tree, address: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAKIT_REGISTRY")
    tree.write("warehouses/environments/int.yaml", f"name: int\nruntime: docker\nregistry: {address}\n")
    tree.commit()
    assert call("release", "airline-source").code == 0


def test_a_registry_out_of_reach_is_traced_to_the_environments_that_name_it(
    tree: Tree, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datakit.release._transport._FIRST_PAUSE", 0)
    for name in ("int", "qa"):
        tree.write(
            f"warehouses/environments/{name}.yaml", f"name: {name}\nruntime: docker\nregistry: registry.invalid/data\n"
        )
    answer = call("releases", "airline-source")
    assert (answer.code, answer.error["subject"]) == (75, "registry.invalid")
    assert "registry.invalid/data comes from the tree's environments int, qa," in answer.error["cause"]
    assert "DATAKIT_REGISTRY" in answer.error["fix"]
    assert call("releases", "airline-source", "--registry", "registry.invalid/data").error["cause"] is None


def test_an_environment_that_pulls_nothing_names_no_registry(
    tree: Tree, address: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAKIT_REGISTRY")
    place = "name: {}\nruntime: docker\nregistry: {}\ndocker: {{pull: {}}}\n"
    tree.write("warehouses/environments/int.yaml", place.format("int", address, "missing"))
    tree.write("warehouses/environments/laptop.yaml", place.format("laptop", "built.here", "never"))
    tree.commit()
    assert call("release", "airline-source").code == 0
    tree.write("warehouses/environments/laptop.yaml", place.format("laptop", "built.here", "missing"))
    refused = call("release", "airline-source")
    assert (refused.code, refused.error["what"].split(": ")[0]) == (78, "the environments name 2 registries")
