"""A key or a secret changes, rightly or wrongly."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from datakit_sidecar.refusals import FILE_NAME

ACCOUNT = "svc-datakit"
PRINCIPAL = "svc-datakit@LAB.TEST"
KEYTAB_SECRET = "/Kerberos/svc-datakit"
KVNO = f'datakit_sidecar_key_version{{principal="{PRINCIPAL}"}}'


def events(sidecar: Any) -> list[str]:
    return [line["event"] for line in sidecar.audit()]


def test_a_rotated_key_is_taken_from_the_vault_without_a_gap_or_a_wrong_try(house: Any) -> None:
    sidecar = house.start()
    sidecar.wait_until_ready()
    assert sidecar.metrics()[KVNO] == 1

    house.rotate()
    sidecar.wait_until(lambda: sidecar.metrics()[KVNO] == 2)

    assert sidecar.is_ready()
    assert house.failed_tries() == 0
    (rotated,) = (line for line in sidecar.audit() if line["event"] == "key.rotated")
    assert (rotated["old_kvno"], rotated["kvno"]) == (1, 2)


def test_a_signal_lets_it_look_at_the_vault_at_once(house: Any) -> None:
    house.configuration["vault"]["every"] = "1h"
    sidecar = house.start()
    sidecar.wait_until_ready()
    house.rotate()

    sidecar.signal(signal.SIGHUP)

    sidecar.wait_until(lambda: sidecar.metrics()[KVNO] == 2)


def test_sigusr1_gets_new_tickets_too(house: Any) -> None:
    sidecar = house.start()
    sidecar.wait_until_ready()
    before = house.cache.stat().st_ino

    sidecar.signal(signal.SIGUSR1)

    sidecar.wait_until(lambda: house.cache.stat().st_ino != before)
    sidecar.wait_until(lambda: "ticket.renewed" in events(sidecar))


def test_a_secret_that_changed_without_its_key_changes_nothing(house: Any) -> None:
    sidecar = house.start()
    sidecar.wait_until_ready()
    house.vault.rotate(KEYTAB_SECRET, "keytab", house.keytab())

    sidecar.wait_until(lambda: events(sidecar).count("vault.read") >= 2)

    assert events(sidecar).count("key.fetched") == 1
    assert events(sidecar).count("ticket.issued") == 1


def test_a_refused_key_is_tried_once_whatever_happens(house: Any) -> None:
    house.kdc.lock_after(ACCOUNT, 3)
    house.kdc.rotate(ACCOUNT)  # the vault does not know

    sidecar = house.start()
    sidecar.wait_until(lambda: "ticket.denied" in events(sidecar))
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGHUP):
        sidecar.signal(number)
        time.sleep(1.2)

    assert house.failed_tries() == 1
    (reason,) = sidecar.state()["reasons"]
    assert "the KDC refuses the key" in reason
    house.vault.rotate(KEYTAB_SECRET, "keytab", house.keytab())
    sidecar.wait_until_ready()
    assert events(sidecar).count("ticket.denied") == 1


def test_a_refusal_that_comes_after_the_deadline_counts_as_one_in_time(house: Any) -> None:
    house.kdc.lock_after(ACCOUNT, 3)
    house.kdc.rotate(ACCOUNT)  # the vault does not know
    house.slow_down(1.5, deadline="1s")

    sidecar = house.start()
    sidecar.wait_until(lambda: "ticket.denied" in events(sidecar))
    sidecar.signal(signal.SIGHUP)
    time.sleep(5)

    assert house.failed_tries() == 1
    (reason,) = sidecar.state()["reasons"]
    assert "the KDC refuses the key" in reason
    assert sidecar.metrics()['datakit_sidecar_failures_total{what="kdc",cause="KeyRefused"}'] == 1
    sidecar.stop()
    sidecar.start()
    sidecar.wait_until(lambda: "refused this key before" in sidecar.log())
    assert house.failed_tries() == 1
    house.vault.rotate(KEYTAB_SECRET, "keytab", house.keytab())
    sidecar.wait_until_ready()


def test_a_key_is_not_used_again_while_its_request_is_on_its_way(house: Any) -> None:
    house.kdc.lock_after(ACCOUNT, 3)
    house.kdc.rotate(ACCOUNT)
    house.slow_down(3, deadline="1s")

    sidecar = house.start()
    sidecar.wait_until(lambda: "KdcSilent" in str(sidecar.log()) or "the KDC is silent" in sidecar.log())
    for _ in range(5):
        sidecar.signal(signal.SIGHUP)
        time.sleep(0.3)
    sidecar.wait_until(lambda: "ticket.denied" in events(sidecar))
    time.sleep(7)

    assert house.failed_tries() == 1


def test_after_a_refusal_the_vault_is_read_once_more(house: Any) -> None:
    house.configuration["vault"]["every"] = "1h"
    house.kdc.rotate(ACCOUNT)

    sidecar = house.start()
    sidecar.wait_until(lambda: "ticket.denied" in events(sidecar))
    time.sleep(1.5)

    reads = [line for line in sidecar.audit() if line["event"] == "vault.read"]
    assert len(reads) == 2


def test_a_restarted_sidecar_does_not_try_a_refused_key_again(house: Any) -> None:
    house.kdc.lock_after(ACCOUNT, 3)
    house.kdc.rotate(ACCOUNT)

    codes = [house.once("--timeout", "5s").returncode for _ in range(5)]

    assert codes == [77] * 5
    assert house.failed_tries() == 1
    done = house.once()
    assert "the KDC refused this key before" in done.stderr
    assert FILE_NAME in done.stderr
    house.vault.rotate(KEYTAB_SECRET, "keytab", house.keytab())
    assert house.once().returncode == 0
    assert not (house.cache.parent / FILE_NAME).exists()


def test_a_damaged_memory_of_refused_keys_is_said_and_does_not_stop_anything(house: Any) -> None:
    house.cache.parent.mkdir()
    (house.cache.parent / FILE_NAME).write_text('{"svc-datakit@LAB.TEST": [{"salt": "xx"}, 7], "a": 3')

    done = house.once()

    assert done.returncode == 0
    assert "refused keys of former processes are not known" in done.stderr


@pytest.mark.slow
def test_a_wrong_new_key_leaves_the_old_ticket_served_and_renewed(make_house: Callable[..., Any]) -> None:
    house = make_house(ticket_life=timedelta(seconds=6), clock_skew=timedelta(seconds=1))
    house.kdc.lock_after(ACCOUNT, 3)
    sidecar = house.start()
    sidecar.wait_until_ready()
    house.kdc.add_principal("stranger")
    house.kdc.rotate("stranger")
    wrong = _renamed(house.keytab("stranger"), b"stranger", ACCOUNT.encode())
    house.vault.rotate(KEYTAB_SECRET, "keytab", wrong)
    sidecar.wait_until(lambda: "ticket.denied" in events(sidecar))

    renewed = events(sidecar).count("ticket.renewed")
    sidecar.wait_until(lambda: events(sidecar).count("ticket.renewed") >= renewed + 4, 60)

    assert sidecar.is_ready()
    assert house.failed_tries() <= 1


def _renamed(keytab: bytes, old: bytes, new: bytes) -> bytes:
    """Give a keytab's entries another principal, as a mix-up of accounts would."""
    import struct

    built, offset = keytab[:2], 2
    while offset < len(keytab):
        (size,) = struct.unpack_from(">i", keytab, offset)
        entry = keytab[offset + 4 : offset + 4 + size]
        offset += 4 + size
        entry = entry.replace(struct.pack(">H", len(old)) + old, struct.pack(">H", len(new)) + new)
        built += struct.pack(">i", len(entry)) + entry
    return built


