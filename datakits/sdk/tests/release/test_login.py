"""Logins, certificates and names: who may talk to a registry, over what, and what is said if that fails."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from datakit.errors import (
    ConfigurationError,
    DatakitError,
    RegistryDenied,
    RegistryUnavailable,
    SecretUnavailable,
)
from datakit.model.project import Project
from datakit.release.registry import open_registry
from datakit.release.releasing import build, push
from datakit.testing.images import push_base_image
from datakit_lab.certificates import ServerCertificate, issue_certificate
from datakit_lab.network import free_port
from datakit_lab.registry import Registry as LabRegistry

from .conftest import Answer, Tree
from .faulty import Answer as Forwarded
from .faulty import FaultyRegistry, Request
from .token_server import TokenServer

PASSWORD = "canary-4711-sesame"
SOURCE = "datakits/airline-source"


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return issue_certificate(tmp_path_factory.mktemp("certificate"), LabRegistry.names())


@pytest.fixture(scope="module")
def guarded() -> Iterator[LabRegistry]:
    """A registry that wants a password."""
    with LabRegistry(users={"ann": PASSWORD}) as server:
        yield server


@pytest.fixture
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], Path]:
    """Writes Docker's ``config.json``."""

    def write(content: object) -> Path:
        path = tmp_path / "docker" / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        monkeypatch.setenv("DOCKER_CONFIG", str(path.parent))
        return path

    return write


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a credential helper ``docker-credential-lab`` with that shell script."""

    def install(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "docker-credential-lab"
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return install


# Passwords


def test_a_name_and_a_password_file_log_in(guarded: LabRegistry, password_file: Path) -> None:
    with open_registry(guarded.host, user="ann", password_file=password_file) as registry:
        assert registry.tags(SOURCE) == ()


def test_variables_name_the_login_as_the_sidecar_publishes_it(
    guarded: LabRegistry, password_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAKIT_REGISTRY_USER", "ann")
    monkeypatch.setenv("DATAKIT_REGISTRY_PASSWORD_FILE", str(password_file))
    with open_registry(guarded.host) as registry:
        assert registry.tags(SOURCE) == ()


def test_a_rotated_password_is_read_again_without_a_new_registry(guarded: LabRegistry, password_file: Path) -> None:
    password_file.write_text("yesterday's", encoding="utf-8")
    with open_registry(guarded.host, user="ann", password_file=password_file) as registry:
        with pytest.raises(RegistryDenied):
            registry.tags(SOURCE)
        password_file.write_text(PASSWORD, encoding="utf-8")
        assert registry.tags(SOURCE) == ()


def test_a_refused_password_is_sent_once_per_request_because_accounts_get_locked(
    guarded: LabRegistry, password_file: Path
) -> None:
    password_file.write_text("wrong", encoding="utf-8")
    sent: list[str] = []

    def count(request: Request, forward: Callable[[], Forwarded]) -> Forwarded:
        answer = forward()
        sent.append(f"{answer.status}")
        return answer

    with (
        FaultyRegistry(guarded.host, count) as between,
        open_registry(between.host, user="ann", password_file=password_file) as registry,
        pytest.raises(RegistryDenied),
    ):
        registry.tags(SOURCE)
    assert sent == ["401", "401"]  # the question what it wants, and one answer


def test_no_login_says_how_to_log_in(guarded: LabRegistry) -> None:
    with open_registry(guarded.host) as registry, pytest.raises(RegistryDenied) as raised:
        registry.tags(SOURCE)
    assert raised.value.exit_code == 77
    assert "there is none for it" in raised.value.what
    assert f"docker login {guarded.host}" in str(raised.value.fix)


def test_a_wrong_password_says_where_it_came_from_and_never_what_it_is(
    guarded: LabRegistry, tree: Tree, password_file: Path, call: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "canary-0815-wrong"
    password_file.write_text(wrong, encoding="utf-8")
    monkeypatch.setenv("DATAKIT_DEBUG", "1")
    options = ["--registry", guarded.host, "--username", "ann", "--password-file", str(password_file)]
    for text in (False, True):
        answer = call("releases", "airline-source", *options, text=text)
        assert answer.code == 77
        assert str(password_file) in answer.err
        said = answer.out + answer.err
        assert wrong not in said
        assert base64.b64encode(f"ann:{wrong}".encode()).decode() not in said


@pytest.mark.parametrize("content", ["", "\n", None])
def test_a_password_file_without_a_password_is_told_before_anything_is_sent(
    guarded: LabRegistry, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "empty"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with (
        open_registry(guarded.host, user="ann", password_file=path) as registry,
        pytest.raises(SecretUnavailable) as raised,
    ):
        registry.tags(SOURCE)
    assert raised.value.subject == str(path)


def test_half_a_login_is_refused(guarded: LabRegistry) -> None:
    with open_registry(guarded.host, user="ann") as registry, pytest.raises(ConfigurationError) as raised:
        registry.tags(SOURCE)
    assert "--password-file" in str(raised.value.fix)


# Docker's own


@pytest.mark.parametrize("spelling", ["{}", "https://{}", "https://{}/v2/"])
def test_what_docker_login_left_is_taken(
    guarded: LabRegistry, docker_config: Callable[[object], Path], spelling: str
) -> None:
    auth = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
    docker_config({"auths": {spelling.format(guarded.host): {"auth": auth}}})
    with open_registry(guarded.host) as registry:
        assert registry.tags(SOURCE) == ()


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_credential_helper_is_asked(
    guarded: LabRegistry, docker_config: Callable[[object], Path], helper: Callable[[str], None], key: str
) -> None:
    docker_config({key: "lab" if key == "credsStore" else {guarded.host: "lab"}})
    said = json.dumps({"ServerURL": guarded.host, "Username": "ann", "Secret": PASSWORD})
    helper(f"test \"$1\" = get && server=$(cat) && test \"$server\" = '{guarded.host}' && echo '{said}'")
    with open_registry(guarded.host) as registry:
        assert registry.tags(SOURCE) == ()


def test_a_credential_helper_is_not_asked_for_every_request(
    guarded: LabRegistry, docker_config: Callable[[object], Path], helper: Callable[[str], None], tmp_path: Path
) -> None:
    docker_config({"credsStore": "lab"})
    helper(f"echo x >>{tmp_path}/asked; echo '{json.dumps({'Username': 'ann', 'Secret': PASSWORD})}'")
    with open_registry(guarded.host) as registry:
        for _ in range(5):
            registry.tags(SOURCE)
    assert len((tmp_path / "asked").read_text().split()) == 1


def test_a_helper_that_knows_nobody_means_no_login(
    guarded: LabRegistry, docker_config: Callable[[object], Path], helper: Callable[[str], None]
) -> None:
    docker_config({"credsStore": "lab"})
    helper("echo 'credentials not found in native keychain'; exit 1")
    with open_registry(guarded.host) as registry, pytest.raises(RegistryDenied) as raised:
        registry.tags(SOURCE)
    assert "there is none for it" in raised.value.what


@pytest.mark.parametrize(
    ("script", "words"),
    [(None, "not installed"), (f"echo {PASSWORD}; exit 3", "failed with code 3"), (f"echo {PASSWORD}", "no login")],
)
def test_a_helper_that_is_missing_or_fails_is_named_and_its_words_are_kept_back(
    guarded: LabRegistry,
    docker_config: Callable[[object], Path],
    helper: Callable[[str], None],
    script: str | None,
    words: str,
) -> None:
    docker_config({"credsStore": "lab"})
    if script is not None:
        helper(script)
    with open_registry(guarded.host) as registry, pytest.raises(RegistryDenied) as raised:
        registry.tags(SOURCE)
    assert words in raised.value.what
    assert "docker-credential-lab" in raised.value.what
    assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize("content", ["{", "[]", {"auths": ["x"]}, {"auths": {"HOST": {"auth": "!"}}}])
def test_a_malformed_docker_configuration_is_named(
    guarded: LabRegistry, docker_config: Callable[[object], Path], content: object
) -> None:
    text = json.dumps(content).replace("HOST", guarded.host) if not isinstance(content, str) else content
    path = docker_config(text)
    with open_registry(guarded.host) as registry, pytest.raises(ConfigurationError) as raised:
        registry.tags(SOURCE)
    assert raised.value.subject == str(path)


# Bearer tokens


@pytest.fixture
def tokens(certificate: ServerCertificate) -> Iterator[TokenServer]:
    users = {"ann": PASSWORD, "rob": PASSWORD}
    with TokenServer(certificate, users, readers=("rob",), refresh_tokens=("identity",)) as server:
        yield server


@pytest.fixture
def by_token(tokens: TokenServer, tmp_path: Path) -> Iterator[LabRegistry]:
    with LabRegistry(token=tokens.settings(tmp_path / "bundle.pem")) as server:
        yield server


def test_a_datakit_is_released_with_bearer_tokens_of_the_least_scope(
    by_token: LabRegistry, tokens: TokenServer, tree: Tree, password_file: Path
) -> None:
    with open_registry(f"{by_token.host}/data", user="ann", password_file=password_file) as registry:
        push_base_image(registry)
        push(build(Project.find(), "airline-source", registry), registry)
        assert [each.version for each in registry.releases("airline-source")] == ["1.0.0"]
    assert "repository:data/datakits/airline-source:pull" in tokens.scopes
    assert "repository:data/platform/datakit-base:pull" in tokens.scopes
    assert len(tokens.scopes) < 10  # a token is used until it ends


def test_an_identity_token_is_exchanged(by_token: LabRegistry, docker_config: Callable[[object], Path]) -> None:
    docker_config({"auths": {by_token.host: {"identitytoken": "identity"}}})
    with open_registry(by_token.host) as registry:
        push_base_image(registry)


def test_tokens_that_end_during_a_release_are_fetched_again(
    by_token: LabRegistry, tokens: TokenServer, tree: Tree, password_file: Path
) -> None:
    tokens.stated_life = 0
    with open_registry(by_token.host, user="ann", password_file=password_file) as registry:
        push_base_image(registry)
        push(build(Project.find(), "airline-source", registry), registry)
        assert registry.release("airline-source", "1.0.0") is not None


def test_an_account_that_may_only_read_is_told_so_and_nothing_is_released(
    by_token: LabRegistry, tokens: TokenServer, tree: Tree, password_file: Path
) -> None:
    with open_registry(by_token.host, user="ann", password_file=password_file) as registry:
        push_base_image(registry)
    with open_registry(by_token.host, user="rob", password_file=password_file) as registry:
        built = build(Project.find(), "airline-source", registry)
        with pytest.raises(RegistryDenied) as raised:
            push(built, registry)
        assert "rob" in raised.value.what
        assert registry.releases("airline-source") == ()


def test_a_token_that_the_registry_no_longer_takes_is_replaced(
    by_token: LabRegistry, tokens: TokenServer, password_file: Path
) -> None:
    revoked: list[bool] = []

    def revoke_once(request: Request, forward: Callable[[], Forwarded]) -> Forwarded:
        if between.authorizations[-1] and revoked == [False]:
            revoked[0] = True
            challenge = f'Bearer realm="{tokens.url}",service="registry.corp.example"'
            return Forwarded(401, [("WWW-Authenticate", challenge), ("Content-Length", "0")], b"")
        return forward()

    with (
        FaultyRegistry(by_token.host, revoke_once) as between,
        open_registry(between.host, user="ann", password_file=password_file) as registry,
    ):
        registry.tags(SOURCE)  # gets a token
        revoked.append(False)
        assert registry.tags(SOURCE) == ()  # which is refused, and replaced
    assert revoked == [True]


def test_a_password_that_the_token_server_refuses_is_told(by_token: LabRegistry, password_file: Path) -> None:
    password_file.write_text("wrong", encoding="utf-8")
    with (
        open_registry(by_token.host, user="ann", password_file=password_file) as registry,
        pytest.raises(RegistryDenied) as raised,
    ):
        registry.tags(SOURCE)
    assert "token server answered 401" in raised.value.what


def test_a_token_server_without_tls_elsewhere_never_gets_a_password(lab: LabRegistry, password_file: Path) -> None:
    challenge = 'Bearer realm="http://tokens.corp.example/token",service="registry"'

    def lure(request: Request, forward: Callable[[], Forwarded]) -> Forwarded:
        return Forwarded(401, [("WWW-Authenticate", challenge), ("Content-Length", "0")], b"")

    with (
        FaultyRegistry(lab.host, lure) as luring,
        open_registry(luring.host, user="ann", password_file=password_file) as registry,
        pytest.raises(ConfigurationError) as raised,
    ):
        registry.tags(SOURCE)
    assert "without TLS" in raised.value.what


def test_another_place_that_a_blob_is_fetched_from_never_gets_the_login(
    guarded: LabRegistry, password_file: Path, lab: LabRegistry
) -> None:
    seen: list[str] = []

    def elsewhere(request: Request, forward: Callable[[], Forwarded]) -> Forwarded:
        seen.append(request.path)
        return Forwarded(200, [("Content-Length", "2")], b"{}")

    digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    with FaultyRegistry(lab.host, elsewhere) as storage:

        def redirect(request: Request, forward: Callable[[], Forwarded]) -> Forwarded:
            if request.step == "GET blobs":
                return Forwarded(307, [("Location", f"http://{storage.host}/blob"), ("Content-Length", "0")], b"")
            return forward()

        with (
            FaultyRegistry(guarded.host, redirect) as between,
            open_registry(between.host, user="ann", password_file=password_file) as registry,
        ):
            registry.tags(SOURCE)
            assert registry.blob(SOURCE, digest) == b"{}"
    assert seen == ["/blob"]
    assert storage.authorizations == [None]


# TLS and names


def test_a_private_authority_is_trusted_when_it_is_given(
    certificate: ServerCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LabRegistry(certificate=certificate) as server:
        for host in (server.host, server.name):
            with open_registry(host, ca_file=certificate.authority) as registry:
                assert registry.tags(SOURCE) == ()
        monkeypatch.setenv("DATAKIT_REGISTRY_CA", str(certificate.authority))
        with open_registry(server.name) as registry:
            assert registry.tags(SOURCE) == ()


def test_an_unknown_authority_is_refused_also_on_this_machine(certificate: ServerCertificate) -> None:
    with (
        LabRegistry(certificate=certificate) as server,
        open_registry(server.host) as registry,
        pytest.raises(ConfigurationError) as raised,
    ):
        registry.tags(SOURCE)
    assert "not trusted" in raised.value.what
    assert "--ca-file" in str(raised.value.fix)
    assert f"/etc/docker/certs.d/{server.host}/ca.crt" in str(raised.value.fix)


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    other = issue_certificate(tmp_path / "other", ["registry.corp.example"])
    with (
        LabRegistry(certificate=other) as server,
        open_registry(server.host, ca_file=other.authority) as registry,
        pytest.raises(ConfigurationError) as raised,
    ):
        registry.tags(SOURCE)
    assert "another name" in raised.value.what


def test_a_registry_behind_a_proxy_that_ends_tls_is_never_spoken_to_without_it(
    guarded: LabRegistry, certificate: ServerCertificate, password_file: Path
) -> None:
    locations: list[str] = []

    def note(request: Request, forward: Callable[[], Forwarded]) -> Forwarded:
        answer = forward()
        locations.extend(value for name, value in answer.headers if name == "Location")
        return answer

    with (
        FaultyRegistry(guarded.host, note, certificate=certificate) as proxy,
        open_registry(proxy.host, user="ann", password_file=password_file, ca_file=certificate.authority) as registry,
    ):
        push_base_image(registry)
    assert any(location.startswith(f"http://{proxy.host}/") for location in locations)  # it would have sent us there


def test_an_authority_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    for content in (None, "not a certificate"):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigurationError) as raised:
            open_registry("registry.corp.example", ca_file=path)
        assert raised.value.subject == str(path)


def test_plain_http_is_spoken_to_this_machine_only(lab: LabRegistry) -> None:
    with open_registry(lab.name) as registry:  # registry.localhost, whether the resolver knows it or not
        assert registry.tags(SOURCE) == ()
    # a name that is not this machine's by its spelling, although it leads there
    with open_registry(f"{socket.gethostname()}:{lab.port}") as registry, pytest.raises(DatakitError) as raised:
        registry.tags(SOURCE)
    assert "speaks no TLS" in raised.value.what


def test_nobody_there_and_an_unknown_name_are_told_apart() -> None:
    with (
        open_registry(f"127.0.0.1:{free_port()}", pause=lambda _: None) as registry,
        pytest.raises(RegistryUnavailable) as raised,
    ):
        registry.tags(SOURCE)
    assert raised.value.what == "nobody answers there"
    with (
        open_registry("registry.invalid", pause=lambda _: None) as registry,
        pytest.raises(RegistryUnavailable) as raised,
    ):
        registry.tags(SOURCE)
    assert raised.value.what == "the registry's name is not known here"


@pytest.mark.parametrize("reference", ["https://registry.corp.example", "registry.corp.example/Data", "a b", ""])
def test_what_is_no_registry_is_refused_before_anything_is_sent(reference: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        open_registry(reference)
    assert "without a scheme" in str(raised.value.fix)
