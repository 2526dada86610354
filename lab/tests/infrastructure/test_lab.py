"""``datakit-lab`` as a person uses it: up, look, let things break, down."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import krb5
import psycopg
import pytest
from datakit_lab.errors import LabError
from datakit_lab.kdc import Kdc
from datakit_lab.lifecycle import look
from datakit_lab.network import free_port
from datakit_lab.sidecar import memory_folder
from datakit_lab.state import LabState

PROGRAM = [sys.executable, "-m", "datakit_lab"]


class Lab:
    """One lab of a test's own: its folder and ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {
            "kdc": free_port(udp=True),
            **{name: free_port() for name in ("vault", "sqlserver", "postgres", "sidecar")},
        }

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command on this lab; return what it printed."""
        command = [*PROGRAM, *arguments, "--state-dir", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
        logs = "".join(log.read_text() for log in self.folder.glob("logs/*.log"))
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{logs}"
        return done.stdout + done.stderr

    def up(self, *arguments: str, code: int = 0) -> str:
        ports = [word for name, port in self.ports.items() for word in (f"--{name}-port", str(port))]
        return self.run("up", "--data", "", *ports, *arguments, code=code)

    def status(self) -> Any:
        """Look at the lab without a process for it; one test sees that the command prints the same."""
        return look(LabState(self.folder)).as_json()

    def pids(self) -> list[int]:
        found = self.status()
        return [found["supervisor"], *(service["pid"] for service in found["services"].values())]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    running = Lab(tmp_path_factory.mktemp("lab") / "state")
    running.up()
    yield running
    running.run("down")


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab that the test starts and may break."""
    lab = Lab(tmp_path / "state")
    yield lab
    lab.run("down")


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return ") Z " not in stat.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail(f"never: {what}")


def tickets(lab: Lab) -> list[Any]:
    context = krb5.init_context()
    return list(krb5.cc_resolve(context, f"FILE:{lab.folder}/tickets/svc-datakit".encode()))


def places_of(lab: Lab, canary: bytes) -> list[str]:
    """Return the files of the lab, but the published secrets, and the parts of its processes that hold these bytes."""
    files = [path for path in lab.folder.rglob("*") if path.is_file() and lab.folder in path.resolve().parents]
    processes = [Path("/proc", str(pid), part) for pid in lab.pids() for part in ("cmdline", "environ")]
    assert len(files) > 15
    return [str(path) for path in [*files, *processes] if canary in path.read_bytes()]


def test_everything_answers_and_status_says_so_to_people_and_scripts(lab: Lab) -> None:
    found = lab.status()
    assert found["healthy"]
    assert found["answering"] == dict.fromkeys(lab.ports, True)
    assert {name: service["port"] for name, service in found["services"].items()} == lab.ports
    said = json.loads(lab.run("status", "--json"))
    assert {**said, "sidecar": None} == {**found, "sidecar": None}
    assert said["sidecar"]["ready"]
    shown = lab.run("status")
    assert shown.count("answers") == 4
    assert "ready" in shown
    assert re.search(r"svc-datakit@LAB\.TEST: tickets for [\d,]+ s", shown)
    assert re.search(r"secret finance-db: published \d+ s ago", shown)


def test_a_second_up_says_that_it_is_running_and_changes_nothing(lab: Lab) -> None:
    before = lab.pids()
    assert "already running" in lab.up()
    assert lab.pids() == before


def test_env_is_for_a_shell(lab: Lab) -> None:
    names = ("KRB5_CONFIG", "KRB5CCNAME", "DATAKIT_SECRETS", "DATAKIT_ENVIRONMENT")
    script = f'eval "$("$0" -m datakit_lab env --state-dir "$1")"; echo "{"|".join(f"${name}" for name in names)}"'
    done = subprocess.run(["sh", "-c", script, sys.executable, lab.folder], capture_output=True, text=True, check=True)
    config, ccache, secrets, environment = done.stdout.strip().split("|")
    assert environment == "local"
    assert Path(config).is_file()
    assert Path(ccache.removeprefix("FILE:")).is_file()
    assert Path(secrets, "finance-db", "password").is_file()


def test_the_password_in_the_secrets_opens_the_warehouse_and_is_nowhere_else(lab: Lab) -> None:
    path = lab.folder / "secrets" / "finance-db" / "password"
    assert path.stat().st_mode & 0o777 == 0o600
    password = path.read_text()
    with psycopg.connect(
        host="localhost", port=lab.ports["postgres"], user="finance", dbname="finance", password=password
    ) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS bronze")
    assert places_of(lab, password.encode()) == []


