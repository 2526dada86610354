"""The double itself, asked in plain HTTP as its documentation says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3
from datakit_vault import Reference, Vault, errors
from datakit_vault.testing import FAULTS, FakeVault

from .conftest import KEYTAB, PASSWORD

SVC = Reference.parse("/Kerberos/svc")


class Plain:
    """A logged-in client that knows nothing of ours."""

    def __init__(self, fake: FakeVault, tmp_path: Path) -> None:
        self._url = fake.url
        folder = fake.credentials_folder(tmp_path / "plain")
        form = {"grant_type": "password"}
        form |= {name: (folder / name).read_text() for name in ("username", "password")}
        answer = urllib3.request("POST", f"{self._url}/oauth2/token", body=urlencode(form))
        self._headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def __call__(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        return urllib3.request(method, f"{self._url}/api/{path}", headers=self._headers, retries=False, **options)


@pytest.fixture
def plain(fake: FakeVault, tmp_path: Path) -> Plain:
    return Plain(fake, tmp_path)


def test_text_fields_are_json_literals_and_files_are_raw_bytes(plain: Plain) -> None:
    text, file = plain("GET", "v1/secrets/1000/fields/password"), plain("GET", "v1/secrets/1000/fields/keytab")
    assert (text.json(), file.data) == (PASSWORD, KEYTAB)
    assert text.data.startswith(b'"')
    assert file.headers["Content-Type"] == "application/octet-stream"


def test_a_model_holds_the_values_of_texts_and_not_those_of_files(plain: Plain) -> None:
    for version in ("v1", "v2"):
        items = {item["slug"]: item for item in plain("GET", f"{version}/secrets/1000").json()["items"]}
        assert items["password"]["itemValue"] == PASSWORD
        assert items["keytab"]["itemValue"] == "*** Not Valid For Display ***"
        assert items["keytab"]["fileAttachmentId"] > 0
        assert items["password"]["fileAttachmentId"] is None


def test_a_path_needs_the_id_zero_and_backslashes(plain: Plain) -> None:
    fields = {"secretPath": "\\kerberos\\SVC"}
    assert plain("GET", "v2/secrets/0", fields=fields).json()["id"] == 1000
    assert plain("GET", "v1/secrets/0/fields/password", fields=fields).json() == PASSWORD
    assert plain("GET", "v2/secrets/0", fields={"secretPath": "/Kerberos/svc"}).status == 404
    assert plain("GET", "v2/secrets/0").status == 404


def test_an_uploaded_file_shows_as_a_new_attachment(fake: FakeVault, plain: Plain, vault: Vault) -> None:
    fake.change("/Kerberos/svc", role="Edit")
    before = vault.record(SVC)
    upload = {"file": ("new.keytab", KEYTAB[::-1], "application/octet-stream")}
    assert plain("PUT", "v1/secrets/1000/fields/keytab", fields=upload).status == 200
    after = vault.record(SVC)
    assert after.marker != before.marker
    assert after.field("keytab").filename == "new.keytab"  # type: ignore[union-attr]
    assert vault.read(SVC, "keytab").reveal() == KEYTAB[::-1]
    body = json.dumps({"value": "typed"})
    assert plain("PUT", "v1/secrets/1000/fields/password", body=body).status == 200
    assert vault.read_text(SVC, "password").reveal() == "typed"


def test_who_may_only_view_cannot_write(plain: Plain) -> None:
    assert plain("PUT", "v1/secrets/1000/fields/password", body='{"value": "x"}').status == 400


def test_reading_a_checkout_secret_without_a_word_checks_it_out(fake: FakeVault, plain: Plain) -> None:
    fake.change("/Kerberos/svc", checkout=True)
    assert plain("GET", "v1/secrets/1000/fields/password", fields={"noAutoCheckout": "true"}).status == 400
    assert not fake.is_checked_out("/Kerberos/svc")
    assert plain("GET", "v1/secrets/1000/fields/password").json() == PASSWORD
    assert fake.is_checked_out("/Kerberos/svc")
    assert plain("GET", "v1/secrets/1000/state").json()["isCheckedOutByCurrentUser"] is True
    assert plain("POST", "v1/secrets/1000/check-in").status == 200
    assert not fake.is_checked_out("/Kerberos/svc")


def test_a_check_in_rotates_where_that_is_on(fake: FakeVault, plain: Plain) -> None:
    fake.change("/Kerberos/svc", rotates_on_check_in=True)
    assert plain("POST", "v1/secrets/1000/check-out").status == 200
    assert plain("GET", "v1/secrets/1000/fields/password").json() == PASSWORD
    plain("POST", "v1/secrets/1000/check-in")
    assert plain("GET", "v1/secrets/1000/fields/password").json() != PASSWORD
    assert plain("GET", "v1/secrets/1000/fields/keytab").data == KEYTAB


def test_a_token_ends_when_its_life_does(tmp_path: Path) -> None:
    now = [0.0]
    with FakeVault(token_life=10, clock=lambda: now[0]) as fake:
        fake.add_secret("/a", {"password": "x"})
        plain = Plain(fake, tmp_path)
        assert plain("GET", "v2/secrets/1000").status == 200
        now[0] = 10.0
        assert plain("GET", "v2/secrets/1000").status == 401


def test_wrong_logins_lock_the_account_until_it_is_unlocked(tmp_path: Path) -> None:
    with FakeVault(lock_after=2) as fake:
        right = fake.settings(tmp_path / "right")
        for _ in range(2):
            wrong = fake.settings(tmp_path / "wrong")
            (tmp_path / "wrong" / "password").write_text("wrong")
            with Vault(wrong) as vault, pytest.raises(errors.LoginRefused):
                vault.login()
        with Vault(right) as vault, pytest.raises(errors.LoginRefused):
            vault.login()
        fake.unlock()
        with Vault(right) as vault:
            assert vault.login()


def test_the_log_remembers_what_was_asked_and_no_secret(fake: FakeVault, vault: Vault) -> None:
    vault.read(SVC, "password")
    assert [(request.method, request.status) for request in fake.requests] == [
        ("POST", 200),
        ("GET", 200),
        ("GET", 200),
    ]
    assert fake.requests[1].query["secretPath"] == "\\Kerberos\\svc"
    assert PASSWORD not in repr(fake.requests)
    fake.forget_requests()
    assert fake.requests == ()


def test_a_fault_spoils_as_many_requests_as_it_says_and_only_those_it_matches(
    fake: FakeVault, open_vault: Callable[..., Vault]
) -> None:
    vault = open_vault()
    fake.fault("unavailable", times=2, matching="/fields/keytab")
    assert vault.read_text(SVC, "password").reveal() == PASSWORD
    for _ in range(2):
        with pytest.raises(errors.Unavailable):
            vault.read(SVC, "keytab")
    assert vault.read(SVC, "keytab").reveal() == KEYTAB
    assert fake.faults == ()


def test_every_fault_is_described_and_an_unknown_one_is_refused(fake: FakeVault) -> None:
    assert all(FAULTS.values())
    with pytest.raises(ValueError, match="is no fault; choose one of: denied"):
        fake.fault("explode")
    with pytest.raises(ValueError, match="choose of: active"):
        fake.change("/Kerberos/svc", actvie=False)
    with pytest.raises(ValueError, match="already"):
        fake.add_secret("/kerberos/SVC".replace("kerberos/SVC", "Kerberos/svc"), {})
    with pytest.raises(ValueError, match="full path"):
        fake.add_secret("42", {})
    with pytest.raises(KeyError, match="no secret 7"):
        fake.rotate(7, "password", "x")


def test_it_comes_back_on_the_same_port_with_its_secrets_and_tokens(fake: FakeVault, vault: Vault) -> None:
    vault.login()
    port = fake.port
    with fake.down():
        pass
    assert fake.port == port
    assert vault.read(SVC, "keytab").reveal() == KEYTAB
    assert fake.logins == 1


def test_the_credential_is_written_for_this_user_only(fake: FakeVault, tmp_path: Path) -> None:
    folder = fake.credentials_folder(tmp_path / "new")
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "username": 0o600,
        "password": 0o600,
    }
    assert folder.stat().st_mode & 0o777 == 0o700
