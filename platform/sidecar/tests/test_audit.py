"""The audit log: what is in it, and that nobody changes it unseen."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datakit_sidecar._chain import rotated
from datakit_sidecar.audit import AuditLog, verify
from datakit_sidecar.errors import AuditFailed
from datakit_sidecar.settings import AuditSettings
from hypothesis import given
from hypothesis import strategies as st


def log(file: Path | None, *, stream: Any = None, **options: Any) -> AuditLog:
    settings = AuditSettings(file=file, stdout=stream is not None, sync=False, **options)
    return AuditLog(settings, stream=stream, now=lambda: 1_800_000_000.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A log of ten lines."""
    path = tmp_path / "audit.jsonl"
    write(path, 10)
    return path


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen within 30 s"
        time.sleep(0.01)


def write(path: Path, lines: int, **options: Any) -> None:
    written = log(path, **options)
    for number in range(lines - 1):
        written.write("ticket.renewed", principal="svc@A", ends=number)
    written.write("stop", reason="SIGTERM")
    written.close()


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_an_untouched_log_is_whole(file: Path) -> None:
    found = verify(file)

    assert (found.lines, found.problems, found.notes) == (10, (), ())
    assert found.head[0] == 10


def test_each_line_is_json_with_a_number_a_time_and_an_event(file: Path) -> None:
    entry = json.loads(lines(file)[1])

    assert entry["n"] == 2
    assert entry["at"] == "2027-01-15T08:00:00.000000Z"
    assert entry["event"] == "ticket.renewed"


def _change(content: list[bytes]) -> None:
    content[4] = content[4].replace(b'"ends":4', b'"ends":5')


def _remove(content: list[bytes]) -> None:
    del content[4]


def _remove_two(content: list[bytes]) -> None:
    del content[4:6]


def _remove_first(content: list[bytes]) -> None:
    del content[0]


def _swap(content: list[bytes]) -> None:
    content[4], content[5] = content[5], content[4]


def _double(content: list[bytes]) -> None:
    content.insert(5, content[4])


def _cut(content: list[bytes]) -> None:
    content[-1] = content[-1][:40]


def _renumber(content: list[bytes]) -> None:
    content[0] = content[0].replace(b'"previous":"00', b'"previous":"01')


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_change, ":6: the line before this one (line number 5) was changed"),
        (_remove, ":5: line number 5 is missing before this line"),
        (_remove_two, ":5: line numbers 5 to 6 are missing before this line"),
        (_swap, ":5: line number 5 is missing before this line"),
        (_double, ":6: line number 5 is out of order or twice"),
        (_cut, ":10: the line is cut off or changed: it is no audit line, and the file ends in it"),
        (_renumber, ":1: the first line was changed"),
    ],
)
def test_damage_is_found_and_located(file: Path, damage: Callable[[list[bytes]], None], words: str) -> None:
    content = lines(file)
    damage(content)
    file.write_bytes(b"".join(content))

    problems = verify(file).problems

    assert problems
    assert words in problems[0]


def test_a_removed_beginning_is_found(file: Path) -> None:
    content = lines(file)
    _remove_first(content)
    file.write_bytes(b"".join(content))

    assert "begins at line number 2 and not 1" in verify(file).problems[0]


def test_a_removed_beginning_of_the_oldest_file_is_found_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, 50, rotate_at=1000, keep=2)
    oldest = rotated(path)[0]
    assert verify(path).problems == ()
    assert "older files are not here" in verify(path).notes[0]
    oldest.write_bytes(b"".join(lines(oldest)[2:]))

    assert f"and not {int(oldest.suffix[1:])}" in verify(path).problems[0]


def test_a_file_that_is_checked_alone_may_begin_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, 50, rotate_at=1000)

    found = verify(path, with_rotated=False)

    assert found.problems == ()
    assert "older files are not here" in found.notes[0]


def test_lines_cut_off_at_the_end_show_as_a_missing_stop_and_another_head(house: Any, file: Path) -> None:
    head = verify(file).head
    file.write_bytes(b"".join(lines(file)[:-2]))

    assert 'not "stop"' in verify(file).notes[0]
    done = house.command("verify-audit", file, "--head", f"{head[0]}:{head[1]}")
    assert done.returncode == 77
    assert f"not {head[0]}:" in done.stdout


