"""The process runtime: the real datakit against real servers, and programs that misbehave on purpose."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .house import IMPROPER_REPORTS, INGEST, RETRIED, House, Lab, told_to_end_at

pytestmark = pytest.mark.usefixtures("airflow_database")

BOTH = """\
for warehouse in ("finance", "marketing"):
    DatakitOperator.create(
        f"to_{warehouse}", datakit="sqlserver-bronze", dataset="airline.airports", warehouse=warehouse
    )
"""
TIMED = INGEST.replace('warehouse="finance"', 'warehouse="finance", execution_timeout=timedelta(seconds=2)')


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet counts."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def wait_for(condition: object, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_one_dag_loads_two_warehouses_and_each_report_is_the_xcom(lab_house: House, lab: Lab) -> None:
    tasks = lab_house.run(BOTH)
    assert {task.state for task in tasks.values()} == {"success"}
    reports = {name: task.xcom_pull(task_ids=name) for name, task in tasks.items()}
    assert {report["status"] for report in reports.values()} == {"loaded"}
    rows = reports["to_finance"]["rows_written"]
    assert rows == reports["to_marketing"]["rows_written"] > 1000
    assert lab.sql(f"SELECT count(*) FROM {lab_house.schema}.airports") == [[str(rows)]]
    assert reports["to_finance"]["run_id"] == f"example/{tasks['to_finance'].run_id}"


def test_a_configuration_error_of_the_real_datakit_fails_at_once(lab_house: House, lab: Lab) -> None:
    contract = next((lab_house.root / "datakits/airline-source/contracts").glob("airports.yaml"))
    contract.write_text(contract.read_text().replace("type: float64", "type: int64"))
    tasks = lab_house.run(RETRIED)
    report = tasks["ingest"].xcom_pull(task_ids="ingest")
    assert tasks["ingest"].state == "failed"
    assert tasks["ingest"].try_number == 1
    assert (report["status"], report["exit_code"]) == ("failed", 78)


def test_a_warehouse_that_is_away_is_tried_again(lab_house: House, lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    file = lab_house.root / "warehouses/environments/test.yaml"
    file.write_text(file.read_text().replace(f"port: {lab.postgres}", "port: 9"))
    tasks = lab_house.run(RETRIED)
    assert tasks["ingest"].state == "failed"
    assert tasks["ingest"].try_number == 2
    assert tasks["ingest"].xcom_pull(task_ids="ingest")["exit_code"] == 75
    assert "a retry may help" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("exit_code", "state", "tries"),
    [(0, "success", 1), (75, "failed", 2), (77, "failed", 1), (78, "failed", 1), (99, "skipped", 1), (70, "failed", 2)],
)
def test_an_exit_code_means_to_airflow_what_the_run_protocol_says(
    house: House, exit_code: int, state: str, tries: int
) -> None:
    house.fake(f"""
        with open({str(house.scratch / "tries")!r}, "a") as file:
            file.write(run["run_id"] + chr(10))
        report(status="something", exit_code={exit_code})
        sys.exit({exit_code})
    """)
    tasks = house.run(RETRIED)
    run_ids = (house.scratch / "tries").read_text().splitlines()
    assert tasks["ingest"].state == state
    assert len(run_ids) == tries
    assert len(set(run_ids)) == 1
    assert tasks["ingest"].xcom_pull(task_ids="ingest") == {
        "protocol": "1.0",
        "status": "something",
        "run_id": run_ids[0],
        "exit_code": exit_code,
    }


def test_the_datakit_gets_the_protocol_and_nothing_of_airflows(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "canary")
    monkeypatch.setenv("KRB5CCNAME", "FILE:/of/somebody/else")
    house.fake("report(environment=dict(os.environ), folder=os.getcwd())", env={"SSL_CERT_FILE": "/etc/corp.pem"})
    report = house.run(INGEST)["ingest"].xcom_pull(task_ids="ingest")
    environment = report["environment"]
    assert set(environment) == {
        "PATH",
        "HOME",
        "TMPDIR",
        "LANG",
        "SSL_CERT_FILE",
        "DATAKIT_HOME",
        "DATAKIT_RUN",
        "DATAKIT_REPORT",
        "DATAKIT_SECRETS",
        "DATAKIT_TICKETS",
        "DATAKIT_LOG",
        "KRB5CCNAME",
        "KRB5_CONFIG",
    }
    assert environment["KRB5CCNAME"] == "FILE:/run/datakit/tickets/svc-datakit"
    assert environment["KRB5_CONFIG"] == "/run/datakit/tickets/krb5.conf"
    assert environment["DATAKIT_SECRETS"] == "/run/datakit/secrets"
    assert not Path(report["folder"]).exists()
    document = json.loads(environment["DATAKIT_RUN"])
    assert document["run_id"].startswith("example/manual__")
    assert {key: document[key] for key in ("protocol", "dataset", "warehouse", "environment")} == {
        "protocol": "1.0",
        "dataset": "airline.airports",
        "warehouse": "finance",
        "environment": "test",
    }
    assert set(document["data_interval"]) == {"start", "end"}


def test_every_line_is_in_the_tasks_log_once_and_at_its_level(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    house.fake("""
        say("the first word")
        say("a warning word", "warning")
        print("a plain word", flush=True)
        os.write(2, b"a word without an end")
        report()
    """)
    house.run(INGEST)
    lines = capfd.readouterr().out.splitlines()
    levels = {"the first word": "info", "a warning word": "warning", "a plain word": "info", "a word without": "info"}
    for words, level in levels.items():
        found = [line for line in lines if words in line]
        assert len(found) == 1, found
        assert f"[{level}" in found[0]


def test_a_line_is_in_the_log_while_the_datakit_still_runs(house: House) -> None:
    house.fake(f"""
        say("live")
        marks = pathlib.Path({str(house.scratch / "marks")!r})
        while not marks.exists():
            time.sleep(0.05)
        report()
    """)
    with house.run_elsewhere(INGEST) as process:
        assert process.stdout is not None
        assert any("live" in line for line in process.stdout)  # it cannot have ended: nobody has made the mark
        (house.scratch / "marks").touch()
        process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        *IMPROPER_REPORTS,
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by a signal (139: SIGSEGV)"),
    ],
)
def test_a_datakit_that_leaves_no_proper_report_fails_with_the_reason(
    house: House, body: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    house.fake(body)
    assert house.run(INGEST)["ingest"].state == "failed"
    assert words in capfd.readouterr().out


def test_a_program_that_is_not_there_fails_without_a_retry(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    house.environment(process={"command": ["/opt/datakits/{datakit}/{version}/bin/datakit"]})
    tasks = house.run(RETRIED)
    assert (tasks["ingest"].state, tasks["ingest"].try_number) == ("failed", 1)
    output = capfd.readouterr().out
    assert "/opt/datakits/sqlserver-bronze/0.1.0/bin/datakit: there is no program to run" in output
    assert "process.command" in output


def test_more_memory_than_the_class_allows_ends_the_datakit_and_not_the_worker(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    house.fake(
        "held = bytearray(300 << 20); report()",
        resources={"small": {"cpu": 1, "memory": "128Mi"}, "roomy": {"cpu": 1, "memory": "512Mi"}},
    )
    roomy = INGEST.replace('"ingest", ', '"roomy", resource_class="roomy", ')
    tasks = house.run(INGEST + roomy)
    assert {name: task.state for name, task in tasks.items()} == {"ingest": "failed", "roomy": "success"}
    assert "128Mi" in capfd.readouterr().out


def test_a_timeout_tells_the_datakit_to_end_and_hears_its_last_words(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    house.fake("""
        def end(*_):
            say("rolled back")
            report(status="failed", exit_code=75)
            sys.exit(75)
        signal.signal(signal.SIGTERM, end)
        say("began")
        time.sleep(60)
    """)
    began = time.monotonic()
    tasks = house.run(
        INGEST.replace('warehouse="finance"', 'warehouse="finance", execution_timeout=timedelta(seconds=2)')
    )
    assert tasks["ingest"].state == "failed"
    assert time.monotonic() - began < 30
    output = capfd.readouterr().out
    assert output.index("began") < output.index("rolled back")


def test_a_datakit_that_does_not_end_is_killed_with_all_that_it_started(house: House) -> None:
    house.fake(
        f"""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", deaf])
        pathlib.Path({str(house.scratch / "pids")!r}).write_text(f"{{os.getpid()}} {{child.pid}}")
        time.sleep(600)
        """,
        defaults={"grace": "1s"},
    )
    house.run(TIMED)
    pids = [int(pid) for pid in (house.scratch / "pids").read_text().split()]
    wait_for(lambda: all(gone(pid) for pid in pids))


def test_what_a_datakit_leaves_running_does_not_outlive_it(house: House) -> None:
    house.fake(f"""
        child = subprocess.Popen(["sleep", "600"])
        pathlib.Path({str(house.scratch / "pid")!r}).write_text(str(child.pid))
        report()
    """)
    assert house.run(INGEST)["ingest"].state == "success"
    wait_for(lambda: gone(int((house.scratch / "pid").read_text())))


def test_a_worker_that_is_killed_takes_its_datakit_with_it(house: House) -> None:
    pid = house.scratch / "pid"
    house.fake(f"""
        pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))
        time.sleep(600)
    """)
    with house.run_elsewhere(INGEST) as process:
        wait_for(lambda: pid.exists() and pid.read_text())
        process.kill()
    wait_for(lambda: gone(int(pid.read_text())))


def test_a_launch_whose_parent_is_gone_does_not_begin(tmp_path: Path) -> None:
    from airflow_datakit.runtimes import _launch

    mark = tmp_path / "mark"
    command = [sys.executable, "-I", "-S", _launch.__file__, "1", str(1 << 30), "/usr/bin/touch", str(mark)]
    done = subprocess.run(command, check=False)
    assert done.returncode == 128 + signal.SIGKILL
    assert not mark.exists()
    command[4] = str(os.getpid())
    assert subprocess.run(command, check=False).returncode == 0
    assert mark.exists()


def test_a_datakit_that_closes_its_output_goes_on_to_its_end(house: House) -> None:
    house.fake("say('goodbye'); os.close(1); os.close(2); time.sleep(1); report()")
    assert house.run(INGEST)["ingest"].state == "success"


def test_every_line_of_a_chatty_datakit_is_logged_once_though_it_is_told_to_end(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    house.fake(
        """
        ended = []
        signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
        number = 0
        while not ended:
            say(f'line {number}.')
            number += 1
        say(f'last line is {number}.')
        """
    )
    timed = INGEST.replace('warehouse="finance"', 'warehouse="finance", execution_timeout=timedelta(seconds=3)')
    assert house.run(timed)["ingest"].state == "failed"
    output = capfd.readouterr().out
    (last,) = re.findall(r"last line is (\d+)\.", output)
    assert re.findall(r"\bline (\d+)\.", output) == [str(number) for number in range(int(last))]


def test_a_long_line_keeps_its_level(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    house.fake("say('long ' + 'x' * 200_000, 'error'); report()")
    house.run(INGEST)
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "long xxx" in line]
    assert "[error" in line


def test_a_task_that_is_told_to_end_before_it_began_begins_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from airflow_datakit.runtimes.process import DatakitProcessOperator

    told_to_end_at(monkeypatch, DatakitProcessOperator, "_command")
    house.fake("say('it began'); report()")
    assert house.run(INGEST)["ingest"].state == "failed"
    output = capfd.readouterr().out
    assert "was told to end before it began" in output
    assert "it began\n" not in output.replace("before it began", "")


def test_a_report_that_airflow_cannot_keep_does_not_hide_the_verdict(
    house: House, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the API is away")

    monkeypatch.setattr(RuntimeTaskInstance, "xcom_push", broken)
    house.fake("report(status='failed', exit_code=78); sys.exit(78)")
    task = house.run(RETRIED)["ingest"]
    assert (task.state, task.try_number) == ("failed", 1)
    assert "the run report cannot be kept as XCom: the API is away" in capfd.readouterr().out
