"""Logging in: once for everybody, in time, and never twice with a refused credential."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datakit_vault import Reference, Request, Response, RetryPolicy, Vault, _login, errors
from datakit_vault.testing import FakeVault

from .conftest import ManualClock, StubTransport, response, stub_settings

SVC = Reference.parse("/Kerberos/svc")
THREADS = 50


def together(act: Callable[[], Any]) -> list[Any]:
    """Call ``act`` in many threads at once; return results and errors."""
    barrier = threading.Barrier(THREADS)
    found: list[Any] = []

    def run() -> None:
        barrier.wait()
        try:
            found.append(act())
        except errors.VaultError as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def logins(fake: FakeVault) -> int:
    return sum("oauth2" in request.path for request in fake.requests)


def test_many_threads_at_once_cost_one_login(either_fake: FakeVault, tmp_path: Path) -> None:
    either_fake.add_secret("/Kerberos/svc", {"password": "x"})
    with Vault(either_fake.settings(tmp_path)) as vault:
        names = together(lambda: vault.record(SVC).name)
    assert names == ["svc"] * THREADS
    assert logins(either_fake) == 1


def test_a_token_that_ends_for_all_threads_at_once_costs_one_new_login(fake: FakeVault, vault: Vault) -> None:
    vault.login()
    fake.expire_tokens()
    names = together(lambda: vault.record(SVC).name)
    assert names == ["svc"] * THREADS
    assert logins(fake) == 2


def test_a_refused_credential_is_tried_once_by_all_threads_together(fake: FakeVault, vault: Vault) -> None:
    fake.change_password()
    found = together(lambda: vault.record(SVC))
    assert {type(error) for error in found} == {errors.LoginRefused}
    assert fake.wrong_logins == 1


def test_a_login_that_gets_no_answer_is_waited_for_once_by_all_threads_together(
    fake: FakeVault, open_vault: Callable[..., Vault]
) -> None:
    vault = open_vault(timeout=1.5)
    fake.fault("silent", seconds=30, matching="oauth2", times=None)
    found = together(lambda: vault.record(SVC))
    assert {type(error) for error in found} == {errors.TimedOut}
    assert logins(fake) == 1


def test_a_refused_credential_is_not_tried_again_before_its_files_change(
    fake: FakeVault, vault: Vault, tmp_path: Path
) -> None:
    fake.change_password()
    with pytest.raises(errors.LoginRefused, match="log in by hand") as first:
        vault.record(SVC)
    assert (first.value.status, first.value.error_code) == (400, "invalid_grant")
    for _ in range(5):
        with pytest.raises(errors.LoginRefused, match="it is not tried again for 900 s"):
            vault.record(SVC)
    assert fake.wrong_logins == 1
    fake.credentials_folder(tmp_path / "credentials")
    assert vault.record(SVC).name == "svc"


def test_a_refused_credential_gets_another_chance_after_a_pause(
    fake: FakeVault, open_vault: Callable[..., Vault], clock: ManualClock, tmp_path: Path
) -> None:
    vault = open_vault(login_pause=100)
    right = (tmp_path / "credentials" / "password").read_text()
    fake.change_password("another")
    with pytest.raises(errors.LoginRefused):
        vault.login()
    fake.change_password(right)  # as when an administrator unlocks the account
    clock.now += 99
    with pytest.raises(errors.LoginRefused):
        vault.login()
    clock.now += 2
    assert vault.login()


def test_a_lock_of_three_wrong_logins_is_never_reached(
    fake: FakeVault, open_vault: Callable[..., Vault], clock: ManualClock
) -> None:
    fake.lock_after = 3
    vault = open_vault(retry=RetryPolicy(attempts=10))
    fake.change_password()
    for _ in range(100):
        clock.now += 1
        with pytest.raises(errors.LoginRefused):
            vault.read(SVC, "keytab")
    assert fake.wrong_logins == 1


def test_a_token_is_replaced_before_it_expires(tmp_path: Path, clock: ManualClock) -> None:
    with FakeVault(token_life=100, clock=clock.monotonic) as fake, Vault(fake.settings(tmp_path), clock=clock) as vault:
        fake.add_secret("/Kerberos/svc", {})
        vault.record(SVC)
        clock.now += 79
        vault.record(SVC)
        assert fake.logins == 1
        clock.now += 2
        vault.record(SVC)
        assert fake.logins == 2
        assert not [request for request in fake.requests if request.status == 401]


def test_a_token_that_still_works_is_used_while_the_login_is_away(
    fake: FakeVault, open_vault: Callable[..., Vault], clock: ManualClock
) -> None:
    fake.token_life = 100
    vault = open_vault()
    vault.login()
    clock.now += 90
    fake.fault("unavailable", times=None, matching="oauth2")
    assert vault.record(SVC).name == vault.record(SVC).name == "svc"
    assert logins(fake) == 2  # the second call did not wait for another login
    clock.now += 11
    with pytest.raises(errors.Unavailable):
        vault.record(SVC)
    fake.clear_faults()
    assert vault.record(SVC).name == "svc"


@pytest.mark.parametrize("fault", ["throttled", "unavailable", "reset", "truncated"])
def test_a_login_that_fails_for_a_moment_is_tried_again(
    fake: FakeVault, open_vault: Callable[..., Vault], fault: str
) -> None:
    vault = open_vault(retry=RetryPolicy())
    fake.fault(fault, times=2, matching="oauth2")
    assert vault.record(SVC).name == "svc"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("html", errors.NotTheVault), ("redirect", errors.NotTheVault), ("garbage", errors.AnswerBroken)],
)
def test_a_login_that_something_else_answers_is_named(
    either_fake: FakeVault, tmp_path: Path, fault: str, kind: type[errors.VaultError]
) -> None:
    either_fake.fault(fault, matching="oauth2", times=None)
    with Vault(either_fake.settings(tmp_path), retry=RetryPolicy(attempts=1)) as vault, pytest.raises(kind):
        vault.login()


def test_the_domain_is_part_of_the_login(tmp_path: Path) -> None:
    with FakeVault(domain="CORP") as fake:
        with Vault(fake.settings(tmp_path)) as vault:
            vault.login()
        with Vault(fake.settings(tmp_path, domain=None)) as vault, pytest.raises(errors.LoginRefused, match="domain"):
            vault.login()


@pytest.mark.parametrize(("is_kind", "set_kind"), [("platform", "secret-server"), ("secret-server", "platform")])
def test_the_wrong_kind_is_said_and_sends_no_credential_anywhere_else(
    tmp_path: Path, is_kind: Any, set_kind: Any
) -> None:
    with FakeVault(kind=is_kind, base_path="") as fake:
        folder = fake.credentials_folder(tmp_path)
        for name in ("username", "password", "client_id", "client_secret"):
            (folder / name).write_text("x")
        with (
            Vault(fake.settings(tmp_path, kind=set_kind)) as vault,
            pytest.raises(errors.NotTheVault, match="the other kind of vault"),
        ):
            vault.login()
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "password").unlink(), "file password cannot be read: No such file"),
        (lambda folder: (folder / "username").write_text(""), "file username is empty"),
        (lambda folder: (folder / "username").write_text("\n"), "file username is empty"),
        (lambda folder: (folder / "password").write_bytes(b"\xff\xfe"), "file password is not UTF-8"),
        (lambda folder: (folder / "password").write_bytes(b"x" * 70_000), "file password is too long"),
        (lambda folder: ((folder / "password").unlink(), (folder / "password").mkdir()), "Is a directory"),
    ],
)
def test_a_credential_that_cannot_be_used_is_named_before_anything_is_sent(
    fake: FakeVault, vault: Vault, tmp_path: Path, damage: Callable[[Path], Any], says: str
) -> None:
    damage(tmp_path / "credentials")
    with pytest.raises(errors.CredentialsMissing, match=says) as caught:
        vault.record(SVC)
    assert "the files username and password" in str(caught.value.fix)
    assert caught.value.subject == str(tmp_path / "credentials")
    assert fake.requests == ()


def test_a_missing_folder_is_named(fake: FakeVault, open_vault: Callable[..., Vault], tmp_path: Path) -> None:
    with pytest.raises(errors.CredentialsMissing, match="not mounted"):
        open_vault(credentials=tmp_path / "nowhere").login()


def test_a_folder_that_cannot_be_looked_at_is_named(open_vault: Callable[..., Vault], tmp_path: Path) -> None:
    with pytest.raises(errors.CredentialsMissing, match="File name too long"):
        open_vault(credentials=tmp_path / ("x" * 300)).login()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_line_end_that_an_editor_adds_is_no_part_of_the_credential(
    fake: FakeVault, vault: Vault, tmp_path: Path, end: str
) -> None:
    for path in (tmp_path / "credentials").iterdir():
        path.write_bytes(path.read_bytes() + end.encode())
    assert vault.login()


def test_a_mounted_secret_is_read_in_one_version_even_while_it_changes(
    fake: FakeVault, vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "credentials"
    old = folder / "..2026_01"
    old.mkdir()
    for name in ("username", "password"):
        (folder / name).rename(old / name)
        (folder / name).symlink_to(Path("..data") / name)
    (folder / "..data").symlink_to(old.name)
    new = folder / "..2026_02"
    new.mkdir()
    (new / "username").write_text("svc-vault")
    (new / "password").write_text("another")
    (folder / "..tmp").symlink_to(new.name)
    read_file = _login._read_file

    def read_and_swap(path: Path, *others: Any) -> Any:
        value = read_file(path, *others)
        if path.name == "username" and (folder / "..tmp").is_symlink():
            (folder / "..tmp").replace(folder / "..data")
        return value

    monkeypatch.setattr(_login, "_read_file", read_and_swap)
    assert vault.login()
    fake.change_password("another")
    fake.expire_tokens()
    assert vault.record(SVC).name == "svc"
    assert fake.wrong_logins == 0


def test_a_credential_with_any_characters_is_sent_unharmed(tmp_path: Path) -> None:
    with (
        FakeVault(username="CORP\\svc & co", password='p%+=&ä€"\\ \t') as fake,
        Vault(fake.settings(tmp_path)) as vault,
    ):
        assert vault.login()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"access_token": None},
        {"access_token": 7},
        {"access_token": ""},
        {"access_token": "two words"},
        {"access_token": "line\r\nX-Injected: yes"},
        {"access_token": "töken"},
    ],
)
def test_an_answer_without_a_usable_token_is_no_login(tmp_path: Path, answer: object) -> None:
    stub = StubTransport(lambda _: response(200, answer))
    vault = Vault(stub_settings(tmp_path), transport=stub, retry=RetryPolicy(attempts=1))
    with pytest.raises(errors.AnswerBroken, match="holds no token"):
        vault.login()


@pytest.mark.parametrize("life", [None, "soon", -1, 0, float("nan"), "3600", 1e400, [], True])
def test_any_life_of_a_token_is_survived(tmp_path: Path, clock: ManualClock, life: object) -> None:
    stub = StubTransport(lambda _: response(200, {"access_token": "t", "expires_in": life}))
    vault = Vault(stub_settings(tmp_path), transport=stub, clock=clock)
    assert vault.login() == vault.login() == "https://vault.example"
    clock.now += 31 * 86_400
    vault.login()
    assert 2 <= len(stub.requests) <= 3


def platform_answers(vaults: Response) -> StubTransport:
    def answer(request: Request) -> Response:
        return response(200, {"access_token": "t", "expires_in": 60}) if request.method == "POST" else vaults

    return StubTransport(answer)


@pytest.mark.parametrize(
    ("vaults", "kind"),
    [
        (response(200, {"vaults": []}), errors.NotTheVault),
        (response(200, {"vaults": None}), errors.NotTheVault),
        (response(200, ["x"]), errors.NotTheVault),
        (response(200, {"vaults": [{"isDefault": True, "isActive": False, "connection": {"url": "https://a"}}]}),
         errors.NotTheVault),
        (response(200, {"vaults": [7, {"isDefault": True, "isActive": True, "connection": None}]}), errors.NotTheVault),
        (response(200, {"vaults": [{"isDefault": True, "isActive": True, "connection": {"url": "http://a"}}]}),
         errors.InvalidSettings),
        (response(200, {"vaults": [{"isDefault": True, "isActive": True, "connection": {"url": "file:///etc"}}]}),
         errors.InvalidSettings),
        (response(403, {}), errors.TokenRefused),
        (response(200, b"<html>", "text/html"), errors.NotTheVault),
    ],
)  # fmt: skip
def test_a_platform_that_names_no_vault_is_explained(
    tmp_path: Path, vaults: Response, kind: type[errors.VaultError]
) -> None:
    vault = Vault(stub_settings(tmp_path, kind="platform"), transport=platform_answers(vaults))
    with pytest.raises(kind):
        vault.login()