def test_a_key_derived_from_a_password_follows_its_rotation(house: Any) -> None:
    house.kdc.add_principal("svc-password", "first w0rd")
    house.vault.add_secret("/Kerberos/by-password", {"password": "first w0rd"})
    house.configuration["principals"] = [
        {
            "name": "svc-password",
            "password": {"secret": "/Kerberos/by-password"},
            "services": ["MSSQLSvc/sql01.lab.test:1433"],
        }
    ]
    sidecar = house.start()
    sidecar.wait_until_ready()

    house.kdc.rotate("svc-password", "second w0rd")
    house.vault.rotate("/Kerberos/by-password", "password", "second w0rd")

    sidecar.wait_until(lambda: "key.rotated" in events(sidecar))
    assert sidecar.is_ready()
    assert house.failed_tries("svc-password") == 0


def test_a_wrong_password_is_tried_once(house: Any) -> None:
    house.kdc.add_principal("svc-password", "right")
    house.vault.add_secret("/Kerberos/by-password", {"password": "wrong"})
    house.configuration["principals"] = [
        {"name": "svc-password", "password": {"secret": "/Kerberos/by-password"}, "share": "tgt"}
    ]

    codes = [house.once("--timeout", "5s").returncode for _ in range(3)]

    assert codes == [77] * 3
    assert house.failed_tries("svc-password") == 1


def test_a_rotated_secret_is_in_its_file_soon_and_audited(house: Any) -> None:
    house.vault.add_secret("/Databases/finance-db", {"username": "loader", "password": "first"})
    house.configuration["secrets"] = [
        {"secret": "/Databases/finance-db", "as": "finance-db", "fields": ["username", "password"]}
    ]
    sidecar = house.start()
    sidecar.wait_until_ready()
    file = house.volume / "secrets/finance-db/password"

    house.vault.rotate("/Databases/finance-db", "password", "second")

    sidecar.wait_until(lambda: file.read_text() == "second")
    sidecar.wait_until(lambda: "secret.rotated" in events(sidecar))
    (line,) = (line for line in sidecar.audit() if line["event"] == "secret.rotated")
    assert line["fields"] == ["password"]
    assert 'datakit_sidecar_last_rotation_time_seconds{secret="finance-db"}' in sidecar.metrics()


def test_a_secret_that_is_missing_does_not_stop_tickets(house: Any) -> None:
    house.configuration["secrets"] = [{"secret": "/Databases/nowhere", "as": "nowhere"}]
    sidecar = house.start()
    sidecar.wait_until(house.cache.exists)

    sidecar.wait_until(lambda: "no such secret" in str(sidecar.state()["reasons"]) or "nowhere" in str(sidecar.state()))
    (reason,) = sidecar.state()["reasons"]
    assert reason.startswith("secret nowhere: not published (")

    house.vault.add_secret("/Databases/nowhere", {"password": "now"})
    sidecar.signal(signal.SIGHUP)
    sidecar.wait_until_ready()


def test_what_somebody_removes_is_published_again(house: Any) -> None:
    house.vault.add_secret("/Databases/finance-db", {"password": "x"})
    house.configuration["secrets"] = [{"secret": "/Databases/finance-db", "as": "finance-db"}]
    sidecar = house.start()
    sidecar.wait_until_ready()
    file = house.volume / "secrets/finance-db/password"

    file.unlink()
    house.cache.unlink()
    sidecar.signal(signal.SIGHUP)

    sidecar.wait_until(lambda: file.exists() and house.cache.exists())