@given(place=st.integers(0, 1500), value=st.integers(0, 255))
def test_no_byte_but_of_the_last_line_is_changed_unseen(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    write(path, 10)
    data = bytearray(path.read_bytes())
    last = data.rindex(b"\n", 0, len(data) - 1)
    place %= last
    if data[place] == value:
        value ^= 1
    data[place] = value
    path.write_bytes(data)

    assert verify(path).problems


def test_the_chain_goes_on_after_a_restart(file: Path) -> None:
    write(file, 5)

    found = verify(file)

    assert (found.lines, found.problems) == (15, ())


def test_the_chain_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, 50, rotate_at=1000)

    found = verify(path)

    assert len(rotated(path)) > 3
    assert (found.lines, found.problems, found.head[0]) == (50, (), 50)
    assert all(each.stat().st_size <= 1000 for each in (path, *rotated(path)))


def test_a_removed_older_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, 50, rotate_at=1000)
    rotated(path)[1].unlink()

    assert "are missing before this line" in verify(path).problems[0]


def test_as_many_older_files_are_kept_as_told(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, 50, rotate_at=1000, keep=2)

    assert len(rotated(path)) == 2
    assert verify(path).problems == ()


def test_the_chain_goes_on_after_a_restart_that_finds_a_full_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(10):
        write(path, 7, rotate_at=1000, keep=0)

    assert (verify(path).lines, verify(path).problems) == (70, ())


def test_a_line_that_a_crash_cut_off_stays_as_evidence(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b'{"n":11,"at":"2027')
    write(file, 3)

    found = verify(file)

    assert found.lines == 14
    assert len(found.problems) == 1
    assert ":11: the line is cut off or changed" in found.problems[0]


def test_a_new_file_that_stays_empty_in_a_crash_goes_on_with_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, 7, rotate_at=1000)
    assert (tmp_path / "audit.jsonl.000000000001").exists()
    path.write_bytes(b"")
    head = verify(path).head

    write(path, 20, rotate_at=1000)

    assert verify(path).problems == ()
    assert verify(path).head[0] == head[0] + 20


def test_a_line_that_is_cut_off_takes_no_number_from_those_that_follow(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, 30, rotate_at=1000, keep=0)
    path.write_bytes(path.read_bytes() + b'{"n":31,"at":"2027')
    write(path, 30, rotate_at=1000, keep=3)

    found = verify(path)

    assert found.head[0] == 61
    assert [problem for problem in found.problems if "cut off" not in problem] == []
    assert len(rotated(path)) == 3


def test_an_older_file_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    older = tmp_path / "audit.jsonl.000000000001"
    written = log(path, rotate_at=1000)
    older.write_bytes(b"evidence\n")
    for _ in range(20):
        written.write("ticket.renewed")

    until(lambda: f"{older.name} is there already" in (written.trouble or ""))
    assert older.read_bytes() == b"evidence\n"
    older.unlink()
    until(lambda: written.trouble is None)
    written.close()
    assert verify(path).problems == ()


