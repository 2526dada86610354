"""What goes wrong with a secret, as the person who configured it reads it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datakit_vault import Reference, RetryPolicy, Vault, errors
from datakit_vault.testing import FakeVault

from .conftest import KEYTAB, PASSWORD, ManualClock, StubTransport, response, stub_settings

SVC = Reference.parse("/Kerberos/svc")
Arrange = Callable[[FakeVault], None]


def flags(**changes: Any) -> Arrange:
    return lambda fake: fake.change("/Kerberos/svc", **changes)


def faulty(name: str, **options: Any) -> Arrange:
    return lambda fake: fake.fault(name, times=None, **options)


def deleted(fake: FakeVault) -> None:
    fake.remove("/Kerberos/svc")


def refused(fake: FakeVault) -> None:
    fake.stop()


DENIED = "API_AccessDenied"


# scenario 12, and what belongs to it: what is arranged, the error, its exit code, status, errorCode, and what it says
CASES: dict[str, tuple[Arrange, type[errors.VaultError], int | None, str | None, str]] = {
    "denied": (flags(denied=True), errors.SecretDenied, 400, DENIED, "lacks the View permission"),
    "denied by fault": (faulty("denied"), errors.SecretDenied, 400, DENIED, "does not tell these apart"),
    "deleted": (deleted, errors.SecretNotFound, 404, "API_SecretNotFound", "deleted, moved"),
    "not found": (faulty("not-found"), errors.SecretNotFound, 404, None, "look it up in the vault"),
    "inactive": (flags(active=False), errors.SecretInactive, 400, DENIED, "have it activated"),
    "checkout": (flags(checkout=True), errors.CheckoutRequired, None, None, "turn checkout off for it"),
    "hidden": (flags(hidden_until_checked_out=True), errors.CheckoutRequired, 400, DENIED, "nobody else can read it"),
    "comment": (flags(requires_comment=True), errors.CommentRequired, 400, DENIED, "set the comment"),
    "approval": (flags(requires_approval=True), errors.ApprovalRequired, 400, DENIED, "cannot wait for"),
    "checked out": (flags(checked_out_by_other=True), errors.CheckedOut, 400, DENIED, "have it checked in"),
    "rotates": (flags(rotates_on_check_in=True), errors.RotatesWhenRead, None, None, "on a schedule"),
    "expired token": (faulty("expired-token"), errors.TokenRefused, 401, None, "has just issued"),
    "throttled": (faulty("throttled"), errors.Throttled, 429, None, "too many requests"),
    "unavailable": (faulty("unavailable"), errors.Unavailable, 503, None, "503 Service Unavailable"),
    "html": (faulty("html"), errors.NotTheVault, 200, None, "a login page"),
    "redirect": (faulty("redirect"), errors.NotTheVault, 302, None, "a redirect"),
    "garbage": (faulty("garbage"), errors.AnswerBroken, 200, None, "is no secret's"),
    "cut json": (faulty("cut-json"), errors.AnswerBroken, 200, None, "cut off on the way"),
    "truncated": (faulty("truncated"), errors.AnswerBroken, None, None, "ended early"),
    "slow": (faulty("slow", seconds=0.1), errors.TimedOut, None, None, "no whole answer within 0.5 s"),
    "silent": (faulty("silent", seconds=5), errors.TimedOut, None, None, "a firewall drops the packets"),
    "reset": (faulty("reset"), errors.Unreachable, None, None, "dropped the connection"),
    "large": (faulty("large"), errors.AnswerTooLarge, None, None, "104,857,600 bytes"),
    "large chunked": (faulty("large-chunked"), errors.AnswerTooLarge, None, None, "more than 4,194,304 bytes"),
    "refused": (refused, errors.Unreachable, None, None, "Connection refused"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_way_to_fail_has_its_own_message(fake: FakeVault, open_vault: Callable[..., Vault], case: str) -> None:
    arrange, kind, status, code, says = CASES[case]
    vault = open_vault(timeout=0.5 if case in ("slow", "silent") else 10)
    vault.login()
    arrange(fake)
    with pytest.raises(errors.VaultError) as caught:
        vault.read(SVC, "keytab")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.error_code, error.reference) == (status, code, SVC)
    text = str(error)
    assert says in text
    assert vault.settings.host in str(error.subject)
    assert error.cause
    assert error.fix
    assert text.count("\n") == 2
    assert PASSWORD not in text
    assert error.as_json()["exit_code"] == error.exit_code
    assert error.exit_code == (75 if error.retryable else 77 if isinstance(error, errors.AccessDenied) else 78)


@pytest.mark.parametrize("fault", ["unavailable", "reset", "html", "denied", "cut-json", "expired-token", "not-found"])
def test_an_error_names_the_secret_as_it_was_asked_for(fake: FakeVault, vault: Vault, fault: str) -> None:
    fake.fault(fault, matching="/fields/", times=None)
    with pytest.raises(errors.VaultError) as caught:
        vault.read(SVC, "password")
    assert caught.value.reference == SVC
    assert str(caught.value.subject).startswith("secret /Kerberos/svc at ")


def test_no_two_of_them_say_the_same(fake: FakeVault, open_vault: Callable[..., Vault]) -> None:
    said: dict[str, str] = {}
    for case in ("denied", "inactive", "checkout", "comment", "approval", "checked out", "html", "redirect", "garbage"):
        fake.clear_faults()
        fake.remove("/Kerberos/svc")
        fake.add_secret("/Kerberos/svc", {"keytab": KEYTAB})
        CASES[case][0](fake)
        with pytest.raises(errors.VaultError) as caught:
            open_vault().read(SVC, "keytab")
        assert caught.value.what not in said, (case, said[caught.value.what])
        said[caught.value.what] = case


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("keytba", "did you mean 'keytab'?"),
        ("Key Tab", "choose one of: username, password, keytab"),
        ("", "choose one of"),
        ("x" * 50, "another template"),
    ],
)
def test_a_missing_field_is_named_with_those_that_exist(vault: Vault, field: str, says: str) -> None:
    with pytest.raises(errors.FieldNotFound) as caught:
        vault.read(SVC, field)
    assert says in str(caught.value)
    assert caught.value.reference == SVC


@pytest.mark.parametrize(("field", "value"), [("empty", ""), ("unfilled", b"")])
def test_an_empty_field_is_an_error_and_not_an_empty_secret(
    fake: FakeVault, vault: Vault, field: str, value: str | bytes
) -> None:
    fake.set_field("/Kerberos/svc", field, value)
    with pytest.raises(errors.FieldEmpty, match=field):
        vault.read(SVC, field)


def test_one_expired_token_costs_one_login_and_no_error(fake: FakeVault, vault: Vault) -> None:
    vault.login()
    fake.fault("expired-token")
    assert vault.read(SVC, "keytab").reveal() == KEYTAB
    assert fake.logins == 2


def test_an_error_survives_pickling_with_all_that_it_knows(fake: FakeVault, vault: Vault) -> None:
    fake.change("/Kerberos/svc", denied=True)
    with pytest.raises(errors.SecretDenied) as caught:
        vault.record(SVC)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is errors.SecretDenied
    assert again.as_json() == caught.value.as_json()


def test_checkout_and_comment_missing_together_are_told_one_after_the_other(
    fake: FakeVault, open_vault: Callable[..., Vault]
) -> None:
    fake.change("/Kerberos/svc", checkout=True, hidden_until_checked_out=True, requires_comment=True)
    with pytest.raises(errors.CheckoutRequired):
        open_vault().read(SVC, "keytab")
    with pytest.raises(errors.CommentRequired):
        open_vault(checkout=True).read(SVC, "keytab")
    assert open_vault(checkout=True, comment="why").read(SVC, "keytab").reveal() == KEYTAB


def test_a_comment_that_helps_against_nothing_leaves_the_true_reason(
    fake: FakeVault, open_vault: Callable[..., Vault]
) -> None:
    fake.change("/Kerberos/svc", requires_comment=True, denied=True)
    with pytest.raises(errors.SecretDenied):
        open_vault(comment="why").read(SVC, "keytab")


@pytest.mark.parametrize("state", ["RequiresDoubleLockPassword", "RequiresCheckoutPendingRPC", "SomethingNew"])
def test_states_that_the_double_does_not_play_are_explained_too(state: str) -> None:
    from datakit_vault import SecretAccess
    from datakit_vault._answers import explain_denial

    refusal = explain_denial(400, "API_AccessDenied", SecretAccess(state))
    expected = {
        "RequiresDoubleLockPassword": errors.SecretDenied,
        "RequiresCheckoutPendingRPC": errors.CheckedOut,
        "SomethingNew": errors.SecretDenied,
    }
    assert refusal.kind is expected[state]


def test_the_retry_waits_as_the_vault_asks(
    fake: FakeVault, open_vault: Callable[..., Vault], clock: ManualClock
) -> None:
    vault = open_vault(retry=RetryPolicy(attempts=4, random=lambda: 0.0))
    vault.login()
    fake.fault("throttled", times=2, retry_after=3)
    assert vault.record(SVC).name == "svc"
    assert clock.slept == [3.0, 3.0]


def test_a_date_in_retry_after_is_understood(
    fake: FakeVault, open_vault: Callable[..., Vault], clock: ManualClock
) -> None:
    from email.utils import formatdate

    vault = open_vault(retry=RetryPolicy(random=lambda: 0.0))
    vault.login()
    fake.fault("unavailable", retry_after=formatdate(clock.time() + 7, usegmt=True))
    vault.record(SVC)
    assert clock.slept == [7.0]


@pytest.mark.parametrize("text", ["soon", "-5", "1e9", "", "Wed, 99 Foo 2024"])
def test_nonsense_in_retry_after_is_ignored(
    fake: FakeVault, open_vault: Callable[..., Vault], clock: ManualClock, text: str
) -> None:
    vault = open_vault(retry=RetryPolicy(first=2.0, random=lambda: 0.5))
    vault.login()
    fake.fault("throttled", retry_after=text)
    vault.record(SVC)
    assert clock.slept == [1.0]


def test_a_longer_pause_than_the_policy_allows_is_the_callers_to_make(
    fake: FakeVault, open_vault: Callable[..., Vault], clock: ManualClock
) -> None:
    vault = open_vault(retry=RetryPolicy(longest=10.0, total=1000.0))
    vault.login()
    fake.fault("throttled", retry_after=120)
    with pytest.raises(errors.Throttled, match="asks to wait 120 s") as caught:
        vault.record(SVC)
    assert caught.value.retry_after == 120
    assert clock.slept == []


def test_pauses_grow_with_jitter_up_to_a_bound_and_end_with_the_last_error(
    fake: FakeVault, open_vault: Callable[..., Vault], clock: ManualClock
) -> None:
    draws = iter([1.0, 0.5, 1.0, 0.0, 1.0])
    policy = RetryPolicy(attempts=6, first=1.0, longest=5.0, total=1000, random=lambda: next(draws))
    vault = open_vault(retry=policy)
    vault.login()
    fake.fault("unavailable", times=None)
    with pytest.raises(errors.Unavailable):
        vault.record(SVC)
    assert clock.slept == [1.0, 1.0, 4.0, 0.0, 5.0]
    assert len([request for request in fake.requests if request.fault]) == 6


def test_the_total_bounds_all_tries_together(
    fake: FakeVault, open_vault: Callable[..., Vault], clock: ManualClock
) -> None:
    vault = open_vault(retry=RetryPolicy(attempts=100, first=8.0, longest=8.0, total=20.0, random=lambda: 1.0))
    vault.login()
    fake.fault("unavailable", times=None)
    with pytest.raises(errors.Unavailable):
        vault.record(SVC)
    assert clock.slept == [8.0, 8.0]


@pytest.mark.parametrize("case", ["denied", "html", "comment", "rotates"])
def test_what_cannot_pass_by_itself_is_not_tried_again(
    fake: FakeVault, open_vault: Callable[..., Vault], clock: ManualClock, case: str
) -> None:
    vault = open_vault(retry=RetryPolicy())
    CASES[case][0](fake)
    with pytest.raises(errors.VaultError):
        vault.read(SVC, "keytab")
    assert clock.slept == []


def test_a_clock_may_end_the_waiting(fake: FakeVault, tmp_path: Path) -> None:
    class Interrupting(ManualClock):
        def sleep(self, seconds: float, /) -> None:
            raise KeyboardInterrupt

    fake.fault("unavailable", times=None)
    with Vault(fake.settings(tmp_path), clock=Interrupting()) as vault, pytest.raises(KeyboardInterrupt):
        vault.record(SVC)


def always(status: int) -> StubTransport:
    """Answers logins, and everything else with this status."""
    login = {"access_token": "t", "expires_in": 60}
    return StubTransport(lambda request: response(200, login) if request.method == "POST" else response(status, b""))


@pytest.mark.parametrize("status", [408, 425, 500, 502, 507, 520, 524, 530])
def test_a_fault_of_the_vault_or_of_what_stands_before_it_is_tried_again(tmp_path: Path, status: int) -> None:
    transport = always(status)
    settings, clock = stub_settings(tmp_path), ManualClock()
    with (
        Vault(settings, transport=transport, clock=clock, retry=RetryPolicy(attempts=3)) as vault,
        pytest.raises(errors.Unavailable, match=f"reports status {status}"),
    ):
        vault.record(SVC)
    assert [request.method for request in transport.requests] == ["POST", "GET", "GET", "GET"]


@pytest.mark.parametrize("status", [501, 505])
def test_what_a_server_cannot_do_at_all_is_not_tried_again(tmp_path: Path, status: int) -> None:
    transport = always(status)
    with Vault(stub_settings(tmp_path), transport=transport) as vault, pytest.raises(errors.NotTheVault):
        vault.record(SVC)
    assert [request.method for request in transport.requests] == ["POST", "GET"]
