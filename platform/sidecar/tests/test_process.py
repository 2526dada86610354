"""The process itself: how it ends, and what it keeps from others."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import environment


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_a_second_while_a_kdc_call_hangs(house: Any, number: signal.Signals) -> None:
    with house.kdc.silent():
        sidecar = house.start()
        sidecar.wait_until(lambda: "key.fetched" in [line["event"] for line in sidecar.audit()])
        time.sleep(0.3)
        began = time.monotonic()

        sidecar.signal(number)
        sidecar.wait_until(lambda: True)
        while sidecar.exit_code is None:
            time.sleep(0.01)

        assert time.monotonic() - began < 1
        assert sidecar.exit_code == 0
        assert sidecar.audit()[-1]["event"] == "stop"
        assert sidecar.audit()[-1]["reason"] == number.name


def test_it_ends_within_a_second_while_the_vault_hangs(house: Any) -> None:
    house.vault.fault("slow", seconds=30)
    sidecar = house.start()
    sidecar.wait_until(lambda: len(house.vault.requests) > 0 or sidecar.is_ready() or _listens(sidecar))
    time.sleep(0.5)
    began = time.monotonic()

    assert sidecar.stop() == 0

    assert time.monotonic() - began < 1.5


def _listens(sidecar: Any) -> bool:
    from datakit_sidecar.errors import NotReady

    try:
        return bool(sidecar.port)
    except NotReady:
        return False


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The end to write to of a pipe that is full, and that nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.set_blocking(writer, True)
    yield writer
    os.close(writer)
    os.close(reader)


@pytest.mark.parametrize("stalled", ["stdout", "stderr"])
def test_a_reader_that_stalls_stops_neither_tickets_nor_the_end(house: Any, full_pipe: int, stalled: str) -> None:
    outputs = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | {stalled: full_pipe}
    command = [sys.executable, "-m", "datakit_sidecar.cli", "run", "--config", str(house.write())]
    buffered = environment(PYTHONUNBUFFERED=None)  # a buffer has a lock, which its flush waits for
    with subprocess.Popen(command, env=buffered, **outputs) as process:
        try:
            end = time.monotonic() + 30
            while not house.cache.exists():
                assert time.monotonic() < end, "no ticket within 30 s"
                time.sleep(0.02)
            process.terminate()

            assert process.wait(10) == 0
        finally:
            process.kill()

    assert not house.cache.exists()
    assert json.loads(house.audit_file.read_text().splitlines()[-1])["event"] == "stop"


def test_a_refusal_that_nobody_reads_ends_an_init_container(house: Any, full_pipe: int) -> None:
    house.configuration["vault"]["urll"] = "x"
    command = [sys.executable, "-m", "datakit_sidecar.cli", "once", "--config", str(house.write())]

    assert subprocess.run(command, stderr=full_pipe, timeout=20, check=False).returncode == 78


def test_no_thread_but_the_main_one_takes_a_signal(house: Any) -> None:
    sidecar = house.start()
    sidecar.wait_until_ready()
    fetched = sum(1 << number - 1 for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1))

    threads = [path for path in Path(f"/proc/{sidecar.pid}/task").iterdir() if path.name != str(sidecar.pid)]
    blocked = [int(re.findall(r"SigBlk:\s+(\w+)", (path / "status").read_text())[0], 16) for path in threads]

    assert len(blocked) > 4
    assert all(mask & fetched == fetched for mask in blocked)


def test_it_gives_no_core_dump_and_cannot_be_traced(house: Any) -> None:
    sidecar = house.start()
    sidecar.wait_until_ready()
    process = Path(f"/proc/{sidecar.pid}")

    limits = (process / "limits").read_text()
    status = (process / "status").read_text()

    assert re.search(r"Max core file size\s+0\s+0", limits)
    assert re.search(r"NoNewPrivs:\s+1", status)
    assert re.search(r"Umask:\s+0077", status)


def test_another_process_of_the_user_cannot_look_into_its_memory(house: Any) -> None:
    import ctypes

    sidecar = house.start()
    sidecar.wait_until_ready()

    # PR_GET_DUMPABLE of another process cannot be asked; root owns /proc/PID of one that is not dumpable
    code = f"open('/proc/{sidecar.pid}/mem', 'rb')"
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if ctypes.CDLL(None).geteuid() == 0 else []
    done = subprocess.run([*user, sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "Permission" in done.stderr or "not permitted" in done.stderr


def test_a_second_sidecar_on_the_same_port_is_told_who_to_look_for(house: Any) -> None:
    first = house.start()
    first.wait_until_ready()
    house.configuration["health"]["port"] = first.port
    house.configuration["publish"] = {
        "tickets": str(house.volume / "other/tickets"),
        "secrets": str(house.volume / "other/secrets"),
    }

    done = house.command("run", "--config", house.write())

    assert done.returncode == 78
    assert f"ss -lntp 'sport = :{first.port}'" in done.stderr


def test_a_mistake_has_no_traceback(house: Any) -> None:
    house.configuration["vault"]["urll"] = "x"

    done = house.once()

    assert done.returncode == 78
    assert "Traceback" not in done.stderr
    assert re.search(r"sidecar\.yaml:\d+:\d+: vault has no key 'urll'", done.stderr)


def test_errors_are_json_for_scripts(house: Any) -> None:
    house.configuration["vault"]["urll"] = "x"

    done = house.once("--json")

    assert json.loads(done.stderr.splitlines()[-1])["exit_code"] == 78


@pytest.mark.parametrize("arguments", [["--timeout", "5"], ["--nonsense"]])
def test_a_wrong_option_is_a_configuration_error(house: Any, arguments: list[str]) -> None:
    assert house.once(*arguments).returncode == 78


def test_memory_and_files_do_not_grow_with_renewals(hasty_house: Any) -> None:
    sidecar = hasty_house.start()
    sidecar.wait_until_ready()
    name = 'datakit_sidecar_tickets_renewed_total{principal="svc-datakit@LAB.TEST"}'

    def renew(times: int) -> None:
        for _ in range(times):
            before = sidecar.metrics()[name]
            sidecar.signal(signal.SIGUSR1)
            sidecar.wait_until(lambda before=before: sidecar.metrics()[name] > before)

    renew(20)
    files, memory = _files(sidecar), sidecar.memory()
    renew(60)

    assert _files(sidecar) <= files + 1
    assert sidecar.memory() <= memory + 512 * 1024


def _files(sidecar: Any) -> int:
    return len(list(Path(f"/proc/{sidecar.pid}/fd").iterdir()))


def test_an_init_container_that_is_told_to_end_does_so(house: Any) -> None:
    house.kdc.stop()
    command = [sys.executable, "-m", "datakit_sidecar.cli", "once", "--config", str(house.write())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "key.fetched" not in process.stdout.readline():
        pass

    process.terminate()
    _, stderr = process.communicate(timeout=5)

    assert process.returncode == 75
    assert "not everything was published before SIGTERM" in stderr


def test_nothing_that_libkrb5_freed_is_used(house: Any) -> None:
    """The C library fills freed memory with garbage here, so that a dangling handle ends the process at once."""
    house.kdc.add_principal("svc-password", "s3same")
    house.vault.add_secret("/Kerberos/by-password", {"password": "s3same"})
    house.configuration["principals"].append(
        {"name": "svc-password", "password": {"secret": "/Kerberos/by-password"}, "share": "tgt"}
    )
    sidecar = house.start(environment=environment(MALLOC_PERTURB_="165"))
    sidecar.wait_until_ready()
    for _ in range(3):
        sidecar.signal(signal.SIGUSR1)
        house.rotate()
        sidecar.signal(signal.SIGHUP)
        time.sleep(0.5)

    sidecar.wait_until_ready()
    assert sidecar.stop() == 0
