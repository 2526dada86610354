"""A registry that dies, refuses, fills up or lies at any point of a release: nothing half done looks released."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datakit.errors import (
    ConfigurationError,
    DatakitError,
    ImageCorrupt,
    RegistryDenied,
    RegistryUnavailable,
    ReleaseRefused,
)
from datakit.model.project import Project
from datakit.release.image import Built
from datakit.release.registry import Registry, open_registry
from datakit.release.releasing import build, push
from datakit.release.verifying import verify
from datakit.testing.images import push_base_image
from datakit_lab.registry import Registry as LabRegistry

from .conftest import Answer as Said
from .conftest import Tree
from .faulty import Answer, Cut, FaultyRegistry, Request, answers, dead_from

SOURCE = "datakits/airline-source"


def at_once(_seconds: float) -> None:
    """Do not wait between tries."""


def opened(faulty: FaultyRegistry, path: str) -> Registry:
    return open_registry(f"{faulty.host}/{path}", pause=at_once)


@pytest.fixture
def faulty(lab: LabRegistry, path: str, address: str) -> Iterator[FaultyRegistry]:
    with FaultyRegistry(lab.host) as server:
        yield server


@pytest.fixture
def through(faulty: FaultyRegistry, path: str, tree: Tree) -> Iterator[tuple[Registry, Built]]:
    """A registry behind the proxy, and an image that is ready for it."""
    with opened(faulty, path) as registry:
        built = build(Project.find(), "airline-source", registry)
        faulty.forget()
        yield registry, built


def is_complete(registry: Registry, built: Built) -> bool:
    """Whether it is released, with all that belongs to it, and everything is what its digest says."""
    release = registry.release("airline-source", "1.0.0")
    assert release is not None
    findings = list(verify(registry, release))
    assert [each.words for each in findings if each.error] == []
    attached = registry.referrers(SOURCE, release.digest)
    return (
        release.digest == built.image.digest and len(attached) == len({each["artifactType"] for each in attached}) == 3
    )


def failure_of(built: Built, registry: Registry) -> RegistryUnavailable | None:
    try:
        push(built, registry)
    except RegistryUnavailable as error:
        return error
    return None


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
def test_a_registry_that_dies_at_any_request_leaves_no_release_and_the_next_try_completes_it(
    lab: LabRegistry, tree: Tree, path: str, address: str, answered: bool
) -> None:
    pushed = lab.storage / "docker/registry/v2/repositories" / path / SOURCE
    with FaultyRegistry(lab.host) as faulty, opened(faulty, path) as registry, open_registry(address) as direct:
        built = build(Project.find(), "airline-source", registry)
        number, failure = 0, None
        while number == 0 or failure is not None:
            number += 1
            shutil.rmtree(pushed, ignore_errors=True)  # begin with nothing
            faulty.forget()
            faulty.rule = dead_from(number, answered=answered)
            failure = failure_of(built, registry)
            if failure is not None:
                assert (failure.exit_code, bool(failure.fix)) == (75, True)
                if "v1.0.0" not in direct.tags(SOURCE):  # else it is there, and what was lost is the news of it
                    assert direct.releases("airline-source") == ()
                    faulty.rule = FaultyRegistry.rule
                    push(built, registry)
            assert is_complete(direct, built)
    assert number > 15


@pytest.mark.parametrize("step", ["layers", "manifest", "contract, bill of materials, provenance", "tag"])
def test_a_killed_registry_is_completed_when_it_is_back(tree: Tree, tmp_path: Path, step: str) -> None:
    with LabRegistry(tmp_path / "registry") as lab, open_registry(lab.host, pause=at_once) as registry:
        push_base_image(registry)
        built = build(Project.find(), "airline-source", registry)

        def kill_at(now: str) -> None:
            if now == step:
                lab.kill()

        with pytest.raises(RegistryUnavailable) as raised:
            push(built, registry, say=kill_at)
        assert raised.value.what in ("nobody answers there", "the registry broke off in the middle")
        lab.start()
        assert registry.release("airline-source", "1.0.0") is None
        push(built, registry)
        assert is_complete(registry, built)


def test_a_killed_command_leaves_nothing_that_looks_released(tree: Tree, address: str, registry: Registry) -> None:
    script = (
        "import os, sys\n"
        "from datakit.model.project import Project\n"
        "from datakit.release.registry import open_registry\n"
        "from datakit.release.releasing import build, push\n"
        "registry = open_registry(sys.argv[1])\n"
        "built = build(Project.find(), 'airline-source', registry)\n"
        "push(built, registry, say=lambda step: os.kill(os.getpid(), 9) if step == 'tag' else None)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, address], cwd=tree.root, check=False)
    assert done.returncode == -9
    assert registry.releases("airline-source") == ()
    built = build(Project.find(), "airline-source", registry)
    assert push(built, registry).blobs == 0  # all of it was there
    assert is_complete(registry, built)


STEPS = ["HEAD blobs", "POST uploads", "PUT uploads", "PUT manifests", "GET referrers", "HEAD manifests"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (403, RegistryDenied, "does not let this account"),
        (429, RegistryUnavailable, "takes no more requests for now"),
        (500, RegistryUnavailable, "answered 500"),
        (503, RegistryUnavailable, "answered 503"),
        (418, ConfigurationError, "refused the request with 418"),
    ],
)
def test_each_refusal_at_each_step_is_told_apart(
    through: tuple[Registry, Built],
    faulty: FaultyRegistry,
    status: int,
    kind: type[DatakitError],
    words: str,
    step: str,
) -> None:
    registry, built = through
    faulty.rule = answers(status, step)
    with pytest.raises(kind) as raised:
        push(built, registry)
    assert words in raised.value.what
    assert raised.value.subject
    assert raised.value.fix
    if not step.startswith("HEAD"):  # an answer to HEAD has no body
        assert "said by the registry" in raised.value.what
    faulty.rule = FaultyRegistry.rule
    assert registry.releases("airline-source") == ()


@pytest.mark.parametrize("step", ["POST uploads", "PUT uploads", "PUT manifests", "GET referrers"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_refusal_that_passes_by_itself_is_not_even_told(
    through: tuple[Registry, Built], faulty: FaultyRegistry, status: int, step: str
) -> None:
    registry, built = through
    faulty.rule = answers(status, step, times=2)
    push(built, registry)
    assert is_complete(registry, built)


def test_a_registry_is_left_alone_as_long_as_it_asks_for(faulty: FaultyRegistry, path: str) -> None:
    waited: list[float] = []
    with open_registry(f"{faulty.host}/{path}", pause=waited.append) as registry:
        faulty.rule = answers(429, "GET tags", times=2, headers={"Retry-After": "7"})
        registry.tags(SOURCE)
    assert waited == [7, 7]


def test_a_repository_that_has_to_be_created_first_is_told(
    through: tuple[Registry, Built], faulty: FaultyRegistry
) -> None:
    registry, built = through
    faulty.rule = answers(404, "POST uploads")
    with pytest.raises(ConfigurationError) as raised:
        push(built, registry)
    assert "have the repository created" in str(raised.value.fix)


def test_a_full_disk_of_the_registry_is_told_and_leaves_no_release(tree: Tree, tmp_path: Path) -> None:
    tree.write("datakits/airline-source/sql/large.sql", "-- " + "x" * 200_000 + "\nSELECT 1\n")
    tree.commit()
    with (
        LabRegistry(tmp_path / "registry", largest_file=100_000) as lab,
        open_registry(lab.host, pause=at_once) as registry,
    ):
        push_base_image(registry)
        with pytest.raises(RegistryUnavailable) as raised:
            push(build(Project.find(), "airline-source", registry), registry)
        assert raised.value.cause == "its disk is full"
        assert "free space" in str(raised.value.fix)
        assert registry.releases("airline-source") == ()


def test_a_full_disk_of_this_machine_is_told_where_an_image_is_written(
    tree: Tree, address: str, tmp_path: Path
) -> None:
    # -B: Python itself would leave a bytecode file cut off, for everybody after it
    done = subprocess.run(
        [sys.executable, "-B", "-m", "datakit", "build", "airline-source", "--output", str(tmp_path / "image")],
        cwd=tree.root,
        env=os.environ | {"DATAKIT_REGISTRY": address},
        preexec_fn=functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (5000, 5000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert "the image cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "image" / "index.json").exists()
    assert list((tmp_path / "image").rglob("*.partial")) == []


# Content that is not what its digest says


def replaced(step: str, change: Callable[[bytes], bytes], *, keep_length: bool = False) -> Any:
    def rule(request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        if request.step != step or answer.status != 200:
            return answer
        body = change(answer.body)
        if keep_length:
            return Answer(answer.status, answer.headers, body)
        headers = [(name, value) for name, value in answer.headers if name.lower() != "content-length"]
        return Answer(answer.status, [*headers, ("Content-Length", str(len(body)))], body)

    return rule


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body[: len(body) // 2],
        lambda body: body.replace(b"1.0.0", b"1.0.1"),
        lambda _: b"<html>",
        lambda _: b"",
    ],
    ids=["truncated", "changed", "a login page", "empty"],
)
def test_a_manifest_that_is_not_what_its_digest_says_is_never_used(
    through: tuple[Registry, Built], faulty: FaultyRegistry, change: Callable[[bytes], bytes]
) -> None:
    registry, built = through
    push(built, registry)
    faulty.rule = replaced("GET manifests", change)
    with pytest.raises(ImageCorrupt) as raised:
        registry.release("airline-source", "1.0.0")
    assert "not what its digest says" in raised.value.what
    with pytest.raises(ImageCorrupt):
        registry.releases("airline-source")


def test_a_manifest_whose_connection_breaks_off_is_a_passing_failure(
    through: tuple[Registry, Built], faulty: FaultyRegistry
) -> None:
    registry, built = through
    push(built, registry)
    faulty.rule = replaced("GET manifests", lambda body: body[:100], keep_length=True)
    with pytest.raises(RegistryUnavailable) as raised:
        registry.release("airline-source", "1.0.0")
    assert raised.value.what == "the registry broke off in the middle"


def test_a_blob_that_is_not_what_its_digest_says_is_found_by_verify(
    through: tuple[Registry, Built], faulty: FaultyRegistry
) -> None:
    registry, built = through
    push(built, registry)
    release = registry.release("airline-source", "1.0.0")
    assert release is not None
    faulty.rule = replaced("GET blobs", lambda body: body[:-1] + b"?")
    wrong = [each.subject for each in verify(registry, release) if each.error]
    assert wrong == ["content", "contract", "bill of materials", "provenance"]


def test_storage_that_was_damaged_is_found_by_verify(
    released: Tree, lab: LabRegistry, registry: Registry, call: Callable[..., Said]
) -> None:
    release = registry.release("airline-source", "1.0.0")
    assert release is not None
    layer = registry.manifest(SOURCE, release.digest)["layers"][-1]["digest"].partition(":")[2]
    blob = lab.storage / "docker/registry/v2/blobs/sha256" / layer[:2] / layer / "data"
    whole = blob.read_bytes()
    try:
        blob.write_bytes(whole[:-1] + b"?")
        answer = call("verify", "airline-source@1.0.0")
        assert answer.code == 78
        assert [each["subject"] for each in answer.json["findings"] if not each["ok"]] == ["content"]
    finally:
        blob.write_bytes(whole)


def test_a_registry_that_says_it_stored_something_else_is_refused(
    through: tuple[Registry, Built], faulty: FaultyRegistry
) -> None:
    registry, built = through

    def other_digest(request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        if request.step != "PUT manifests":
            return answer
        kept = [(name, value) for name, value in answer.headers if name.lower() != "docker-content-digest"]
        return Answer(answer.status, [*kept, ("Docker-Content-Digest", f"sha256:{'0' * 64}")], answer.body)

    faulty.rule = other_digest
    with pytest.raises(ImageCorrupt):
        push(built, registry)
    faulty.rule = FaultyRegistry.rule
    assert registry.releases("airline-source") == ()


def test_somebody_who_releases_the_same_version_in_the_same_moment_wins_once(
    tree: Tree, registry: Registry, address: str
) -> None:
    mine = build(Project.find(), "airline-source", registry)
    tree.edit("datakits/airline-source/datakit.yaml", "ops.Planes", "ops.Aircraft")
    tree.commit()
    theirs = build(Project.find(), "airline-source", registry)

    def first(step: str) -> None:
        if step == "tag":
            push(theirs, registry)

    with pytest.raises(ReleaseRefused) as raised:
        push(mine, registry, say=first)
    assert theirs.image.digest in raised.value.what
    assert is_complete(registry, theirs)


def test_two_who_attach_to_the_same_image_at_once_both_stay_listed(
    through: tuple[Registry, Built], faulty: FaultyRegistry, address: str
) -> None:
    registry, built = through
    other = push_attachment_of_somebody_else(address, built)
    seen = [0]

    def meanwhile(request: Request, forward: Callable[[], Answer]) -> Answer:
        answer = forward()
        if request.method == "PUT" and "/manifests/sha256-" in request.path and not seen[0]:
            seen[0] = 1
            other()  # overwrites what was just listed
        return answer

    faulty.rule = meanwhile
    push(built, registry)
    kinds = [each["artifactType"] for each in registry.referrers(SOURCE, built.image.digest)]
    assert len(kinds) == 4
    assert "application/vnd.other" in kinds


def push_attachment_of_somebody_else(address: str, built: Built) -> Callable[[], None]:
    from datakit.release._media import INDEX, MANIFEST, descriptor, encoded
    from datakit.release.attachments import Attachment

    def overwrite() -> None:
        with open_registry(address) as direct:
            attachment = Attachment("application/vnd.other", b"{}")
            direct.push_blob(SOURCE, descriptor("", b"{}")["digest"], b"{}", 2)
            data = attachment.manifest(built.image.descriptor)
            direct.push_manifest(SOURCE, data)
            entry = descriptor(MANIFEST, data, artifactType=attachment.kind)
            index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
            tag = built.image.digest.replace(":", "-")
            direct.push_manifest(SOURCE, encoded(index), tag=tag, media_type=INDEX)

    return overwrite


def test_a_registry_that_cannot_share_layers_gets_a_copy(
    through: tuple[Registry, Built], faulty: FaultyRegistry
) -> None:
    registry, built = through

    def no_mount(request: Request, forward: Callable[[], Answer]) -> Answer:
        if request.method == "POST" and "mount=" in request.path:
            return Answer(202, [("Location", "/nowhere"), ("Content-Length", "0")], b"")
        return forward()

    faulty.rule = no_mount
    assert push(built, registry).blobs == 3  # the layers of the base and of the datakit, and the config
    assert is_complete(registry, built)


def test_a_login_page_instead_of_a_registry_is_told(faulty: FaultyRegistry, path: str) -> None:
    faulty.rule = lambda request, forward: Answer(200, [("Content-Length", "13")], b"<html></html>")
    with opened(faulty, path) as registry, pytest.raises(ConfigurationError) as raised:
        registry.tags(SOURCE)
    assert "no registry" in raised.value.what
    assert "login page" in str(raised.value.cause)


def test_a_silent_registry_is_told_at_the_command_with_exit_code_75(
    tree: Tree, faulty: FaultyRegistry, path: str, call: Callable[..., Said]
) -> None:
    def cut(request: Request, forward: Callable[[], Answer]) -> Answer:
        raise Cut

    faulty.rule = cut
    answer = call("releases", "airline-source", "--registry", f"{faulty.host}/{path}")
    assert (answer.code, answer.error["retryable"]) == (75, True)
    assert answer.error["subject"].startswith("127.0.0.1")
