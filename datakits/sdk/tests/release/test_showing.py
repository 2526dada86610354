"""What was released is listed, shown, compared and verified, with signatures and without."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from datakit.release._media import INDEX, MANIFEST, descriptor, encoded
from datakit.release.registry import Registry
from datakit_lab.registry import Registry as LabRegistry

from .conftest import Answer, Tree

Call = Callable[..., Answer]
SOURCE = "datakits/airline-source"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    """A private and a public key, and those of somebody else, made as the documentation says."""
    made = {}
    for name in ("ours", "theirs"):
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
        made |= {f"{name} private": private, f"{name} public": public}
    return made


def test_releases_are_listed_the_newest_first_and_foreign_tags_left_out(
    released: Tree, registry: Registry, call: Call
) -> None:
    released.set_version("airline-source", "1.0.10")
    released.commit()
    assert call("release", "airline-source").code == 0
    first = registry.resolve(SOURCE, "v1.0.0") or ""
    registry.push_manifest(SOURCE, registry.manifest_bytes(SOURCE, first), tag="latest")
    listed = call("releases", "airline-source").json["releases"]
    assert [each["version"] for each in listed] == ["1.0.10", "1.0.0"]
    text = call("releases", "airline-source", text=True)
    assert first in text.out


def test_a_datakit_without_a_release_is_nothing_to_list(tree: Tree, address: str, call: Call) -> None:
    assert call("releases", "airline-source").json["releases"] == []
    assert call("releases", "airline-source", text=True).code == 99


def test_show_tells_everything_that_belongs_to_a_release(released: Tree, call: Call) -> None:
    shown = call("show", "sqlserver-bronze@1.0.0").json
    assert sorted(shown["datasets"]) == ["airline.flights", "airline.planes"]
    assert shown["landing"]["naming"] == "snake_case"
    assert [each["name"] for each in shown["includes"]] == ["airline-source"]
    materials = shown["provenance"]["buildDefinition"]["resolvedDependencies"]
    used = {value for each in materials for value in each["digest"].values()}
    assert {shown["revision"], shown["base"]["digest"].partition(":")[2]} <= used
    assert {each["digest"].partition(":")[2] for each in shown["includes"]} <= used
    text = call("show", "sqlserver-bronze@1.0.0", text=True).out
    for part in (shown["digest"], shown["revision"], "airline.flights: 2 columns, key FlightID", "signed by nobody"):
        assert part in text


def test_the_bill_of_materials_names_source_datakits_and_the_packages_of_the_base(released: Tree, call: Call) -> None:
    bill = json.loads(call("show", "sqlserver-bronze@1.0.0", "--sbom", text=True).out)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    names = {each["name"]: each for each in bill["components"]}
    assert names["airline-source"]["version"] == "1.0.0"
    assert names["pyarrow"]["purl"] == "pkg:pypi/pyarrow@25.0.0"
    assert names["pyarrow"]["licenses"] == [{"expression": "Apache-2.0"}]
    references = {each["bom-ref"] for each in (*bill["components"], bill["metadata"]["component"])}
    assert {ref for each in bill["dependencies"] for ref in (each["ref"], *each["dependsOn"])} <= references


def test_an_unknown_release_suggests_the_nearest(released: Tree, call: Call) -> None:
    answer = call("show", "airline-source@1.0.1")
    assert (answer.code, answer.error["type"]) == (78, "UnknownName")
    assert answer.error["cause"] == "did you mean '1.0.0'?"
    assert call("show", "airline-source").error["fix"].startswith("write NAME@VERSION")


def test_two_releases_are_compared_with_the_bump_that_each_change_calls_for(released: Tree, call: Call) -> None:
    released.edit(
        "datakits/airline-source/contracts/flights.yaml",
        "type: int32}\n",
        "type: int32}\n  - {name: Gate, type: string}\n",
    )
    released.set_version("airline-source", "1.1.0")
    released.commit()
    assert call("release", "airline-source").code == 0
    answer = call("contract", "diff", "airline-source@1.0.0", "airline-source@1.1.0")
    assert answer.code == 78
    assert answer.json["changes"] == [{"dataset": "airline.flights", "change": "+ Gate: string", "bump": "minor"}]
    same = call("contract", "diff", "airline-source@1.0.0", "airline-source@1.0.0", text=True)
    assert (same.code, same.out) == (0, "no difference\n")


# Verification


def test_a_release_is_verified_whole(released: Tree, call: Call) -> None:
    answer = call("verify", "sqlserver-bronze@1.0.0")
    assert (answer.code, answer.json["ok"]) == (0, True)
    assert [each["subject"] for each in answer.json["findings"]] == [
        "content",
        "contract",
        "bill of materials",
        "provenance",
        "airline-source 1.0.0",
    ]


def test_a_signature_is_verified_with_the_key_of_those_who_release(
    tree: Tree, address: str, call: Call, keys: dict[str, Path]
) -> None:
    assert call("release", "airline-source", "--key", str(keys["ours private"])).code == 0
    right = call("verify", "airline-source@1.0.0", "--key", str(keys["ours public"]))
    assert right.code == 0
    assert "verified" in right.json["findings"][3]["words"]
    wrong = call("verify", "airline-source@1.0.0", "--key", str(keys["theirs public"]))
    assert wrong.code == 78
    assert wrong.json["errors"][0]["what"] == "the signature is not of that key"
    assert "not verified" in call("verify", "airline-source@1.0.0").json["findings"][3]["words"]
    assert call("show", "airline-source@1.0.0").json["signed_by"].startswith("sha256:")


def test_a_second_signature_does_not_hide_the_first(
    tree: Tree, address: str, registry: Registry, call: Call, keys: dict[str, Path]
) -> None:
    from datakit.release._provenance import signed
    from datakit.release.attachments import PROVENANCE, attached

    assert call("release", "airline-source").code == 0
    digest = registry.resolve(SOURCE, "v1.0.0") or ""
    statement = next(attached(registry, SOURCE, digest, PROVENANCE))
    subject = descriptor(MANIFEST, registry.manifest_bytes(SOURCE, digest))
    for name in ("theirs", "ours"):
        attachment = signed(statement, keys[f"{name} private"])
        registry.push_blob(SOURCE, descriptor("", attachment.data)["digest"], attachment.data, len(attachment.data))
        registry.attach(SOURCE, subject, attachment.manifest(subject))
    for name in ("theirs", "ours"):
        assert call("verify", "airline-source@1.0.0", "--key", str(keys[f"{name} public"])).code == 0


def test_an_unsigned_release_does_not_pass_for_a_signed_one(released: Tree, call: Call, keys: dict[str, Path]) -> None:
    answer = call("verify", "airline-source@1.0.0", "--key", str(keys["ours public"]))
    assert answer.code == 78
    assert answer.json["errors"][0]["what"] == "nobody signed the provenance"


def test_a_release_is_signed_afterwards_and_a_signed_one_gets_no_unsigned_provenance(
    released: Tree, call: Call, keys: dict[str, Path]
) -> None:
    signed = call("release", "airline-source", "--key", str(keys["ours private"])).json
    assert (signed["state"], signed["attached"]) == ("already released", ["application/vnd.dsse.envelope.v1+json"])
    assert call("verify", "airline-source@1.0.0", "--key", str(keys["ours public"])).code == 0
    assert call("release", "airline-source").json["attached"] == []


def test_a_key_with_a_passphrase_and_one_on_a_curve_sign(tree: Tree, address: str, call: Call, tmp_path: Path) -> None:
    private, public, phrase = tmp_path / "ec.pem", tmp_path / "ec.pub", tmp_path / "phrase"
    phrase.write_text("canary-4711\n", encoding="utf-8")
    curve = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes256"]
    subprocess.run([*curve, "-pass", f"file:{phrase}", "-out", private], check=True)
    subprocess.run(
        ["openssl", "pkey", "-in", private, "-passin", f"file:{phrase}", "-pubout", "-out", public], check=True
    )
    locked = call("release", "airline-source", "--key", str(private))
    assert (locked.code, locked.error["fix"]) == (78, "give the passphrase's file: --key-passphrase-file")
    signed = call("release", "airline-source", "--key", str(private), "--key-passphrase-file", str(phrase))
    assert signed.code == 0
    assert call("verify", "airline-source@1.0.0", "--key", str(public)).code == 0
    assert "canary-4711" not in signed.out + signed.err


def test_a_key_that_cannot_sign_is_refused_before_anything_is_released(
    tree: Tree, registry: Registry, address: str, call: Call, tmp_path: Path, keys: dict[str, Path]
) -> None:
    rsa = tmp_path / "rsa.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-out", rsa], check=True, capture_output=True)
    for path in (rsa, tmp_path / "missing.pem", keys["ours public"]):
        answer = call("release", "airline-source", "--key", str(path))
        assert (answer.code, answer.error["subject"]) == (78, str(path))
        assert registry.tags(SOURCE) == ()


def test_provenance_of_another_image_is_found(released: Tree, registry: Registry, call: Call) -> None:
    """Somebody copies the attachments of a good release to a bad image."""
    good = registry.release("airline-source", "1.0.0")
    assert good is not None
    other = registry.release("sqlserver-bronze", "1.0.0")
    assert other is not None
    data = registry.manifest_bytes("datakits/sqlserver-bronze", other.digest)
    subject = descriptor(MANIFEST, data)
    entries = []
    for each in registry.referrers(SOURCE, good.digest):
        manifest = registry.manifest(SOURCE, each["digest"])
        for part in (manifest["config"], *manifest["layers"]):
            content = registry.blob(SOURCE, part["digest"])
            registry.push_blob("datakits/sqlserver-bronze", part["digest"], content, part["size"])
        forged = encoded({**manifest, "subject": subject})
        registry.push_manifest("datakits/sqlserver-bronze", forged)
        entries.append(descriptor(MANIFEST, forged, artifactType=manifest["artifactType"]))
    index = encoded({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
    tag = other.digest.replace(":", "-")
    registry.push_manifest("datakits/sqlserver-bronze", index, tag=tag, media_type=INDEX)
    answer = call("verify", "sqlserver-bronze@1.0.0")
    assert answer.code == 78
    wrong = {each["subject"] for each in answer.json["findings"] if not each["ok"]}
    assert wrong == {"contract", "bill of materials", "provenance"}


def test_attachments_that_a_clean_up_deleted_are_told_and_attached_again(
    released: Tree, lab: LabRegistry, path: str, registry: Registry, call: Call
) -> None:
    digest = registry.resolve(SOURCE, "v1.0.0") or ""
    tags = lab.storage / "docker/registry/v2/repositories" / path / SOURCE / "_manifests/tags"
    (tags / digest.replace(":", "-") / "current" / "link").unlink()
    lost = call("verify", "airline-source@1.0.0")
    assert lost.code == 78
    assert [each["subject"] for each in lost.json["findings"] if not each["ok"]] == [
        "contract",
        "bill of materials",
        "provenance",
    ]
    assert "datakit release airline-source" in lost.json["errors"][0]["fix"]
    assert len(call("release", "airline-source").json["attached"]) == 3
    assert call("verify", "airline-source@1.0.0").code == 0


def test_a_moved_tag_is_told(released: Tree, registry: Registry, call: Call) -> None:
    bronze = registry.release("sqlserver-bronze", "1.0.0")
    assert bronze is not None
    manifest = registry.manifest("datakits/sqlserver-bronze", bronze.digest)
    for part in (manifest["config"], *manifest["layers"]):
        content = registry.blob("datakits/sqlserver-bronze", part["digest"])
        registry.push_blob(SOURCE, part["digest"], content, part["size"])
    registry.push_manifest(SOURCE, registry.manifest_bytes("datakits/sqlserver-bronze", bronze.digest), tag="v1.0.0")
    answer = call("show", "airline-source@1.0.0")
    assert (answer.code, answer.error["cause"]) == (78, "somebody moved the tag")


def test_an_image_of_something_else_is_no_release(tree: Tree, registry: Registry, call: Call) -> None:
    data = encoded({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor("x/y", b"{}"), "layers": []})
    registry.push_blob(SOURCE, descriptor("x/y", b"{}")["digest"], b"{}", 2)
    registry.push_manifest(SOURCE, data, tag="v1.0.0")
    answer = call("show", "airline-source@1.0.0")
    assert (answer.code, answer.error["type"]) == (78, "ImageCorrupt")
    assert call("releases", "airline-source").json["releases"] == []


# Outside of a registry


def test_a_layout_holds_the_whole_image(tree: Tree, address: str, call: Call, tmp_path: Path) -> None:
    built = call("build", "airline-source", "--output", str(tmp_path / "image")).json
    index = json.loads((tmp_path / "image" / "index.json").read_bytes())
    assert index["manifests"][0]["digest"] == built["digest"]
    blobs = tmp_path / "image" / "blobs" / "sha256"
    manifest = json.loads((blobs / built["digest"].partition(":")[2]).read_bytes())
    assert {path.name for path in blobs.iterdir()} == {
        part["digest"].partition(":")[2] for part in (index["manifests"][0], manifest["config"], *manifest["layers"])
    }
    again = call("build", "airline-source", "--output", str(tmp_path / "image"))
    assert (again.code, again.json["digest"]) == (0, built["digest"])


def test_a_folder_with_something_else_is_not_written_to(tree: Tree, address: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear", encoding="utf-8")
    answer = call("build", "airline-source", "--output", str(tmp_path / "mine"))
    assert answer.code == 78
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_help_needs_neither_the_network_s_library_nor_the_models() -> None:
    script = "import sys, datakit.cli; print([n for n in ('urllib3', 'pydantic', 'pyarrow') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["urllib3", "cryptography"])
def test_a_missing_library_names_the_extra_that_brings_it(
    tree: Tree, address: str, keys: dict[str, Path], missing: str
) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; from datakit.cli import main; main()"
    command = ["release", "airline-source", "--key", str(keys["ours private"])]
    done = subprocess.run([sys.executable, "-c", script, *command], cwd=tree.root, capture_output=True, text=True)
    assert done.returncode == 78
    assert "pip install 'datakit[release]'" in done.stderr
