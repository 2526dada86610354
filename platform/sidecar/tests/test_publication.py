"""Who may read what is published, and what is never written over."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datakit_sidecar.errors import PathTaken, PublishFailed, UnsafeVolume
from datakit_sidecar.publish import Publisher
from datakit_sidecar.settings import PublishSettings
from datakit_sidecar.volume import filesystem_of
from datakit_vault import Secret

STRANGER = 12345
NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")


def publisher(folder: Path, **options: Any) -> Publisher:
    settings = PublishSettings(tickets=folder / "tickets", secrets=folder / "secrets", **options)
    made = Publisher(settings)
    made.prepare(settings.tickets, settings.secrets)
    return made


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def test_only_the_same_user_reads_by_default(volume: Path) -> None:
    folder = volume / "secrets/finance-db"

    publisher(volume).publish_secret(folder, "password", Secret(b"x"))

    assert [mode(path) for path in (volume / "secrets", folder, folder / "password")] == ["0700", "0700", "0600"]


@needs_root
def test_a_group_may_read_if_it_is_named(volume: Path) -> None:
    folder = volume / "secrets/finance-db"

    publisher(volume, mode=0o640, gid=2000).publish_secret(folder, "password", Secret(b"x"))

    assert [mode(path) for path in (folder, folder / "password")] == ["0750", "0640"]
    assert {path.stat().st_gid for path in (volume / "secrets", folder, folder / "password")} == {2000}
    reader = ["setpriv", "--reuid=1002", "--regid=2000", "--clear-groups", "cat", folder / "password"]
    volume.chmod(0o711)
    assert subprocess.run(reader, capture_output=True, check=True).stdout == b"x"
    other = ["setpriv", "--reuid=1003", "--regid=3000", "--clear-groups", "cat", folder / "password"]
    assert subprocess.run(other, capture_output=True, check=False).returncode


@needs_root
def test_another_user_may_read_if_it_is_named(volume: Path) -> None:
    folder = volume / "secrets/finance-db"
    volume.chmod(0o711)

    publisher(volume, uid=1002).publish_secret(folder, "password", Secret(b"x"))

    reader = ["setpriv", "--reuid=1002", "--regid=1002", "--clear-groups", "cat", folder / "password"]
    assert subprocess.run(reader, capture_output=True, check=True).stdout == b"x"


WITH_CHOWN_ONLY = [*AS_NOBODY, "--inh-caps=-all,+chown", "--ambient-caps=-all,+chown", "--bounding-set=-all,+chown"]
REPLACE_AND_COMPARE = """
import sys
from pathlib import Path
from datakit_sidecar.publish import Publisher
from datakit_sidecar.settings import PublishSettings
from datakit_vault import Secret
folder = Path(sys.argv[1])
made = Publisher(PublishSettings(tickets=folder, secrets=folder, uid=1002))
made.prepare(folder)
for value in (b"first", b"second"):
    assert not made.has_secret(folder / "db/password", Secret(value))
    made.publish_secret(folder / "db", "password", Secret(value))
    assert made.has_secret(folder / "db/password", Secret(value))