def test_the_accounts_keys_and_the_sidecars_own_credential_are_in_no_other_file_log_argument_or_environment(
    lab: Lab, tmp_path: Path
) -> None:
    kdc = Kdc(lab.folder / "kdc", port=lab.ports["kdc"])
    keytab = kdc.keytab(tmp_path / "keytab", "svc-datakit").read_bytes()
    key = keytab[-20:-4]  # the last entry ends with its key and a version of four bytes
    assert places_of(lab, key) == []
    bootstrap = lab.folder / "bootstrap" / "password"
    assert places_of(lab, bootstrap.read_bytes()) == [str(bootstrap)]


def test_the_shared_tickets_are_for_the_labs_servers_only(lab: Lab) -> None:
    names = {(ticket.server.name or b"").decode() for ticket in tickets(lab)}
    port = lab.ports["sqlserver"]
    assert f"MSSQLSvc/localhost:{port}@LAB.TEST" in names
    assert f"MSSQLSvc/{socket.gethostname().lower()}:{port}@LAB.TEST" in names
    assert not [name for name in names if name.startswith("krbtgt/")]


def test_tickets_and_secrets_are_in_memory_and_only_the_sidecars_own_credential_is_on_the_disk(lab: Lab) -> None:
    for name in ("tickets/svc-datakit", "secrets/finance-db/password", "secrets/airline/password"):
        path = lab.folder / name
        assert path.resolve().is_relative_to("/dev/shm")
        assert path.stat().st_mode & 0o777 == 0o600
    bootstrap = lab.folder / "bootstrap" / "password"
    assert bootstrap.stat().st_mode & 0o777 == 0o600
    assert bootstrap.read_text() not in (lab.folder / "sidecar.yaml").read_text()


def test_a_rotated_keytab_and_a_rotated_password_are_followed_and_audited(lab: Lab) -> None:
    audit = lab.folder / "logs" / "audit.jsonl"
    before = len(audit.read_text().splitlines())
    password = (lab.folder / "secrets/finance-db/password").read_text()
    end = max(ticket.times.endtime for ticket in tickets(lab))
    assert "svc-datakit has new keys" in lab.run("rotate", "keytab")
    assert "finance has a new password" in lab.run("rotate", "password")

    def events() -> list[str]:
        return [json.loads(line)["event"] for line in audit.read_text().splitlines()[before:]]

    wait_until(lambda: {"key.rotated", "secret.rotated"} <= set(events()), "both are in the audit log")
    wait_until(lambda: min(ticket.times.endtime for ticket in tickets(lab)) > end, "tickets of the new key")
    now = (lab.folder / "secrets/finance-db/password").read_text()
    assert now != password
    psycopg.connect(
        host="localhost", port=lab.ports["postgres"], user="finance", dbname="finance", password=now
    ).close()
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(
            host="localhost", port=lab.ports["postgres"], user="finance", dbname="finance", password=password
        )
    assert "ticket.denied" not in events()
    assert lab.status()["healthy"]


def test_the_running_double_is_loaded_changed_and_broken_from_the_command_line(own_lab: Lab) -> None:
    own_lab.up()
    assert "ops.Flights" in own_lab.run("load", "airline")
    assert "28,135 flights" in own_lab.run("mutate", "december")
    assert "December is there already" in own_lab.run("mutate", "december", code=78)
    assert "there is no step 'spring'" in own_lab.run("mutate", "spring", code=78)
    assert "drop after 5000" in own_lab.run("faults", "drop after 5000")
    assert "no fault waits" in own_lab.run("faults", "clear")
    assert "is no fault" in own_lab.run("faults", "explode", code=78)


def test_the_example_of_the_documentation_makes_a_table_of_ones_own(own_lab: Lab) -> None:
    own_lab.up()
    own_lab.run("load", "airline")
    page = (Path(__file__).parents[3] / "docs/lab.md").read_text(encoding="utf-8")
    (example,) = [each for each in re.findall(r"(?ms)^```py\n(.*?)^```$", page) if "mssql_python" in each]
    example = example.replace("localhost,11433", f"localhost,{own_lab.ports['sqlserver']}")
    example += "    print(connection.execute('SELECT count(*) FROM ops.Crew').fetchone()[0])\n"
    done = subprocess.run(
        [sys.executable, "-c", example.replace(".lab/", f"{own_lab.folder}/")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_tickets_are_renewed_before_they_expire(own_lab: Lab) -> None:
    own_lab.up("--ticket-life", "10s", "--clock-skew", "1s")
    first = max(ticket.times.endtime for ticket in tickets(own_lab))
    wait_until(lambda: min(ticket.times.endtime for ticket in tickets(own_lab)) > first, "a later ticket")


def test_down_leaves_nothing_but_logs(own_lab: Lab) -> None:
    own_lab.up()
    pids = own_lab.pids()
    scratch = own_lab.status()["scratch"]
    assert all(map(alive, pids))
    assert "is gone" in own_lab.run("down")
    assert not any(map(alive, pids))
    assert not any(Path(folder).exists() for folder in scratch)
    assert sorted(path.name for path in own_lab.folder.iterdir()) == ["lock", "logs"]
    nothing = {"running": False, "healthy": False, "answering": {}, "sidecar": None}
    assert json.loads(own_lab.run("status", "--json", code=75)) == nothing


def test_no_server_outlives_a_killed_supervisor_and_the_next_up_cleans_up(own_lab: Lab) -> None:
    own_lab.up()
    supervisor, *servers = own_lab.pids()
    scratch = own_lab.status()["scratch"]
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, [supervisor, *servers])), "all ended")
    assert own_lab.status()["running"] is False
    own_lab.up()
    assert not any(Path(folder).exists() for folder in scratch)
    assert own_lab.status()["healthy"]


