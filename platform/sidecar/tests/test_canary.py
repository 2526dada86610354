"""Secrets are planted, and then searched for wherever a process leaves traces: they are found nowhere."""

from __future__ import annotations

import base64
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import krb5
from datakit_sidecar import keytab

SERVICE = "MSSQLSvc/sql01.lab.test:1433"


def forms(secret: bytes) -> list[bytes]:
    """Return the ways in which a secret may be written."""
    text = base64.b64encode(secret).rstrip(b"=")
    return [secret, secret.hex().encode(), secret.hex(" ").encode(), text[:-1], repr(secret).encode()[2:-1]]


def planted(house: Any, canary: str) -> dict[str, list[bytes]]:
    """Return everything that must not be found, by what it is."""
    found = {f"key {number}": forms(bytes(entry.key)) for number, entry in enumerate(keytab.entries(house.keytab()))}
    found["password"] = forms(canary.encode())
    found["vault password"] = forms((house.folder / "bootstrap/password").read_bytes())
    return found


def traces(house: Any, pid: int | None) -> Iterator[tuple[str, bytes]]:
    for root in (house.folder, house.volume):
        for path in root.rglob("*"):
            if path.is_file() and path.name != "keytab" and path.parent.name != "bootstrap":
                yield str(path), path.read_bytes()
    if pid is not None:
        for name in ("environ", "cmdline"):
            yield f"/proc/{pid}/{name}", Path(f"/proc/{pid}/{name}").read_bytes()


def test_no_key_password_or_session_key_is_found_anywhere(house: Any) -> None:
    canary = f"canary-{secrets.token_hex(12)}"
    house.kdc.add_principal("svc-password", canary)
    house.vault.add_secret("/Kerberos/by-password", {"password": canary})
    house.configuration["principals"].append(
        {"name": "svc-password", "password": {"secret": "/Kerberos/by-password"}, "services": [SERVICE]}
    )
    sidecar = house.start()
    sidecar.wait_until_ready()
    hidden = planted(house, canary)
    house.vault.rotate("/Kerberos/svc-datakit", "keytab", b"\x05\x02garbage " + canary.encode())
    sidecar.signal(signal.SIGHUP)
    sidecar.wait_until(lambda: "KeytabInvalid" in str(sidecar.metrics()))
    pages = [(path, sidecar.page(path).text.encode()) for path in ("/healthz", "/readyz", "/metrics")]

    looked = [*traces(house, sidecar.pid), *pages]
    sidecar.signal(signal.SIGTERM)

    assert len(looked) > 10
    for where, content in looked:
        for what, ways in hidden.items():
            assert not any(way in content for way in ways), f"{what} is in {where}"


def test_the_ticket_granting_ticket_and_its_session_key_are_in_no_file_and_no_other_process_gets_them(
    house: Any,
) -> None:
    sidecar = house.start()
    sidecar.wait_until_ready()
    context = krb5.init_context()
    cache = krb5.cc_resolve(context, f"FILE:{house.cache}".encode())

    names = [str(krb5.unparse_name_flags(context, each.server, 0), "utf-8") for each in cache]

    assert names
    assert not any(name.startswith("krbtgt/") for name in names)


def test_an_error_about_a_key_does_not_show_it(house: Any) -> None:
    canary = b"canary-" + os.urandom(16)
    house.vault.rotate("/Kerberos/svc-datakit", "keytab", canary)

    done = house.once("--timeout", "5s")

    assert done.returncode == 78
    assert "this is no keytab" in done.stderr
    assert all(way.decode("latin-1") not in done.stderr + done.stdout for way in forms(canary))


def test_the_vaults_answers_are_not_logged(house: Any) -> None:
    house.vault.fault("html", times=3)

    done = house.once("--timeout", "5s")

    assert "Traceback" not in done.stderr
    assert "<html" not in done.stderr.lower()