"""


@needs_root
def test_the_capability_to_change_owners_is_enough_for_another_owner(volume: Path) -> None:
    import sys

    os.chown(volume, NOBODY, NOBODY)
    volume.chmod(0o711)

    command = [*WITH_CHOWN_ONLY, sys.executable, "-c", REPLACE_AND_COMPARE, volume / "secrets"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    file = volume / "secrets/db/password"
    assert (file.stat().st_uid, mode(file), file.read_bytes()) == (1002, "0600", b"second")


@pytest.mark.parametrize("what", ["removed", "replaced", "written to", "another mode"])
def test_a_secret_that_somebody_touched_is_not_the_published_one(volume: Path, what: str) -> None:
    made, file = publisher(volume), volume / "secrets/db/password"
    made.publish_secret(file.parent, file.name, Secret(b"x"))
    assert made.has_secret(file, Secret(b"x"))
    assert not made.has_secret(file, Secret(b"y"))

    match what:
        case "removed":
            file.unlink()
        case "replaced":
            other = volume / "other"
            other.write_bytes(b"x")
            other.replace(file)
        case "written to":
            times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
            file.write_bytes(b"z")
            os.utime(file, ns=times)
        case _:
            file.chmod(0o644)

    assert not made.has_secret(file, Secret(b"x"))


@needs_root
def test_a_group_that_the_sidecar_is_not_in_is_told_before_anything_is_asked_for(house: Any) -> None:
    house.configuration["publish"] |= {"mode": "0640", "gid": 2000}
    house.folder.chmod(0o777)

    done = as_nobody(house)

    assert done.returncode == 78
    assert "may not give files to uid -1, gid 2000" in done.stderr
    assert "supplementalGroups" in done.stderr
    assert house.vault.requests == ()


def open_to_nobody(house: Any) -> None:
    """Let the user nobody read everything that a sidecar reads, and publish."""
    for path in house.folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for path in (house.folder, *house.folder.parents):
        if path.stat().st_uid == 0 and path != Path("/"):
            path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o011)
    os.chown(house.volume, NOBODY, NOBODY)
    house.configuration["audit"] = {}


def as_nobody(house: Any) -> subprocess.CompletedProcess[str]:
    import sys

    open_to_nobody(house)
    command = [sys.executable, "-m", "datakit_sidecar.cli", "once", "--config", str(house.write())]
    return subprocess.run([*AS_NOBODY, *command], capture_output=True, text=True, check=False, timeout=60)


@needs_root
def test_an_unprivileged_sidecar_publishes(house: Any) -> None:
    done = as_nobody(house)

    assert done.returncode == 0, done.stderr
    assert house.cache.stat().st_uid == NOBODY


@needs_root
def test_a_folder_that_may_not_be_entered_for_a_while_ends_nothing(house: Any) -> None:
    open_to_nobody(house)
    house.write().chmod(0o644)
    sidecar = house.start(prefix=AS_NOBODY)
    sidecar.wait_until_ready()
    house.volume.chmod(0)
    sidecar.signal(signal.SIGHUP)
    sidecar.wait_until(
        lambda: sidecar.metrics().get('datakit_sidecar_failures_total{what="publish",cause="PublishFailed"}', 0) > 0
    )

    house.volume.chmod(0o700)
    house.cache.unlink()
    sidecar.signal(signal.SIGHUP)

    sidecar.wait_until(house.cache.exists)
    assert "bug" not in sidecar.log()


@needs_root
def test_somebody_elses_file_is_not_replaced(house: Any) -> None:
    house.cache.parent.mkdir()
    house.cache.write_text("a stranger's")
    os.chown(house.cache, STRANGER, STRANGER)

    done = house.once("--timeout", "5s")

    assert done.returncode == 78
    assert f"the file belongs to uid {STRANGER}" in done.stderr
    assert str(house.cache) in done.stderr
    assert house.cache.read_text() == "a stranger's"


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_is_no_file_is_not_replaced(volume: Path, kind: str) -> None:
    made, target = publisher(volume), volume / "tickets/svc"
    victim = volume / "victim"
    victim.write_text("precious")
    if kind == "link":
        target.symlink_to(victim)
    else:
        target.mkdir()

    with pytest.raises(PathTaken):
        made.publish_text(target, "x")

    assert victim.read_text() == "precious"


def test_a_folder_on_a_disk_is_refused(tmp_path: Path) -> None:
    assert filesystem_of(tmp_path) not in {"tmpfs", "ramfs"}, "this test wants a temporary folder on a disk"

    with pytest.raises(UnsafeVolume, match="medium: Memory"):
        publisher(tmp_path)


def test_a_folder_on_a_disk_is_accepted_if_that_is_asked_for(tmp_path: Path) -> None:
    publisher(tmp_path, allow_disk=True).publish_text(tmp_path / "tickets/krb5.conf", "x")

    assert (tmp_path / "tickets/krb5.conf").read_text() == "x"


def test_a_disk_is_refused_before_vault_and_kdc_are_asked(house: Any) -> None:
    house.configuration["publish"] = {
        "tickets": str(house.folder / "tickets"),
        "secrets": str(house.folder / "secrets"),
    }

    done = house.once()

    assert done.returncode == 78
    assert "which is not memory" in done.stderr
    assert house.vault.requests == ()


def test_two_sidecars_do_not_publish_in_one_folder(house: Any) -> None:
    sidecar = house.start()
    sidecar.wait_until_ready()

    done = house.once()

    assert done.returncode == 78
    assert "another datakit-sidecar publishes here" in done.stderr
    assert house.cache.exists()


@pytest.mark.parametrize(("bits", "who"), [(0o777, "everybody"), (0o775, "its group"), (0o2770, "its group")])
@pytest.mark.parametrize("above", [False, True])
def test_a_folder_in_which_others_may_replace_files_is_refused(volume: Path, bits: int, who: str, above: bool) -> None:
    open_ = volume / ("above" if above else "tickets")
    open_.mkdir()
    open_.chmod(bits)
    settings = PublishSettings(tickets=open_ / "tickets" if above else open_)

    with pytest.raises(UnsafeVolume, match=f"{open_} is open to {who}"):
        Publisher(settings).prepare(settings.tickets)

    assert list(open_.iterdir()) == []


@needs_root
@pytest.mark.parametrize("above", [False, True])
def test_a_strangers_folder_is_refused(volume: Path, above: bool) -> None:
    foreign = volume / ("above" if above else "tickets")
    foreign.mkdir(mode=0o700)
    os.chown(foreign, STRANGER, STRANGER)
    settings = PublishSettings(tickets=foreign / "tickets" if above else foreign)

    with pytest.raises(UnsafeVolume, match=f"belongs to uid {STRANGER}"):
        Publisher(settings).prepare(settings.tickets)

    assert list(foreign.iterdir()) == []


@pytest.mark.parametrize("above", [False, True])
def test_a_link_on_the_way_is_refused_with_the_name_of_the_folder_itself(volume: Path, above: bool) -> None:
    (volume / "real/tickets").mkdir(parents=True)
    (volume / "link").symlink_to(volume / ("real" if above else "real/tickets"))
    settings = PublishSettings(tickets=volume / "link/tickets" if above else volume / "link")

    with pytest.raises(UnsafeVolume, match=f"name the folder itself: {volume}/real/tickets"):
        Publisher(settings).prepare(settings.tickets)


@needs_root
def test_the_owner_of_what_is_published_may_own_the_folder(volume: Path) -> None:
    (volume / "tickets").mkdir(mode=0o700)
    os.chown(volume / "tickets", 1002, 1002)

    publisher(volume, uid=1002).publish_text(volume / "tickets/krb5.conf", "x")


def test_a_sticky_folder_above_may_be_open(volume: Path) -> None:
    volume.chmod(0o1777)

    publisher(volume).publish_text(volume / "tickets/krb5.conf", "x")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tmpfs with options, in a folder whose name has a space."""
    folder = tmp_path / "a volume"
    folder.mkdir()

    def make(options: str) -> Path:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False).returncode:
            pytest.skip("this user may not mount")
        return folder

    yield make
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


