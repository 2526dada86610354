"""Astronomer's API: the call that its documentation shows, and what each of its answers means for a person."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datakit.errors import AccessDenied, ConfigurationError, DatakitError, TemporaryError
from datakit.model.environment import AirflowDeployment
from datakit.model.lock import Lock
from datakit.release.astronomer import request_of, update_image
from datakit.release.deploying import Deployable
from datakit_lab.astronomer import KEY, Astronomer, Deployment
from datakit_lab.certificates import issue_certificate

NAME = f"registry.corp.example/data/platform/airflow-deployment@sha256:{'7' * 64}"
IMAGE = Deployable(
    image=NAME,
    digest=f"sha256:{'7' * 64}",
    version="2026.11.20-4be1c07a93d2-1f0c9a77",
    revision="4" * 40,
    created="2026-11-20T09:00:00Z",
    lock=Lock(environment="int"),
    runtime_version="3.1-4",
)


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The service account's key where the sidecar publishes it."""
    file = tmp_path / "secrets/astronomer/key"
    file.parent.mkdir(parents=True)
    file.write_text(f"{KEY}\n")
    monkeypatch.setenv("DATAKIT_SECRETS", str(tmp_path / "secrets"))
    return file


@pytest.fixture
def double() -> Iterator[Astronomer]:
    with Astronomer() as astronomer:
        yield astronomer


def way(url: str, **more: Any) -> AirflowDeployment:
    said = {"release": "stellar-quark-1234", "token": "astronomer/key", **more}
    return AirflowDeployment(deploy="astronomer", url=url, **said)


def told(tmp_path: Path, there: AirflowDeployment) -> Any:
    return update_image(tmp_path, there, IMAGE, pause=lambda _: None)


def error(tmp_path: Path, there: AirflowDeployment) -> DatakitError:
    with pytest.raises(DatakitError) as caught:
        told(tmp_path, there)
    assert KEY not in json.dumps(caught.value.as_json())
    return caught.value


def test_the_deployment_gets_the_image_by_digest(tmp_path: Path, double: Astronomer) -> None:
    assert {"releaseName": "stellar-quark-1234", "runtimeVersion": "3.1-4"} == dict(told(tmp_path, way(double.url)))
    assert Deployment("clx0int", NAME, "3.1-4") == double.deployments["stellar-quark-1234"]


def test_what_is_shown_before_is_what_is_sent_and_holds_no_key(tmp_path: Path, double: Astronomer) -> None:
    shown = request_of(way(double.url), IMAGE)
    told(tmp_path, way(double.url))
    assert [shown] == double.requests
    assert KEY not in json.dumps(shown)


def test_a_refused_key_and_a_deployment_that_is_not_there_are_denied(
    tmp_path: Path, double: Astronomer, key: Path
) -> None:
    assert isinstance(error(tmp_path, way(double.url, release="other-1")), AccessDenied)
    key.write_text("old-key")
    refused = error(tmp_path, way(double.url))
    assert isinstance(refused, AccessDenied)
    assert "You do not have the appropriate permissions" in refused.what
    assert "astronomer/key" in (refused.cause or "")
    assert "old-key" not in json.dumps(refused.as_json())


@pytest.mark.parametrize("status", [401, 403])
def test_a_status_that_denies_is_not_tried_again(tmp_path: Path, double: Astronomer, status: int) -> None:
    double.answer = lambda _: (status, b"")
    assert 77 == error(tmp_path, way(double.url)).exit_code
    assert 1 == len(double.requests)


def test_a_key_that_is_not_there_is_said_before_anything_is_sent(tmp_path: Path, double: Astronomer, key: Path) -> None:
    key.unlink()
    assert "the secret 'astronomer/key' is not there" == error(tmp_path, way(double.url)).what
    assert [] == double.requests


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_may_pass_is_tried_again(tmp_path: Path, double: Astronomer, status: int) -> None:
    double.answer = lambda number: (status, b"{}") if number < 3 else None
    told(tmp_path, way(double.url))
    assert NAME == double.deployments["stellar-quark-1234"].image


def test_what_does_not_pass_is_temporary(tmp_path: Path, double: Astronomer) -> None:
    double.answer = lambda _: (503, b"")
    found = error(tmp_path, way(double.url))
    assert isinstance(found, TemporaryError)
    assert "answered 503" in found.what
    assert 3 == len(double.requests)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>log in</html>", "is not Astronomer's API"),
        (404, b"not found", "is not Astronomer's API"),
        (200, b"[]", "is not Astronomer's API"),
        (200, b'{"data": {}}', "did not say that the image was set"),
        (302, b'{"data": null}', "did not say that the image was set"),
        (400, b'{"errors": [{"message": "Cannot query field"}]}', "refused it: Cannot query field"),
        (200, b'{"errors": ["odd"]}', "is not Astronomer's API"),
    ],
)
def test_an_answer_that_is_none_is_a_mistake_of_the_configuration(
    tmp_path: Path, double: Astronomer, status: int, body: bytes, words: str
) -> None:
    double.answer = lambda _: (status, body)
    found = error(tmp_path, way(double.url))
    assert isinstance(found, ConfigurationError)
    assert words in found.what


def test_nobody_there_is_temporary(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    assert "cannot be reached" in error(tmp_path, way(url)).what


def test_a_key_is_not_sent_without_tls_to_another_machine(tmp_path: Path) -> None:
    assert "has to have TLS" in error(tmp_path, way("http://houston.corp.example/v1")).what


def test_a_private_authority_is_named_in_the_environment(tmp_path: Path) -> None:
    certificate = issue_certificate(tmp_path / "certificates", hosts=("127.0.0.1",))
    with Astronomer(certificate=certificate) as astronomer:
        untrusted = error(tmp_path, way(astronomer.url))
        assert "is not trusted" in untrusted.what
        assert [] == astronomer.requests
        told(tmp_path, way(astronomer.url, ca_file=str(certificate.authority)))
        assert 1 == len(astronomer.requests)
    assert "cannot be read" in error(tmp_path, way(astronomer.url, ca_file="no/such.pem")).what
