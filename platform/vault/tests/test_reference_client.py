"""The double against Delinea's own Python SDK, a client that we did not write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datakit_vault.testing import FakeVault
from delinea.secrets import server

KEYTAB = b"\x05\x02\x00\x00" + bytes(range(256))


@pytest.fixture(params=["secret-server", "platform"])
def fake(request: pytest.FixtureRequest) -> Iterator[FakeVault]:
    with FakeVault(kind=request.param) as running:
        running.add_secret("/Kerberos/svc", {"username": "svc", "password": 'p"\\ä', "keytab": KEYTAB})
        yield running


@pytest.fixture
def client(fake: FakeVault, tmp_path: Path) -> Any:
    folder = fake.credentials_folder(tmp_path)
    names = ("client_id", "client_secret") if fake.kind == "platform" else ("username", "password")
    user, password = ((folder / name).read_text() for name in names)
    return server.SecretServer(fake.url, server.PasswordGrantAuthorizer(fake.url, user, password))


def test_it_reads_a_secret_by_id_and_by_path(client: Any) -> None:
    for found in (client.get_secret(1000), client.get_secret_by_path("/Kerberos/svc")):
        values = {item["slug"]: item["itemValue"] for item in found["items"]}
        assert (found["id"], found["name"], found["active"]) == (1000, "svc", True)
        assert (values["username"], values["password"]) == ("svc", 'p"\\ä')
        assert values["keytab"].content == KEYTAB


def test_its_data_class_takes_a_rotated_secret(fake: FakeVault, client: Any) -> None:
    fake.rotate("/Kerberos/svc", "password", "new")
    secret = server.ServerSecret(**client.get_secret(1000))
    assert secret.fields["password"].value == "new"
    assert secret.last_password_change_attempt.year > 2000


def test_it_is_denied_what_the_account_may_not_read(fake: FakeVault, client: Any) -> None:
    fake.change("/Kerberos/svc", denied=True)
    with pytest.raises(server.SecretServerClientError) as refusal:
        client.get_secret(1000)
    assert refusal.value.message == "Access Denied"


def test_its_login_is_refused_with_a_wrong_password(fake: FakeVault) -> None:
    wrong = server.SecretServer(fake.url, server.PasswordGrantAuthorizer(fake.url, "svc-vault", "wrong"))
    with pytest.raises(server.SecretServerClientError):
        wrong.get_secret(1000)


def test_its_domain_login_is_understood(tmp_path: Path) -> None:
    with FakeVault(domain="CORP", password="p") as fake:
        fake.add_secret("/a", {"password": "x"})
        authorizer = server.DomainPasswordGrantAuthorizer(fake.url, "svc-vault", "CORP", "p")
        assert server.SecretServer(fake.url, authorizer).get_secret(1000)["name"] == "a"