@needs_root
@pytest.mark.parametrize(
    "options",
    [
        "mode=0777",  # an emptyDir of Kubernetes
        "mode=2777,gid=2000",  # with fsGroup
        "mode=2770,gid=2000",
        "mode=0750,uid=10001,gid=2000",  # a named volume of Docker
        "mode=0770,uid=10001,gid=2000",
    ],
)
def test_a_mount_point_may_be_open_and_folders_below_it_are_not(mount: Callable[[str], Path], options: str) -> None:
    volume = mount(options)

    publisher(volume, uid=10001).publish_secret(volume / "secrets/db", "password", Secret(b"x"))

    assert mode(volume / "secrets") == "0711"


@needs_root
@pytest.mark.parametrize(("options", "who"), [("mode=0777", "everybody"), ("mode=2770,gid=2000", "its group")])
def test_to_publish_in_an_open_mount_point_itself_is_doubtful(
    mount: Callable[[str], Path], options: str, who: str
) -> None:
    settings = PublishSettings(tickets=mount(options))

    (doubt,) = Publisher(settings).prepare(settings.tickets)

    assert f"open to {who} (mode {options[5:9]})" in doubt


@needs_root
def test_a_strangers_mount_point_is_refused(mount: Callable[[str], Path]) -> None:
    with pytest.raises(UnsafeVolume, match=f"belongs to uid {STRANGER}"):
        publisher(mount(f"uid={STRANGER},mode=0777"))


@needs_root
def test_a_full_volume_leaves_the_old_file_as_it_was(mount: Callable[[str], Path]) -> None:
    volume = mount("size=32k")
    made, folder = publisher(volume), volume / "secrets/db"
    made.publish_secret(folder, "password", Secret(b"old"))

    with pytest.raises(PublishFailed, match="No space left"):
        made.publish_secret(folder, "password", Secret(b"n" * 100_000))

    assert (folder / "password").read_bytes() == b"old"
    assert [path.name for path in folder.iterdir()] == ["password"]
    made.close(destroy=True)


def test_after_it_is_closed_nothing_is_published(volume: Path) -> None:
    made = publisher(volume)
    made.publish_text(volume / "tickets/a", "x")

    assert made.close(destroy=True) == 1

    assert not made.publish_text(volume / "tickets/b", "x")
    assert not (volume / "tickets").exists()


def test_it_may_leave_what_it_published(house: Any) -> None:
    house.configuration["publish"]["leave"] = True
    sidecar = house.start()
    sidecar.wait_until_ready()

    sidecar.stop()

    assert house.cache.exists()


def test_leftovers_of_a_killed_process_are_swept(house: Any) -> None:
    house.vault.add_secret("/Databases/finance-db", {"password": "x"})
    house.configuration["secrets"] = [{"secret": "/Databases/finance-db", "as": "finance-db"}]
    sidecar = house.start()
    sidecar.wait_until_ready()
    sidecar.kill()
    (house.cache.parent / ".datakit-new-0123456789abcdef").write_text("half a ticket")
    (house.volume / "secrets/finance-db/.datakit-new-0123456789abcdef").write_text("a password")
    assert house.cache.exists(), "a ticket is served on while the sidecar is restarted"

    sidecar.start()

    sidecar.wait_until_ready()
    assert [path.name for path in house.volume.rglob(".datakit-new-*")] == []


