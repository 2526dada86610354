"""Secrets stay where they belong: looked for in whatever a sidecar could write to while everything goes wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import krb5
import psutil
import pytest
from datakit_sidecar.errors import NotReady
from datakit_sidecar.testing import SidecarProcess

from .canary import Places, Watcher, spellings
from .stage import Account, Stage, keytab_of_password
from .wire import Relay, granting_session_keys

SECRET = b"correct horse \xff battery/staple+"
PAGES = ("/metrics", "/healthz", "/readyz")


@dataclass
class Suspect:
    """A sidecar that has nothing but folders of its own: whatever it writes is below them."""

    stage: Stage
    relay: Relay
    home: Path
    places: Places = field(default_factory=Places)
    sidecar: SidecarProcess = field(init=False)

    @property
    def environment(self) -> dict[str, str]:
        temporary = self.home / "tmp"
        temporary.mkdir(exist_ok=True)
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(temporary), "LANG": "C.UTF-8"}

    @property
    def folders(self) -> tuple[Path, ...]:
        """Everything that it may write to; its bootstrap credential and the realm's database are not among it."""
        return (self.home, self.stage.volume)

    def start(self, prefix: Sequence[str] = ()) -> SidecarProcess:
        place = ["/usr/bin/env", "-C", str(self.home)]
        self.sidecar = self.stage.sidecar(environment=self.environment, prefix=[*place, *prefix])
        self.sidecar.start()
        return self.sidecar

    def look(self, places: Places) -> None:
        """Remember what the process shows of itself now."""
        with contextlib.suppress(NotReady):
            for page in PAGES:
                places.note(page, self.sidecar.page(page).text.encode())
        with contextlib.suppress(psutil.Error, OSError):
            places.note_process(self.sidecar.pid)

    def command(self, *arguments: str) -> int:
        """Run another command with the same configuration; remember what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "datakit_sidecar.cli", *arguments],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            check=False,
        )
        self.places.note(f"output of {' '.join(arguments)}", done.stdout + done.stderr)
        return done.returncode

    def secrets(self) -> dict[str, bytes]:
        """Return everything that must not be seen, by what it is."""
        keytab = self.stage.kdc.keytab(self.stage.folder / "krbtgt.keytab", "krbtgt/LAB.TEST")
        realm_key = krb5.kt_resolve(krb5.init_context(), f"FILE:{keytab}".encode())
        sessions = granting_session_keys(self.relay.answers, realm_key)
        assert len(sessions) > 10
        tokens = {f"vault token {token[:4]}": token.encode() for token in self.stage.vault._tokens}
        assert tokens
        return self.stage.told | tokens | {f"session key {number}": key for number, key in enumerate(sessions)}


@pytest.fixture
def suspect(tmp_path: Path) -> Iterator[Suspect]:
    with (
        Stage(timedelta(seconds=4), timedelta(seconds=16), tmp_path) as stage,
        Relay(stage.kdc.port) as relay,
    ):
        home = tmp_path / "home"
        home.mkdir()
        stage.configuration["kerberos"]["kdcs"] = [f"127.0.0.1:{relay.port}"]
        stage.configuration["audit"]["file"] = str(home / "audit.jsonl")
        suspect = Suspect(stage, relay, home)
        yield suspect
        with contextlib.suppress(NotReady):
            if suspect.sidecar.exit_code is None:
                suspect.sidecar.kill()


@pytest.mark.slow
def test_nothing_secret_is_seen_of_a_sidecar_whatever_goes_wrong(suspect: Suspect) -> None:
    stage = suspect.stage
    by_keytab, by_password = stage.accounts
    sidecar = suspect.start()
    with Watcher(suspect.places, suspect.folders, suspect.look) as watcher:
        sidecar.wait_until_ready()
        for account in stage.accounts:
            rotate(stage, account)
        stage.rotate_secret(2)
        sidecar.wait_until(lambda: stage.secret_file.read_text() == stage.database_password)
        sidecar.wait_until(lambda: sidecar.state()["principals"][by_keytab.principal]["kvno"] == by_keytab.kvno)
        for fault in ("denied", "html", "garbage", "cut-json", "truncated", "reset", "unavailable", "expired-token"):
            stage.vault.fault(fault, times=3)
            sidecar.signal(signal.SIGHUP)
            time.sleep(0.5)
        stage.vault.clear_faults()
        for number, broken in enumerate(broken_keytabs(by_keytab)):
            stage.told[f"broken keytab {number}"] = broken
            stage.vault.set_field(by_keytab.secret, "keytab", broken)
            sidecar.signal(signal.SIGHUP)
            time.sleep(0.5)
        stage.vault.set_field(by_password.secret, "password", "not the right password")
        stage.told["wrong password"] = b"not the right password"
        sidecar.wait_until(lambda: {"svc-keytab", "svc-password"} == denied(sidecar))
        stage.kdc.stop()
        time.sleep(1.5)
        stage.kdc.start()
        with stage.kdc.silent():
            sidecar.signal(signal.SIGUSR1)
            time.sleep(2.5)
        for account in stage.accounts:
            rotate(stage, account)
        sidecar.signal(signal.SIGUSR1)
        sidecar.wait_until_ready()
        configuration = str(stage.folder / "sidecar.yaml")
        suspect.command("doctor", "--config", configuration)
        suspect.command("healthcheck", "--config", configuration)
        # it refuses to publish where another one does
        assert suspect.command("once", "--config", configuration) == 78
        secrets = suspect.secrets()
        assert sidecar.stop() == 0
    assert watcher.looks > 50
    suspect.places.note("standard output", sidecar.stdout.read_bytes())
    suspect.places.note("standard error", sidecar.stderr.read_bytes())
    assert suspect.command("verify-audit", str(suspect.home / "audit.jsonl")) == 0

    database = [name for name in secrets if name.startswith("database password")]
    allowed = [(name, str(stage.secret_file)) for name in database]
    allowed += [(name, where) for name in database for where in scratch_files(suspect, stage.secret_file.parent)]
    shared = [str(stage.cache(by_password)), *scratch_files(suspect, stage.cache(by_password).parent)]
    allowed += [(name, where) for name in secrets if name.startswith("session key") for where in shared]
    # for the moment in which libkrb5 reads it, a keytab is in a file that is the process's memory
    memory = [where for where in suspect.places.seen if "/memfd:keytab " in where]
    allowed += [(name, where) for name in secrets if "key" in name for where in memory]
    found = suspect.places.search(secrets, allowed=allowed)

    assert found == []
    # what may be seen was seen, so the search looked at the right places
    seen = suspect.places.search({"database": stage.database_password.encode()})
    assert {each.where for each in seen} >= {str(stage.secret_file)}
    assert not secrets.keys().isdisjoint(
        {each.what for each in suspect.places.search({name: secrets[name] for name in secrets if "session" in name})}
    )


def denied(sidecar: SidecarProcess) -> set[str]:
    """Return whose keys the KDC has refused."""
    lines = [line for line in sidecar.audit() if line["event"] == "ticket.denied"]
    return {line["principal"].partition("@")[0] for line in lines}


def rotate(stage: Stage, account: Account) -> None:
    password, kvno, value = stage.new_key(account)
    stage.change_key(account, password, kvno)
    stage.vault.rotate(account.secret, account.field, value)


def broken_keytabs(account: Account) -> list[bytes]:
    """Keytabs that an error is made of: cut off, of a stranger, with a wrong key."""
    good = keytab_of_password(account.principal, "a password for a broken keytab", 7)
    stranger = keytab_of_password("stranger@LAB.TEST", "a password of a stranger", 7)
    return [good[:-9], stranger, good[:2] + b"\0" + good[2:], good]


def scratch_files(suspect: Suspect, folder: Path) -> list[str]:
    """Return the temporary names, seen for a moment, of what is published in a folder."""
    return [where for where in suspect.places.seen if where.startswith(f"{folder}/.datakit-")]


@pytest.mark.parametrize("way", spellings(SECRET.replace(b"\xff", b"x")))
def test_the_search_finds_a_secret_however_it_is_written_down(way: str, tmp_path: Path) -> None:
    secret = SECRET.replace(b"\xff", b"x")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_bytes(b"before " + spellings(secret)[way] + b" after")
    places = Places()
    places.note_files(tmp_path)

    found = places.search({"a secret": secret, "another": b"something else"})

    assert {(each.what, each.where) for each in found} == {("a secret", str(tmp_path / "deep/file"))}
    assert way in {each.how for each in found}


@pytest.mark.parametrize("before", [b"", b"x", b"xy", b"xyz"])
def test_the_search_finds_bytes_in_the_middle_of_something_in_base64(before: bytes) -> None:
    import base64

    places = Places()
    places.note("page", base64.b64encode(before + SECRET + b"more"))

    assert places.search({"a secret": SECRET})


def test_the_search_finds_what_a_process_shows_of_itself() -> None:
    code = "import os; os.write(os.memfd_create('x'), b'in a file in memory'); print(flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "in its command line"],
        env={"KEY": "in its environment"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        places = Places()
        places.note_process(child.pid)
    finally:
        child.kill()
        child.communicate()

    for secret in (b"in its command line", b"in its environment", b"in a file in memory"):
        assert places.search({"a secret": secret}), secret


def test_the_search_finds_a_file_that_is_there_for_a_moment(tmp_path: Path) -> None:
    places = Places()
    with Watcher(places, [tmp_path], lambda _: None):
        (tmp_path / "scratch").write_bytes(SECRET)
        time.sleep(0.2)
        (tmp_path / "scratch").unlink()

    assert [each.where for each in places.search({"a secret": SECRET})][:1] == [str(tmp_path / "scratch")]


UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
"""Root without its privileges may do what any user may do to his own processes."""


def test_a_sidecar_leaves_no_core_and_lets_nobody_of_its_user_look_into_it(suspect: Suspect) -> None:
    sidecar = suspect.start(prefix=UNPRIVILEGED)
    sidecar.wait_until_ready()

    limits = Path(f"/proc/{sidecar.pid}/limits").read_text()
    (core,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    assert not may_be_looked_into(sidecar.pid)


def test_others_may_look_into_a_process_that_does_not_protect_itself() -> None:
    """Otherwise the test above would prove nothing on this machine."""
    child = subprocess.Popen([*UNPRIVILEGED, sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1)
    assert child.stdout is not None
    child.stdout.readline()

    assert may_be_looked_into(child.pid)

    child.communicate(b"\n")


def may_be_looked_into(pid: int) -> bool:
    """Whether the same user may read what only who may trace a process may read."""
    done = subprocess.run([*UNPRIVILEGED, "cat", f"/proc/{pid}/environ"], capture_output=True, check=False)
    return done.returncode == 0