def test_a_sidecar_that_is_not_ready_makes_the_lab_unhealthy(own_lab: Lab) -> None:
    own_lab.up("--ticket-life", "10s", "--clock-skew", "1s")
    os.kill(own_lab.status()["services"]["kdc"]["pid"], signal.SIGKILL)
    wait_until(lambda: not own_lab.status()["answering"]["sidecar"], "the tickets have ended")
    assert own_lab.status()["services"]["sidecar"]["pid"] is not None
    assert "down" in own_lab.run("status", code=75)


def test_up_and_status_name_the_server_that_died_and_the_next_step(own_lab: Lab) -> None:
    own_lab.up()
    os.kill(own_lab.status()["services"]["kdc"]["pid"], signal.SIGKILL)
    wait_until(lambda: not own_lab.status()["answering"]["kdc"], "the KDC is down")
    wait_until(lambda: json.loads((own_lab.folder / "lab.json").read_text())["services"]["kdc"]["pid"] is None, "noted")
    assert "kdc ended by itself" in (own_lab.folder / "logs" / "lab.log").read_text()
    assert own_lab.status()["answering"]["postgres"]
    option = f"--state-dir {own_lab.folder}"
    for said in (own_lab.up(code=75), own_lab.run("status", code=75)):
        assert "kdc is down" in said
        assert f"next step: datakit-lab down {option} && datakit-lab up {option}\n" in said
        assert "already running" not in said


def test_a_taken_port_names_its_holder_and_starts_nothing(own_lab: Lab) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", own_lab.ports["sqlserver"]))
        taken.listen()
        said = own_lab.up(code=78)
    assert f"port {own_lab.ports['sqlserver']} is taken by" in said
    assert str(os.getpid()) in said
    assert "--sqlserver-port" in said
    assert "Traceback" not in said
    assert own_lab.status()["running"] is False


def test_a_missing_program_names_the_debian_packages(own_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import shutil, sys\n"
        "shutil.which = lambda *a, **k: None\n"
        "sys.argv = ['datakit-lab', 'kdc', '--port', '0']\n"
        "from datakit_lab.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 78
    assert "apt-get install --yes --no-install-recommends krb5-kdc krb5-admin-server" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["env", "mutate"])
def test_without_a_lab_the_message_says_how_to_start_one(tmp_path: Path, command: str) -> None:
    said = Lab(tmp_path / "none").run(command, code=78)
    assert "no lab runs in" in said
    assert "datakit-lab up" in said
    assert not (tmp_path / "none").exists()


def test_nonsense_is_refused_before_anything_starts(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "none")
    assert "'soon' is no duration" in lab.up("--ticket-life", "soon", code=78)
    assert "there is no data set 'sales'" in lab.up("--data", "sales", code=78)
    assert not lab.folder.exists()


@pytest.mark.parametrize(("server", "says"), [("kdc", "LAB.TEST answers"), ("postgres", "PostgreSQL answers")])
def test_one_server_runs_in_the_foreground_until_it_is_told_to_end(server: str, says: str) -> None:
    process = subprocess.Popen(
        [*PROGRAM, server, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert says in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


def test_help_costs_no_heavy_import() -> None:
    code = (
        "import sys\nfrom datakit_lab.cli import app\n"
        "heavy = {'pyarrow', 'duckdb', 'krb5', 'gssapi', 'psycopg', 'sqlglot', 'cryptography', 'rich.table'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_machine_without_a_folder_in_memory_is_told_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datakit_lab.sidecar._MEMORY", tmp_path / "none")
    with pytest.raises(LabError, match="no folder can be made") as caught:
        memory_folder()
    assert "mount -t tmpfs" in str(caught.value.fix)