@pytest.mark.parametrize("gone", ["tickets", "tickets/krb5.conf", "."])
def test_what_is_published_comes_back_with_its_folder_and_its_lock(house: Any, gone: str) -> None:
    house.vault.add_secret("/Databases/finance-db", {"password": "x"})
    house.configuration["secrets"] = [{"secret": "/Databases/finance-db", "as": "finance-db"}]
    sidecar = house.start()
    sidecar.wait_until_ready()
    krb5_conf, file = house.volume / "tickets/krb5.conf", house.volume / "secrets/finance-db/password"
    before = krb5_conf.read_text()

    remove(house.volume / gone)
    sidecar.signal(signal.SIGHUP)

    sidecar.wait_until(lambda: krb5_conf.exists() and house.cache.exists() and file.exists())
    assert krb5_conf.read_text() == before
    assert mode(house.cache.parent) == "0700"
    done = house.once()
    assert done.returncode == 78
    assert "another datakit-sidecar publishes here" in done.stderr
    assert house.failed_tries() == 0
    sidecar.stop()
    assert list(house.volume.iterdir()) == []


def remove(path: Path) -> None:
    """Remove a file, or all that is in a folder and, but for a volume, the folder."""
    if not path.is_dir():
        path.unlink()
        return
    for each in path.iterdir():
        remove(each)
    if path.name.startswith("datakit-sidecar-test-"):
        return
    path.rmdir()


def test_a_lock_that_another_sidecar_took_meanwhile_is_not_taken_from_it(volume: Path) -> None:
    first = publisher(volume)
    remove(volume / "tickets")
    second = publisher_of_tickets(volume)

    with pytest.raises(PathTaken, match="another datakit-sidecar publishes here"):
        first.publish_text(volume / "tickets/a", "x")
    first.close(destroy=True)

    second.publish_text(volume / "tickets/b", "x")
    assert (volume / "tickets/.datakit-sidecar.lock").exists()


def test_a_lock_that_could_not_be_looked_at_for_a_moment_is_still_ones_own(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = publisher_of_tickets(volume)
    look = Path.lstat

    def denied(path: Path) -> os.stat_result:
        if path.name == ".datakit-sidecar.lock":
            raise PermissionError(13, "Permission denied")
        return look(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", denied)
        made.publish_text(volume / "tickets/a", "x")
    assert (volume / "tickets/a").read_text() == "x"
    with pytest.raises(PathTaken, match="another datakit-sidecar publishes here"):
        publisher_of_tickets(volume)


def publisher_of_tickets(folder: Path) -> Publisher:
    made = Publisher(PublishSettings(tickets=folder / "tickets"))
    made.prepare(folder / "tickets")
    return made


def test_a_second_principal_has_a_cache_of_its_own(house: Any) -> None:
    house.kdc.add_principal("svc-other")
    house.vault.add_secret("/Kerberos/svc-other", {"keytab": house.keytab("svc-other")})
    house.configuration["principals"].append(
        {"name": "svc-other", "keytab": {"secret": "/Kerberos/svc-other"}, "share": "tgt"}
    )
    from datakit.credentials.tickets import describe_ticket

    assert house.once().returncode == 0

    first, second = (describe_ticket(str(house.volume / "tickets" / name)) for name in ("svc-datakit", "svc-other"))
    assert first is not None
    assert second is not None
    assert not any(ticket.is_granting for ticket in first.tickets)
    assert any(ticket.is_granting for ticket in second.tickets)
    assert second.principal == "svc-other@LAB.TEST"


def test_an_unknown_service_does_not_hold_back_the_others(house: Any) -> None:
    house.configuration["principals"][0]["services"].append("MSSQLSvc/typo.lab.test:1433")
    sidecar = house.start()
    sidecar.wait_until(house.cache.exists)

    sidecar.wait_until(lambda: "typo" in str(sidecar.state()["reasons"]))
    (reason,) = sidecar.state()["reasons"]
    assert "does not know the service MSSQLSvc/typo.lab.test:1433" in reason
    from datakit.credentials.tickets import check_ticket

    assert check_ticket("svc-datakit@LAB.TEST", ["MSSQLSvc/sql01.lab.test:1433"], name=str(house.cache)) is not None


def test_an_end_goes_on_where_a_published_folder_has_become_something_else(volume: Path) -> None:
    published = publisher(volume)
    published.publish_secret(volume / "secrets/finance-db", "password", Secret(b"x"))
    (volume / "tickets").rename(volume / "moved")
    (volume / "tickets").write_text("no folder")

    assert published.close(destroy=True) == 1

    assert not (volume / "secrets").exists()
