"""The double of the vault as the lab runs it, asked by the real client."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from datakit_lab.certificates import ServerCertificate
from datakit_lab.errors import LabError, LabUnavailable
from datakit_lab.network import free_port
from datakit_lab.processes import ChildProcess
from datakit_lab.vault import Kind, VaultControl, run_vault, start_vault
from datakit_vault import Reference, RetryPolicy, Vault, VaultSettings, errors

KEYTAB = b"\x05\x02" + bytes(range(256))


class Lab:
    """A running double, what commands it, and a client's settings."""

    def __init__(self, folder: Path, certificate: ServerCertificate, kind: Kind) -> None:
        port = free_port()
        self.control_path = folder / "vault.sock"
        self.credentials = folder / "credentials"
        self.process: ChildProcess = start_vault(
            port=port,
            certificates=certificate.certificate.parent,
            credentials=self.credentials,
            control=self.control_path,
            log=folder / "vault.log",
            kind=kind,
        )
        self.process.wait_until(self.control_path.exists)
        self.control = VaultControl(self.control_path)
        self.settings = VaultSettings(
            kind=kind,
            url=f"https://localhost:{port}{'' if kind == 'platform' else '/SecretServer'}",
            credentials=self.credentials,
            ca_file=certificate.authority,
        )

    def vault(self) -> Vault:
        return Vault(self.settings, retry=RetryPolicy(attempts=1))

    def command(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "datakit_lab", "vault", *arguments, "--control", str(self.control_path)]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False
        )


@pytest.fixture(params=["secret-server", "platform"])
def lab(request: pytest.FixtureRequest, tmp_path: Path, lab_certificate: ServerCertificate) -> Iterator[Lab]:
    running = Lab(tmp_path, lab_certificate, request.param)
    yield running
    running.process.stop()


def test_the_client_reads_over_tls_what_the_control_socket_put_there(lab: Lab) -> None:
    number = lab.control.add_secret("/Kerberos/svc", {"keytab": KEYTAB, "password": "pä\nss"})
    with lab.vault() as vault:
        reference = Reference.parse("/Kerberos/svc")
        assert vault.read(reference, "keytab").reveal() == KEYTAB
        assert vault.read_text(Reference.parse(number), "password").reveal() == "pä\nss"
        before = vault.record(reference)
        lab.control.rotate("/Kerberos/svc", "keytab", KEYTAB[::-1])
        assert vault.record(reference).marker != before.marker
        assert vault.read(reference, "keytab").reveal() == KEYTAB[::-1]
        lab.control.change(number, denied=True)
        with pytest.raises(errors.SecretDenied):
            vault.read(reference, "keytab")


def test_the_credential_is_for_this_user_only_and_secrets_are_on_no_disk(lab: Lab, tmp_path: Path) -> None:
    lab.control.add_secret("/Kerberos/svc", {"keytab": KEYTAB, "password": "canary-4711"})
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in lab.credentials.iterdir())
    assert lab.credentials.stat().st_mode & 0o777 == 0o700
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"canary-4711" not in path.read_bytes(), path
            assert KEYTAB[2:50] not in path.read_bytes(), path


def test_an_outage_and_a_fault_pass_when_they_are_cleared(lab: Lab) -> None:
    lab.control.add_secret("/a", {"password": "x"})
    with lab.vault() as vault:
        reference = Reference.parse("/a")
        lab.control.stop()
        with pytest.raises(errors.Unreachable):
            vault.record(reference)
        lab.control.clear()
        assert vault.record(reference).name == "a"
        lab.control.fault("html", times=None)
        with pytest.raises(errors.NotTheVault):
            vault.record(reference)
        lab.control.clear()
        assert vault.record(reference).name == "a"
    seen = [(request["status"], request["fault"]) for request in lab.control.requests()]
    assert (200, "html") in seen


def test_what_the_double_refuses_is_said_to_who_asked(lab: Lab, tmp_path: Path) -> None:
    lab.control.add_secret("/a", {"password": "x"})
    with pytest.raises(LabError, match="there is a secret /a already"):
        lab.control.add_secret("/a", {})
    with pytest.raises(LabError, match="has no secret /b"):
        lab.control.rotate("/b", "password", "y")
    with pytest.raises(LabError, match="neither a secret's id nor its full path"):
        lab.control.remove("b")
    with pytest.raises(LabError, match="'boom' is no fault"):
        lab.control.fault("boom")
    with pytest.raises(LabError, match="has no 'checkuot'"):
        lab.control.change("/a", checkuot=True)
    with pytest.raises(LabUnavailable, match="the vault double does not answer"):
        VaultControl(tmp_path / "nobody").requests()


def test_a_person_adds_rotates_and_looks_without_a_value_in_the_process_list(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "svc.keytab").write_bytes(KEYTAB)
    added = lab.command("add", "/Kerberos/svc", f"keytab=@{tmp_path / 'svc.keytab'}", "password", stdin="secret one\n")
    assert (0, "/Kerberos/svc has the id 1000\n", "") == (added.returncode, added.stdout, added.stderr)
    assert lab.command("rotate", "1000", "password", stdin="secret two\n").returncode == 0
    with lab.vault() as vault:
        assert vault.read(Reference.parse(1000), "keytab").reveal() == KEYTAB
        assert vault.read_text(Reference.parse(1000), "password").reveal() == "secret two"
    shown = lab.command("log").stdout
    assert "/api/v1/secrets/1000/fields/password" in shown
    assert "secret two" not in shown
    assert lab.command("fault", "throttled").stdout == "waits: throttled\n"
    with lab.vault() as vault, pytest.raises(errors.Throttled):
        vault.record(Reference.parse(1000))
    assert lab.command("fault", "clear").returncode == 0
    refused = lab.command("add", "/b", "password=hunter2")
    assert refused.returncode == 78
    assert "every user of this machine can read" in refused.stderr
    assert "hunter2" not in refused.stderr
    missing = lab.command("add", "/b", f"keytab=@{tmp_path / 'none'}")
    assert (78, True) == (missing.returncode, "cannot be read: No such file" in missing.stderr)


def test_a_taken_port_is_named_with_who_holds_it(lab: Lab, tmp_path: Path) -> None:
    port = int(lab.settings.host.rpartition(":")[2])
    with (
        pytest.raises(LabError, match=rf"port {port} is taken by python"),
        run_vault(port=port, credentials=tmp_path / "other"),
    ):
        pass
