"""What the doctor says: one test for each thing that goes wrong in companies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from datakit_sidecar import probe
from datakit_sidecar.doctor.kerberos import _clock


def findings(house: Any, *, expected: int = 0) -> dict[str, dict[str, Any]]:
    """Return the doctor's findings; of several of one subject, the worst."""
    done = house.command("doctor", "--json", "--config", house.write())
    assert done.returncode == expected, done.stdout + done.stderr
    rank = {"good": 0, "doubtful": 1, "bad": 2}
    found: dict[str, dict[str, Any]] = {}
    for row in json.loads(done.stdout)["findings"]:
        if rank[row["state"]] >= rank[found.get(row["subject"], {"state": "good"})["state"]]:
            found[row["subject"]] = row
    return found


def test_a_sound_installation_is_good(house: Any) -> None:
    house.vault.add_secret("/Databases/finance-db", {"password": "x"})
    house.configuration["secrets"] = [{"secret": "/Databases/finance-db", "as": "finance-db"}]

    done = house.command("doctor", "--config", house.write())

    assert done.returncode == 0, done.stdout
    assert "0 bad" in done.stdout
    for words in (
        "in memory (tmpfs)",
        "it answers and takes the credential",
        "password may be read, for finance-db",
        "the KDC takes it (aes256-cts-hmac-sha1-96",
        "svc-datakit@LAB.TEST version 1",
        "✓ service MSSQLSvc/sql01.lab.test:1433",
        "✓ clock",
    ):
        assert words in done.stdout


def test_it_leaves_a_running_sidecar_alone(house: Any) -> None:
    sidecar = house.start()
    sidecar.wait_until_ready()
    before = house.cache.stat().st_ino

    assert findings(house)

    assert sidecar.is_ready()
    assert house.cache.stat().st_ino == before


def test_it_publishes_nothing(house: Any) -> None:
    findings(house)

    assert list(house.volume.iterdir()) == []


def test_a_wrong_key_is_tried_once_however_often_it_is_asked(house: Any) -> None:
    house.kdc.lock_after("svc-datakit", 3)
    house.kdc.rotate("svc-datakit")

    first = findings(house, expected=78)["key of svc-datakit@LAB.TEST"]
    for _ in range(3):
        again = findings(house, expected=78)["key of svc-datakit@LAB.TEST"]

    assert "the KDC refuses the key" in first["detail"]
    assert "refused this key before" in again["detail"]
    assert house.failed_tries() == 1


def test_a_refusal_that_comes_late_is_waited_for_and_remembered(house: Any) -> None:
    house.kdc.rotate("svc-datakit")
    house.slow_down(1.5, deadline="1s")

    done = house.command("doctor", "--config", house.write())
    again = findings(house, expected=78)["key of svc-datakit@LAB.TEST"]

    assert "no answer within 1 s" in done.stdout or "the KDC is silent" in done.stdout
    assert "the KDC refuses the key" in done.stdout
    assert "refused this key before" in again["detail"]
    assert house.failed_tries() == 1


def test_a_wrong_service_is_named_with_the_way_to_look_it_up(house: Any) -> None:
    house.configuration["principals"][0]["services"].append("MSSQLSvc/alias.lab.test:1433")

    row = findings(house, expected=78)["service MSSQLSvc/alias.lab.test:1433"]

    assert row["state"] == "bad"
    assert "setspn -Q MSSQLSvc/alias.lab.test:1433" in row["fix"]


def test_a_locked_account_is_seen_without_its_key(house: Any) -> None:
    house.kdc.lock("svc-datakit")

    row = findings(house, expected=78)[f"KDC 127.0.0.1:{house.kdc.port}"]

    assert "disabled, locked or expired" in row["detail"]


def test_a_kdc_that_does_not_answer_is_doubtful_if_another_does(house: Any) -> None:
    house.configuration["kerberos"]["kdcs"].append("127.0.0.1:1")

    row = findings(house)["KDC 127.0.0.1:1"]

    assert row["state"] == "doubtful"
    assert "nc -zvu 127.0.0.1 1" in row["fix"]


def test_no_kdc_at_all_is_bad(house: Any) -> None:
    house.kdc.stop()

    found = findings(house, expected=78)

    assert found["KDCs"]["state"] == "bad"
    assert "no KDC answers" in found["key of svc-datakit@LAB.TEST"]["detail"]


@pytest.mark.parametrize(("ahead", "state"), [(2.0, "good"), (-100.0, "doubtful"), (400.0, "bad")])
def test_the_clock_is_compared_with_the_kdcs(ahead: float, state: str) -> None:
    finding = _clock("dc1", ahead)

    assert finding.state == state
    assert "ahead" in finding.detail if ahead > 0 else "behind" in finding.detail


def test_the_kdcs_clock_is_asked_for_without_a_key(house: Any) -> None:
    answer = probe.probe(f"127.0.0.1:{house.kdc.port}", "svc-datakit@LAB.TEST")

    assert answer.code == probe.PREAUTH_REQUIRED
    assert answer.clock is not None
    assert abs(answer.clock) < 5
    assert house.failed_tries() == 0


def test_something_else_on_the_kdcs_port_is_called_so(house: Any) -> None:
    house.configuration["kerberos"]["kdcs"] = [f"127.0.0.1:{house.vault.port}"]

    row = findings(house, expected=78)[f"KDC 127.0.0.1:{house.vault.port}"]

    assert row["state"] == "bad"
    assert "something else listens there" in row["detail"]


