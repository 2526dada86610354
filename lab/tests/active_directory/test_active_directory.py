"""The domain controller as a program: what it opens and touches, how it stops, starts, falls silent and dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import krb5
import psutil
import pytest
from datakit_lab.active_directory import ActiveDirectory
from datakit_lab.active_directory._administration import Administration
from datakit_lab.errors import LabError, LabUnavailable, ProgramMissing
from datakit_lab.network import LOOPBACK

pytestmark = pytest.mark.active_directory

UNREACHABLE = -1765328228
DEBIANS = [
    Path("/etc/samba"),
    *(Path("/var", folder, "samba") for folder in ("lib", "cache", "log")),
    Path("/run/samba"),
]


@pytest.fixture(scope="module")
def domain() -> Iterator[ActiveDirectory]:
    with ActiveDirectory() as domain:
        domain.add_service_account("svc")
        domain.keytab(domain.directory / "svc.keytab", "svc")
        yield domain


def kinit(domain: ActiveDirectory, folder: Path) -> None:
    domain.kinit("svc", domain.directory / "svc.keytab", folder / "ccache")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def debians_files() -> dict[Path, float]:
    return {path: path.stat().st_mtime for top in DEBIANS for path in [top, *top.rglob("*")] if path.exists()}


def test_it_listens_on_one_loopback_port_for_udp_and_tcp_and_on_nothing_else(domain: ActiveDirectory) -> None:
    assert domain.pid is not None
    sockets = psutil.Process(domain.pid).net_connections("inet")
    assert {(LOOPBACK, domain.port)} == {tuple(found.laddr) for found in sockets}
    assert {socket.SOCK_STREAM, socket.SOCK_DGRAM} == {found.type for found in sockets}


def test_debians_own_samba_is_neither_touched_nor_running() -> None:
    before = debians_files()
    with ActiveDirectory() as domain:
        domain.add_service_account("svc")
    assert before == debians_files()
    assert set() == {"smbd", "nmbd", "winbindd"} & {process.name() for process in psutil.process_iter()}


def test_a_stopped_controller_is_unreachable_keeps_its_accounts_and_comes_back_at_the_same_port(
    domain: ActiveDirectory, tmp_path: Path
) -> None:
    port = domain.port
    domain.stop()
    assert not domain.running
    with pytest.raises(krb5.Krb5Error) as failure:
        kinit(domain, tmp_path)
    assert UNREACHABLE == failure.value.err_code
    version = domain.key_version("svc")
    assert version + 1 == domain.rotate("svc")
    domain.keytab(domain.directory / "svc.keytab", "svc")
    domain.start()
    assert port == domain.port
    kinit(domain, tmp_path)


def test_a_silent_controller_answers_when_it_is_over(domain: ActiveDirectory, tmp_path: Path) -> None:
    client = threading.Thread(target=kinit, args=(domain, tmp_path))
    with domain.silent():
        client.start()
        client.join(0.5)
        assert client.is_alive()
        assert not (tmp_path / "ccache").exists()
    client.join(30)
    assert (tmp_path / "ccache").exists()


def test_a_keytab_is_private_and_stays_when_another_cannot_be_written(domain: ActiveDirectory, tmp_path: Path) -> None:
    keytab = domain.keytab(tmp_path / "svc.keytab", "svc")
    before = keytab.read_bytes()
    assert 0o600 == keytab.stat().st_mode & 0o777
    with pytest.raises(LabError, match="no account svc-nobody"):
        domain.keytab(keytab, "svc", "svc-nobody")
    assert before == keytab.read_bytes()
    assert [keytab] == list(tmp_path.iterdir())


def test_an_account_is_made_once(domain: ActiveDirectory) -> None:
    with pytest.raises(LabError, match="refuses add"):
        domain.add_service_account("svc")


def test_a_password_is_in_no_file_command_line_or_environment(domain: ActiveDirectory, tmp_path: Path) -> None:
    password = f"Canary-{os.urandom(8).hex()}"
    domain.add_service_account("svc-canary", password=password)
    domain.rotate("svc-canary", f"{password}-2")
    keytab = domain.keytab(tmp_path / "keytab", "svc-canary")
    domain.kinit("svc-canary", keytab, tmp_path / "ccache")
    spellings = (password.encode(), password.encode("utf-16-le"))
    children = psutil.Process().children(recursive=True)
    places = [path for path in domain.directory.rglob("*") if path.is_file()]
    places += [Path(f"/proc/{child.pid}/{name}") for child in children for name in ("cmdline", "environ")]
    assert len(children) >= 2
    assert [] == [place for place in places if any(spelling in place.read_bytes() for spelling in spellings)]


def test_a_domain_that_was_made_by_half_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private/sam.ldb").write_bytes(b"half")
    with ActiveDirectory(tmp_path) as domain:
        domain.add_service_account("svc")
    with ActiveDirectory(tmp_path) as domain:
        assert domain.key_version("svc") > 0


def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = f"""
        import pathlib, psutil, time
        from datakit_lab.active_directory import ActiveDirectory
        domain = ActiveDirectory(pathlib.Path({str(tmp_path / "ad")!r}))
        domain.start()
        domain.set_lockout(3)
        print(*(child.pid for child in psutil.Process().children()), flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        owner.kill()
    assert 2 == len(pids)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_close_removes_a_folder_of_its_own() -> None:
    domain = ActiveDirectory()
    assert domain.directory.exists()
    domain.close()
    assert not domain.directory.exists()


def test_nothing_can_be_changed_before_the_first_start(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not exist yet"):
        ActiveDirectory(tmp_path).disable("svc")


def test_an_administration_that_was_killed_is_started_again(domain: ActiveDirectory) -> None:
    domain.key_version("svc")
    (administration,) = (child for child in psutil.Process().children() if child.pid != domain.pid)
    administration.kill()
    wait_until(lambda: administration.status() == psutil.STATUS_ZOMBIE)
    assert domain.key_version("svc") > 0


def test_an_administration_without_an_answer_is_said_with_its_log(domain: ActiveDirectory) -> None:
    administration = Administration(domain.directory)
    with pytest.raises(LabUnavailable, match=r"no answer to nonsense(.|\n)*administration\.log"):
        administration.call("nonsense")
    with pytest.raises(LabUnavailable, match="no answer to state"):
        administration.call("state", account="svc", within=0)
    assert 0 == administration.call("state", account="svc")["lockoutTime"]
    administration.close()


@pytest.mark.parametrize("life", [timedelta(minutes=30), timedelta(hours=1, seconds=1), timedelta(0)])
def test_a_life_that_samba_cannot_count_is_refused(life: timedelta) -> None:
    with pytest.raises(LabError, match="whole hours"):
        ActiveDirectory(ticket_life=life)


def test_a_missing_samba_names_the_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ProgramMissing, match="samba-ad-provision"):
        ActiveDirectory(tmp_path).start()
