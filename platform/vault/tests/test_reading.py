"""Metadata and values, from both kinds of vault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from datakit_vault import Reference, Request, Response, RetryPolicy, SecretRecord, Vault, errors
from datakit_vault.testing import FakeVault
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import KEYTAB, PASSWORD, StubTransport, response, stub_settings

SVC = Reference.parse("/Kerberos/svc")


def test_both_kinds_give_a_secret_by_id_and_by_full_path(either_fake: FakeVault, tmp_path: Path) -> None:
    number = either_fake.add_secret("/Kerberos/svc", {"password": PASSWORD, "keytab": KEYTAB})
    with Vault(either_fake.settings(tmp_path)) as vault:
        for reference in (SVC, Reference.parse(number)):
            assert vault.read(reference, "keytab").reveal() == KEYTAB
            assert vault.read_text(reference, "password").reveal() == PASSWORD
            assert vault.read(reference, "password").reveal() == PASSWORD.encode()
    assert either_fake.logins == 1


def test_a_vault_without_a_base_path_works_too(tmp_path: Path) -> None:
    with FakeVault(base_path="") as cloud, Vault(cloud.settings(tmp_path)) as vault:
        cloud.add_secret("/a", {"password": "x"})
        assert vault.login() == cloud.url
        assert vault.read_text(Reference.parse("/a"), "password").reveal() == "x"


def test_the_platform_says_where_its_vault_is(tmp_path: Path) -> None:
    with FakeVault(kind="platform", base_path="/vault") as tenant, Vault(tenant.settings(tmp_path)) as vault:
        assert vault.login() == f"{tenant.url}/vault"
    assert [request.path for request in tenant.requests] == [
        "/identity/api/oauth2/token/xpmplatform",
        "/vaultbroker/api/vaults",
    ]


def test_a_record_tells_everything_but_values(fake: FakeVault, vault: Vault) -> None:
    record = vault.record(SVC)
    assert (record.id, record.name, record.path, record.active) == (1000, "svc", "/Kerberos/svc", True)
    assert [(field.slug, field.is_file, field.is_password, field.filename) for field in record.fields] == [
        ("username", False, False, None),
        ("password", False, True, None),
        ("keytab", True, False, "keytab.bin"),
    ]
    assert vault.record(Reference.parse(1000)).path is None
    assert PASSWORD not in repr(record)


def test_the_record_in_hand_saves_asking_for_it_again(fake: FakeVault, vault: Vault) -> None:
    record = vault.record(SVC)
    fake.forget_requests()
    vault.read(record, "keytab")
    vault.read_text(record, "password")
    assert [request.path.rpartition("/")[2] for request in fake.requests] == ["keytab", "password"]


def test_a_secret_that_moves_between_two_requests_is_still_the_same_secret(fake: FakeVault, vault: Vault) -> None:
    record = vault.record(SVC)
    vault.read(record, "keytab")
    assert fake.requests[-1].path == "/SecretServer/api/v1/secrets/1000/fields/keytab"


@pytest.mark.parametrize(("field", "value"), [("password", "new"), ("keytab", KEYTAB[::-1]), ("username", "svc2")])
@pytest.mark.parametrize("way", ["rotate", "set_field"])
def test_a_marker_differs_after_every_change_and_says_which_field(
    fake: FakeVault, vault: Vault, way: str, field: str, value: str | bytes
) -> None:
    before = vault.record(SVC)
    assert vault.record(SVC).marker == before.marker
    getattr(fake, way)("/Kerberos/svc", field, value)
    after = vault.record(SVC)
    assert after.marker != before.marker
    assert [field] == _changed(before, after)
    assert (after.last_change is not None) == (way == "rotate")


def _changed(before: SecretRecord, after: SecretRecord) -> list[str]:
    old = {field.slug: field.marker for field in before.fields}
    return [field.slug for field in after.fields if field.marker != old[field.slug]]


def test_a_rotation_shows_even_if_the_vault_hides_the_values(tmp_path: Path) -> None:
    changed = iter(["2026-01-01T00:00:00", "2026-01-01T00:00:00", "2026-02-01T00:00:00"])

    def answer(request: Request) -> Response:
        if request.method == "POST":
            return response(200, {"access_token": "t"})
        items = [{"slug": "password", "itemValue": None, "isPassword": True}]
        return response(200, {"id": 1, "name": "n", "items": items, "lastPasswordChangeAttempt": next(changed)})

    vault = Vault(stub_settings(tmp_path), transport=StubTransport(answer))
    first, second, third = (vault.record(Reference(1)).marker for _ in range(3))
    assert first == second != third


def test_a_marker_is_no_fingerprint_of_a_value(fake: FakeVault, open_vault: Callable[..., Vault]) -> None:
    assert open_vault().record(SVC).marker != open_vault().record(SVC).marker


def test_slugs_are_found_in_any_case(vault: Vault) -> None:
    assert vault.read(SVC, "KeyTab").reveal() == KEYTAB


def test_a_file_that_is_text_can_be_read_as_text(fake: FakeVault, vault: Vault) -> None:
    fake.set_field("/Kerberos/svc", "pem", b'"quoted\r\n"')
    assert vault.read_text(SVC, "pem").reveal() == '"quoted\r\n"'
    with pytest.raises(errors.NotText, match="not UTF-8"):
        vault.read_text(SVC, "keytab")


@pytest.mark.parametrize("file", [{"filename": None}, {"filename": ""}, {}])
def test_an_attachment_without_a_name_is_a_file_all_the_same(tmp_path: Path, file: dict[str, object]) -> None:
    item = {"slug": "keytab", "isFile": True, "fileAttachmentId": 7, **file}
    answers = {"oauth2": {"access_token": "t"}, "api/v2": {"id": 1, "name": "n", "items": [item]}}

    def answer(request: Request) -> Response:
        found = next((body for part, body in answers.items() if part in request.url), KEYTAB)
        return response(200, found)

    vault = Vault(stub_settings(tmp_path), transport=StubTransport(answer))
    assert vault.record(Reference(1)).fields[0].filename == "keytab"
    assert vault.read(Reference(1), "keytab").reveal() == KEYTAB


def test_a_comment_is_given_where_one_is_wanted(fake: FakeVault, open_vault: Callable[..., Vault]) -> None:
    fake.change("/Kerberos/svc", requires_comment=True)
    vault = open_vault(comment="datakit: ticket renewal & more")
    assert vault.record(SVC).requires_comment
    assert vault.read(SVC, "keytab").reveal() == KEYTAB
    assert set(fake.comments("/Kerberos/svc")) == {"datakit: ticket renewal & more"}


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("comment", [False, True])
def test_a_checkout_is_ended_after_the_read(
    fake: FakeVault, open_vault: Callable[..., Vault], hidden: bool, comment: bool
) -> None:
    fake.change("/Kerberos/svc", checkout=True, hidden_until_checked_out=hidden, requires_comment=comment)
    vault = open_vault(checkout=True, comment="why" if comment else None)
    assert vault.read(SVC, "keytab").reveal() == KEYTAB
    assert not fake.is_checked_out("/Kerberos/svc")
    assert set(fake.comments("/Kerberos/svc")) == ({"why"} if comment else set())


def test_looking_at_a_record_checks_nothing_out(fake: FakeVault, open_vault: Callable[..., Vault]) -> None:
    fake.change("/Kerberos/svc", checkout=True)
    assert open_vault(checkout=True).record(SVC).checkout_enabled
    assert not any(request.query.get("autoCheckout") for request in fake.requests)


@pytest.mark.parametrize("checkout", [False, True])
def test_a_secret_that_rotates_when_it_is_read_is_refused_and_keeps_its_password(
    fake: FakeVault, open_vault: Callable[..., Vault], checkout: bool
) -> None:
    fake.change("/Kerberos/svc", rotates_on_check_in=True)
    vault = open_vault(checkout=checkout)
    assert vault.record(SVC).rotates_when_read
    for field in ("keytab", "password"):
        with pytest.raises(errors.RotatesWhenRead, match="turn 'change password on check-in' off"):
            vault.read(SVC, field)
    fake.change("/Kerberos/svc", checkout=False, rotates_on_check_in=False)
    assert vault.read_text(SVC, "password").reveal() == PASSWORD


def test_a_rotation_that_shows_only_after_a_checkout_is_not_triggered(
    fake: FakeVault, open_vault: Callable[..., Vault]
) -> None:
    fake.change("/Kerberos/svc", rotates_on_check_in=True, hidden_until_checked_out=True)
    vault = open_vault(checkout=True)
    with pytest.raises(errors.RotatesWhenRead, match="before the checkout ends"):
        vault.read(SVC, "password")
    assert fake.is_checked_out("/Kerberos/svc")
    assert not [request for request in fake.requests if "check-in" in request.path or "autoCheckIn" in request.query]


def test_a_rotation_that_is_wanted_gives_the_value_before_it(fake: FakeVault, open_vault: Callable[..., Vault]) -> None:
    fake.change("/Kerberos/svc", rotates_on_check_in=True)
    vault = open_vault(checkout=True)
    assert vault.read_text(SVC, "password", allow_rotation=True).reveal() == PASSWORD
    assert vault.read_text(SVC, "password", allow_rotation=True).reveal() != PASSWORD


def test_access_says_what_stands_in_the_way(fake: FakeVault, vault: Vault) -> None:
    free = vault.access(SVC)
    assert free is not None
    assert (free.obstacle, free.role, free.active, free.checked_out_by_other) == (None, "View", True, False)
    fake.change("/Kerberos/svc", requires_approval=True, role="Owner")
    barred = vault.access(SVC)
    assert barred is not None
    assert (barred.obstacle, barred.role) == ("RequiresApproval", "Owner")
    assert vault.access(Reference.parse("/nowhere")) is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    data=st.binary(min_size=1, max_size=300),
)
def test_every_text_and_every_file_comes_back_exactly(fake: FakeVault, vault: Vault, text: str, data: bytes) -> None:
    fake.set_field("/Kerberos/svc", "password", text)
    fake.set_field("/Kerberos/svc", "keytab", data)
    assert vault.read_text(SVC, "password").reveal() == text
    assert vault.read(SVC, "keytab").reveal() == data


def test_names_that_need_quoting_are_found(fake: FakeVault, open_vault: Callable[..., Vault]) -> None:
    path = "/Földer & Söhne/50% #1?=+ 'x'"
    fake.add_secret(path, {"pass word/ü": "x"})
    vault = open_vault(retry=RetryPolicy(attempts=1))
    assert vault.read_text(Reference.parse(path), "pass word/ü").reveal() == "x"
