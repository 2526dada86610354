"""What a domain controller answers to a service account, and what its policies do to one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from datakit_lab.active_directory import ActiveDirectory
from datakit_lab.errors import LabError
from gssapi.raw import GSSError

from .accounts import (
    ACCOUNT_EXPIRED,
    PASSWORD_EXPIRED,
    POLICY,
    PREAUTH_FAILED,
    REVOKED,
    TICKET_EXPIRED,
    UNKNOWN_CLIENT,
    Account,
    keys,
    tickets,
)
from .conftest import THRESHOLD

NO_TICKET = "Matching credential not found"


def test_kinit_gets_a_ticket_with_the_keytab_of_an_account(account: Account) -> None:
    environment = account.domain.client_environment(account.ccache)
    subprocess.run(["kinit", "-k", "-t", account.keytab, account.principal], env=environment, check=True)
    assert {f"krbtgt/{account.domain.realm}@{account.domain.realm}"} == tickets(account.ccache)
    assert {"NT_STATUS_OK"} == set(account.domain.tries(account.name))


def test_a_keytab_by_account_holds_its_present_keys_of_every_kind(account: Account) -> None:
    version = account.domain.key_version(account.name)
    assert {
        (account.principal, version, "aes256-cts-hmac-sha1-96"),
        (account.principal, version, "aes128-cts-hmac-sha1-96"),
        (account.principal, version, "arcfour-hmac"),
    } == keys(account.keytab)


def test_a_service_name_belongs_to_one_account(account: Account) -> None:
    service = f"MSSQLSvc/{account.name}.ad.lab.test:1433"
    account.domain.add_services(account.name, service)
    with pytest.raises(LabError, match="add_services"):
        account.domain.add_services("Administrator", service)


def test_an_account_that_does_not_exist_is_unknown(account: Account) -> None:
    stranger = Account(account.domain, "svc-nobody", account.folder)
    assert UNKNOWN_CLIENT == stranger.refusal(stranger.wrong_keytab())


def test_after_a_rotation_the_old_keytab_is_refused_and_the_new_one_has_the_next_version(account: Account) -> None:
    before = account.domain.key_version(account.name)
    assert before + 1 == account.domain.rotate(account.name)
    assert PREAUTH_FAILED == account.refusal()
    account.export()
    assert {before + 1} == {version for _, version, _ in keys(account.keytab)}
    account.kinit()


def test_the_keys_of_former_passwords_count_as_wrong_ones(account: Account) -> None:
    former: list[Path] = []
    for _ in range(THRESHOLD):
        former.append(account.keytab.rename(account.folder / f"former-{len(former)}"))
        account.domain.rotate(account.name)
        account.export()
        account.kinit()
    assert [PREAUTH_FAILED] * THRESHOLD == [account.refusal(keytab) for keytab in reversed(former)]
    assert account.domain.is_locked(account.name)


def test_after_a_rotation_a_live_ticket_still_renews_so_that_renewal_never_tells(account: Account) -> None:
    account.kinit()
    account.domain.rotate(account.name)
    assert account.renewed() > datetime.now(UTC) + timedelta(hours=9)


def test_three_wrong_keys_lock_the_account_and_then_the_right_key_is_refused_too(account: Account) -> None:
    wrong = account.wrong_keytab()
    counts = []
    for _ in range(THRESHOLD):
        assert PREAUTH_FAILED == account.refusal(wrong)
        counts.append(account.domain.bad_password_count(account.name))
    assert [1, 2, 3] == counts
    assert account.domain.is_locked(account.name)
    assert REVOKED == account.refusal()
    assert ["NT_STATUS_WRONG_PASSWORD"] * 3 + ["NT_STATUS_ACCOUNT_LOCKED_OUT"] == account.domain.tries(account.name)


def test_a_new_password_does_not_open_a_locked_account_and_unlocking_does(account: Account) -> None:
    for _ in range(THRESHOLD):
        account.refusal(account.wrong_keytab())
    account.domain.rotate(account.name)
    account.export()
    assert REVOKED == account.refusal()
    account.domain.unlock(account.name)
    account.kinit()
    assert 0 == account.domain.bad_password_count(account.name)


def test_a_good_try_forgets_the_wrong_ones(account: Account) -> None:
    for _ in range(THRESHOLD + 1):
        account.refusal(account.wrong_keytab())
        account.kinit()
    assert not account.domain.is_locked(account.name)


def test_a_disabled_account_is_refused_until_it_is_enabled(account: Account) -> None:
    account.domain.disable(account.name)
    assert REVOKED == account.refusal()
    account.domain.enable(account.name)
    account.kinit()


def test_an_expired_account_is_refused_until_its_end_is_moved(account: Account) -> None:
    expire(account.domain, account.name)
    assert REVOKED == account.refusal()
    account.domain.expire(account.name, datetime.now(UTC) + timedelta(days=1))
    account.kinit()


def test_an_expired_password_has_a_code_of_its_own_and_a_rotation_ends_it(account: Account) -> None:
    account.domain.expire_password(account.name)
    assert PASSWORD_EXPIRED == account.refusal()
    account.domain.rotate(account.name)
    account.export()
    account.kinit()


def test_the_right_key_of_a_disabled_account_does_not_count_towards_the_lock_and_a_wrong_one_does(
    account: Account,
) -> None:
    account.domain.disable(account.name)
    for _ in range(THRESHOLD):
        assert REVOKED == account.refusal()
    assert 0 == account.domain.bad_password_count(account.name)
    assert PREAUTH_FAILED == account.refusal(account.wrong_keytab())
    assert 1 == account.domain.bad_password_count(account.name)


def expire(domain: ActiveDirectory, name: str) -> None:
    domain.expire(name, datetime.now(UTC) - timedelta(minutes=1))


def lock(domain: ActiveDirectory, name: str) -> None:
    wrong = Account(domain, name, domain.directory).wrong_keytab()
    for _ in range(THRESHOLD):
        Account(domain, name, domain.directory).refusal(wrong)


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        pytest.param(ActiveDirectory.disable, POLICY, id="disabled"),
        pytest.param(expire, ACCOUNT_EXPIRED, id="expired"),
        pytest.param(lock, REVOKED, id="locked"),
        pytest.param(ActiveDirectory.expire_password, PASSWORD_EXPIRED, id="password expired"),
    ],
)
def test_a_live_ticket_neither_renews_nor_opens_a_service_once_its_account_is_refused(
    account: Account, harm: Callable[[ActiveDirectory, str], None], code: int
) -> None:
    service = f"MSSQLSvc/{account.name}.ad.lab.test:1433"
    account.domain.add_services(account.name, service)
    account.kinit()
    harm(account.domain, account.name)
    assert (code, code) == account.use_refusal(service)


@pytest.mark.parametrize("hours", [1, 9])
def test_a_ticket_is_as_short_as_it_is_asked_for(account: Account, hours: int) -> None:
    life = account.kinit(life=timedelta(hours=hours)) - datetime.now(UTC)
    assert timedelta(hours=hours, minutes=-5) < life <= timedelta(hours=hours, seconds=5)


def test_a_ticket_with_less_than_two_minutes_left_opens_nothing_more(account: Account) -> None:
    service = f"MSSQLSvc/{account.name}.ad.lab.test:1433"
    account.domain.add_services(account.name, service)
    account.kinit(life=timedelta(seconds=110))
    assert (TICKET_EXPIRED, TICKET_EXPIRED) == account.use_refusal(service)


def test_a_cache_of_service_tickets_opens_that_service_and_no_other(account: Account) -> None:
    mine, other = (f"MSSQLSvc/{label}.{account.name}.ad.lab.test:1433" for label in ("mine", "other"))
    account.domain.add_services(account.name, mine, other)
    account.domain.service_tickets(account.name, account.keytab, account.ccache, mine)
    assert {f"{mine}@{account.domain.realm}"} == tickets(account.ccache)
    assert account.token(mine)
    with pytest.raises(GSSError, match=NO_TICKET):
        account.token(other)
