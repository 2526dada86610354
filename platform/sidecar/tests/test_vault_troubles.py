"""A vault that answers badly: each way has its message, and what is published stays."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("fault", "code", "kinds"),
    [
        ("denied", 77, {"SecretDenied"}),
        ("not-found", 78, {"SecretNotFound"}),
        ("throttled", 75, {"Throttled"}),
        ("unavailable", 75, {"Unavailable"}),
        ("html", 78, {"NotTheVault"}),
        ("garbage", 75, {"AnswerBroken"}),
        ("truncated", 75, {"AnswerBroken", "Unreachable"}),
        ("cut-json", 75, {"AnswerBroken"}),
        ("reset", 75, {"Unreachable"}),
        ("large", 78, {"AnswerTooLarge"}),
        ("large-chunked", 78, {"AnswerTooLarge"}),
    ],
)
def test_each_trouble_ends_an_init_container_with_its_code_and_name(
    house: Any, fault: str, code: int, kinds: set[str]
) -> None:
    house.vault.fault(fault, times=None)

    done = house.once("--json", "--timeout", "3s")

    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    error = json.loads(done.stderr.splitlines()[-1])
    assert error["type"] in kinds
    assert error["fix"]
    assert not house.cache.exists()


@pytest.mark.parametrize("fault", ["denied", "html", "large", "cut-json", "slow"])
def test_a_trouble_later_leaves_what_is_published_and_passes(house: Any, fault: str) -> None:
    house.vault.add_secret("/Databases/finance-db", {"password": "good"})
    house.configuration["secrets"] = [{"secret": "/Databases/finance-db", "as": "finance-db"}]
    house.configuration["vault"]["timeout"] = "1s"
    sidecar = house.start()
    sidecar.wait_until_ready()
    cache = house.cache.read_bytes()

    house.vault.fault(fault, times=None)
    failures = _failures(sidecar)
    sidecar.signal(signal.SIGHUP)
    sidecar.wait_until(lambda: _failures(sidecar) >= failures + 2)

    assert sidecar.is_ready()
    assert house.cache.read_bytes() == cache
    assert (house.volume / "secrets/finance-db/password").read_text() == "good"
    assert sidecar.state()["secrets"]["finance-db"]["error"] is not None
    house.vault.clear_faults()
    sidecar.signal(signal.SIGHUP)
    sidecar.wait_until(lambda: sidecar.state()["secrets"]["finance-db"]["error"] is None)


def _failures(sidecar: Any) -> float:
    return sum(count for name, count in sidecar.metrics().items() if name.startswith("datakit_sidecar_failures_total"))


def test_a_hundred_megabytes_are_not_held(house: Any) -> None:
    sidecar = house.start()
    sidecar.wait_until_ready()
    before = sidecar.memory()
    house.vault.fault("large-chunked", times=None)

    sidecar.signal(signal.SIGHUP)
    sidecar.wait_until(lambda: "AnswerTooLarge" in str(sidecar.metrics()))

    assert sidecar.memory() < before + 16 * 2**20


def test_an_emptied_secret_does_not_replace_the_old_value(house: Any) -> None:
    secret = house.vault.add_secret("/Databases/finance-db", {"password": "good"})
    house.configuration["secrets"] = [{"secret": secret, "as": "finance-db"}]
    sidecar = house.start()
    sidecar.wait_until_ready()

    house.vault.set_field(secret, "password", "")
    sidecar.signal(signal.SIGHUP)

    sidecar.wait_until(lambda: "FieldEmpty" in str(sidecar.metrics()))
    assert (house.volume / "secrets/finance-db/password").read_text() == "good"


def test_a_secret_that_changes_when_it_is_read_is_not_used_for_a_keytab(house: Any) -> None:
    house.vault.change("/Kerberos/svc-datakit", checkout=True, rotates_on_check_in=True)

    done = house.once("--json", "--timeout", "3s")

    assert done.returncode == 78
    assert json.loads(done.stderr.splitlines()[-1])["type"] == "RotatesWhenRead"


@pytest.mark.parametrize(
    ("keytab", "words"),
    [
        (b"<html>sign in</html>", "a web page or JSON was stored instead of the file"),
        (b"\x05\x02", "the keytab holds no key"),
        (b"not a keytab at all", "this is no keytab"),
    ],
)
def test_a_field_that_holds_no_keytab_is_named_with_its_secret(house: Any, keytab: bytes, words: str) -> None:
    house.vault.rotate("/Kerberos/svc-datakit", "keytab", keytab)

    done = house.once("--timeout", "3s")

    assert done.returncode == 78
    assert words in done.stderr
    assert "secret /Kerberos/svc-datakit, field keytab" in done.stderr
    assert house.failed_tries() == 0


def test_a_keytab_of_another_account_is_noticed_without_a_try(house: Any) -> None:
    house.kdc.add_principal("svc-other")
    house.vault.rotate("/Kerberos/svc-datakit", "keytab", house.keytab("svc-other"))

    done = house.once("--timeout", "3s")

    assert done.returncode == 78
    assert "holds keys of svc-other@LAB.TEST, and none of svc-datakit@LAB.TEST" in done.stderr
    assert house.failed_tries() == 0


def test_a_wrong_bootstrap_credential_is_not_tried_again_and_again(house: Any) -> None:
    house.vault.lock_after = 3
    house.vault.change_password()
    house.configuration["vault"]["every"] = "100ms"
    sidecar = house.start()
    sidecar.wait_until(lambda: "LoginRefused" in _metrics(sidecar))
    for _ in range(5):
        sidecar.signal(signal.SIGHUP)

    sidecar.wait_until(lambda: _metrics(sidecar).count("LoginRefused") > 0)

    assert house.vault.wrong_logins == 1


def _metrics(sidecar: Any) -> str:
    from datakit_sidecar.errors import NotReady

    try:
        return str(sidecar.page("/metrics").text)
    except NotReady:
        return ""


def test_http_is_refused_before_anything_is_asked(house: Any) -> None:
    del house.configuration["vault"]["allow_http"]

    done = house.once()

    assert done.returncode == 78
    assert "not encrypted" in done.stderr
    assert house.vault.requests == ()


def test_the_platform_is_a_vault_too(house: Any) -> None:
    from datakit_vault.testing import FakeVault

    with FakeVault(kind="platform") as platform:
        platform.add_secret("/Kerberos/svc-datakit", {"keytab": house.keytab()})
        house.configuration["vault"] |= {
            "kind": "platform",
            "url": platform.url,
            "credentials": str(platform.credentials_folder(house.folder / "platform")),
        }

        done = house.once()

    assert done.returncode == 0, done.stderr