def test_a_line_is_written_once_although_the_disk_refuses_to_confirm_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written = AuditLog(AuditSettings(file=path, stdout=False, sync=True))

    def refuse(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        written.write("start")
        until(lambda: "Input/output error" in (written.trouble or ""))
        written.write("ticket.issued")
    until(lambda: written.trouble is None)
    written.write("stop")
    written.close()

    assert (verify(path).lines, verify(path).problems) == (3, ())


def test_a_disk_that_is_full_keeps_the_line_for_later_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written = log(path)
    written.write("start")
    until(lambda: len(lines(path)) == 1)
    real = os.write
    failing = True

    def full(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[:7]) if failing else real(descriptor, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", full)
        written.write("ticket.issued")
        until(lambda: "No space left" in (written.trouble or ""))
        failing = False
        until(lambda: written.trouble is None)
    written.write("stop")
    written.close()

    assert (verify(path).lines, verify(path).problems) == (3, ())


def test_a_file_that_cannot_be_opened_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(AuditFailed, match=r"cannot be written: No such file or directory"):
        log(tmp_path / "nowhere/audit.jsonl")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "victim")

    with pytest.raises(AuditFailed):
        log(tmp_path / "audit.jsonl")
    assert not (tmp_path / "victim").exists()


def test_threads_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written = log(path)
    threads = [threading.Thread(target=lambda: [written.write("ticket.renewed") for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written.close()

    assert (verify(path).lines, verify(path).problems) == (400, ())


@pytest.fixture
def hanging_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that answers only when it is released."""
    released = threading.Event()
    real = os.fsync

    def hang(descriptor: int) -> None:
        released.wait()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", hang)
    yield released
    released.set()


def test_a_disk_that_hangs_stops_no_line_and_no_end_and_is_told(
    tmp_path: Path, hanging_disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datakit_sidecar.audit._LATE_SECONDS", 0.2)
    stream = io.StringIO()
    written = AuditLog(AuditSettings(file=tmp_path / "audit.jsonl", stdout=True, sync=True), stream=stream)

    for _ in range(10):
        written.write("ticket.renewed")

    assert written.head[0] == 10
    until(lambda: "the disk has not answered" in (written.trouble or ""))
    written.write_last("stop", reason="SIGTERM")
    assert stream.getvalue().count("\n") == 11
    hanging_disk.set()
    until(lambda: len(lines(tmp_path / "audit.jsonl")) == 11)
    assert verify(tmp_path / "audit.jsonl").problems == ()


def test_stop_is_the_last_line_whatever_other_threads_write(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written = log(path)
    begun = threading.Barrier(5)
    over = threading.Event()

    def work() -> None:
        begun.wait()
        while not over.is_set():
            written.write("ticket.issued")
            time.sleep(0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait()
    written.write_last("stop", reason="SIGTERM")
    time.sleep(0.1)
    over.set()
    for thread in threads:
        thread.join()

    assert json.loads(lines(path)[-1])["event"] == "stop"
    assert (verify(path).problems, verify(path).notes) == ((), ())


class _Stalled(io.StringIO):
    """Standard output whose reader has stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.released.wait()
        return super().write(text)


def test_a_reader_of_standard_output_that_stalls_stops_nothing(tmp_path: Path) -> None:
    stream = _Stalled()
    written = log(tmp_path / "audit.jsonl", stream=stream)

    for number in range(12_000):
        written.write("ticket.renewed")
        if number % 4000 == 0:
            until(lambda number=number: len(lines(tmp_path / "audit.jsonl")) > number)

    assert written.lost_copies > 0
    written.close()
    stream.released.set()
    assert verify(tmp_path / "audit.jsonl").lines == 12_000


def test_a_copy_on_standard_output_is_the_same_chain(tmp_path: Path) -> None:
    stream = io.StringIO()
    written = log(tmp_path / "audit.jsonl", stream=stream)
    written.write("start")
    written.write("stop")
    written.close()

    assert stream.getvalue().encode() == (tmp_path / "audit.jsonl").read_bytes()


def test_a_day_of_the_sidecar_is_one_chain_over_restarts(house: Any) -> None:
    for _ in range(2):
        sidecar = house.start()
        sidecar.wait_until_ready()
        sidecar.stop()

    done = house.command("verify-audit", house.audit_file)

    assert done.returncode == 0, done.stdout
    assert "0 problems" in done.stdout
    events = [json.loads(line)["event"] for line in house.audit_file.read_text().splitlines()]
    assert events.count("start") == events.count("stop") == 2
    assert {"vault.read", "key.fetched", "ticket.issued", "tickets.published"} <= set(events)


def test_verification_answers_scripts_in_json(house: Any, file: Path) -> None:
    content = lines(file)
    _change(content)
    file.write_bytes(b"".join(content))

    done = house.command("verify-audit", file, "--json")

    assert done.returncode == 77
    answer = json.loads(done.stdout)
    assert not answer["ok"]
    assert len(answer["problems"]) == 1


def test_a_sidecar_whose_audit_file_fails_is_not_ready_and_serves_on(house: Any) -> None:
    if os.geteuid() != 0:
        pytest.skip("a full file system needs a mount")
    import subprocess

    small = house.folder / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", small], check=False).returncode:
        pytest.skip("this root may not mount")
    try:
        house.configuration["audit"]["file"] = str(small / "audit.jsonl")
        (small / "ballast").write_bytes(b"x" * 4096)
        sidecar = house.start()
        sidecar.wait_until(house.cache.exists)
        (small / "audit.jsonl").write_bytes(b"y" * 4090)
        house.rotate()

        sidecar.wait_until(lambda: "audit:" in str(sidecar.state()["reasons"]))

        assert "No space left" in str(sidecar.state()["reasons"])
        assert house.cache.exists()
        (small / "ballast").unlink()
        sidecar.wait_until_ready()
        sidecar.stop()
    finally:
        subprocess.run(["umount", "-l", small], check=True)