def test_a_folder_on_a_disk_is_bad(house: Any) -> None:
    house.configuration["publish"]["tickets"] = str(house.folder / "tickets")

    row = findings(house, expected=78)[f"tickets: {house.folder / 'tickets'}"]

    assert "which is not memory" in row["detail"]
    assert "medium: Memory" in row["fix"]


def test_a_folder_in_which_others_may_replace_files_is_bad(house: Any) -> None:
    house.cache.parent.mkdir()
    house.cache.parent.chmod(0o777)

    row = findings(house, expected=78)[f"tickets: {house.cache.parent}"]

    assert "open to everybody (mode 0777), who could replace" in row["detail"]
    assert f"chmod go-w {house.cache.parent}" in row["fix"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
def test_somebody_elses_file_is_bad(house: Any) -> None:
    house.cache.parent.mkdir()
    house.cache.touch()
    os.chown(house.cache, 12345, 12345)

    assert "belongs to uid 12345" in findings(house, expected=78)[f"tickets: {house.cache}"]["detail"]


def test_a_denied_secret_is_bad_and_the_rest_is_still_looked_at(house: Any) -> None:
    house.configuration["secrets"] = [{"secret": "/Databases/nowhere", "as": "nowhere"}]

    found = findings(house, expected=78)

    assert found["secret /Databases/nowhere"]["state"] == "bad"
    assert found["service MSSQLSvc/sql01.lab.test:1433"]["state"] == "good"


def test_a_wrong_bootstrap_credential_is_bad(house: Any) -> None:
    house.vault.change_password()

    found = findings(house, expected=78)

    assert found[f"vault 127.0.0.1:{house.vault.port}"]["state"] == "bad"


def test_keys_of_others_in_the_keytab_are_doubtful(house: Any) -> None:
    house.kdc.add_principal("HTTP/web01.lab.test")
    house.vault.rotate("/Kerberos/svc-datakit", "keytab", house.keytab("svc-datakit", "HTTP/web01.lab.test"))

    row = findings(house)["keytab of svc-datakit@LAB.TEST"]

    assert row["state"] == "doubtful"
    assert "HTTP/web01.lab.test@LAB.TEST" in row["detail"]


def test_another_key_version_than_the_kdcs_is_doubtful(house: Any) -> None:
    data = house.keytab()
    house.vault.rotate("/Kerberos/svc-datakit", "keytab", _with_kvno(data, 7))

    row = findings(house)["key of svc-datakit@LAB.TEST"]

    assert row["state"] == "doubtful"
    assert "the vault's is version 7, the KDC's is version 1" in row["detail"]


def _with_kvno(keytab: bytes, kvno: int) -> bytes:
    import struct

    built, offset = bytearray(keytab), 2
    while offset < len(built):
        (size,) = struct.unpack_from(">i", built, offset)
        end = offset + 4 + size
        built[end - 4 : end] = struct.pack(">I", kvno)
        offset = end
    return bytes(built)


def test_the_traps_of_an_existing_krb5_conf_are_named(house: Any) -> None:
    conf = house.folder / "krb5.conf"
    conf.write_text(
        f"[libdefaults]\n default_realm = LAB.TEST\n dns_canonicalize_hostnames = no\n"
        f" default_ccache_name = KEYRING:persistent:%{{uid}}\n permitted_enctypes = rc4-hmac aes256-cts\n"
        f"[realms]\n LAB.TEST = {{\n  kdc = 127.0.0.1:{house.kdc.port}\n }}\n"
    )
    house.configuration["kerberos"] = {"realm": "LAB.TEST", "krb5_conf": str(conf)}

    found = findings(house)

    assert found["krb5.conf: rdns"]["state"] == "doubtful"
    assert found["krb5.conf: kdc_timesync"]["state"] == "doubtful"
    assert "KEYRING" in found["krb5.conf: default_ccache_name"]["detail"]
    assert "krb5.conf: dns_canonicalize_hostnames" not in found
    assert "krb5.conf: permitted_enctypes" not in found


def test_a_life_that_is_shorter_than_ready_wants_is_bad(hasty_house: Any) -> None:
    hasty_house.configuration["health"]["minimum_life"] = "5m"

    row = findings(hasty_house, expected=78)["ticket of svc-datakit@LAB.TEST"]

    assert "it lives for 0:00:10" in row["detail"]
    assert "health.minimum_life is 300 s" in row["detail"]


def test_a_broken_audit_chain_is_bad(house: Any) -> None:
    house.once()
    house.audit_file.write_bytes(house.audit_file.read_bytes().replace(b'"kvno":1', b'"kvno":2', 1))

    row = findings(house, expected=78)["audit"]

    assert "was changed" in row["detail"]


def test_a_configuration_that_is_wrong_is_said_before_anything_else(house: Any) -> None:
    house.configuration["kerberos"]["relm"] = "x"

    done = house.command("doctor", "--config", house.write())

    assert done.returncode == 78
    assert "kerberos has no key 'relm'" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_folder_of_another_user_is_bad(house: Any) -> None:
    house.folder.chmod(0o755)
    for path in house.folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for path in house.folder.parents:
        if path.stat().st_uid == 0 and str(path) != "/":
            path.chmod(path.stat().st_mode | 0o011)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command = [*user, sys.executable, "-m", "datakit_sidecar.cli", "doctor", "--config", str(house.write())]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 78
    assert "this user (uid 65534) may not write there" in done.stdout
    assert "none was tried" in done.stdout
    assert "the KDC takes it" not in done.stdout
