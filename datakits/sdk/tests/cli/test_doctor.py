import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from datakit_lab.testing import LabSecrets, LabTickets

from .conftest import Tree

LOCAL = "warehouses/environments/local.yaml"


@dataclass(frozen=True)
class Seen:
    """The checklist as JSON gives it."""

    code: int
    findings: dict[str, dict[str, str]]

    def state(self, subject: str) -> str:
        return self.findings[subject]["state"]


@pytest.fixture
def listening() -> Iterator[int]:
    """A port on which somebody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is bound, but on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def doctor(datakit: Any) -> Callable[..., Seen]:
    def look(*arguments: str) -> Seen:
        result = datakit("doctor", "--json", *arguments)
        report = json.loads(result.out)
        assert report["ok"] == (result.code == 0)
        return Seen(result.code, {finding["subject"]: finding for finding in report["findings"]})

    return look


@pytest.fixture
def by_ticket(tree: Tree, listening: int, lab_tickets: LabTickets, monkeypatch: pytest.MonkeyPatch) -> LabTickets:
    """The tree's source is reached by Kerberos, with a ticket of a real KDC."""
    monkeypatch.setenv("KRB5_CONFIG", str(lab_tickets.kdc.krb5_conf))
    text = (
        f"name: local\nruntime: process\nsources:\n  airline: {{host: localhost, port: {listening}, "
        f"database: {tree.data}, principal: {lab_tickets.principal}, server_spn: 'MSSQLSvc/sql.corp.example:1433'}}\n"
        f"warehouses:\n  finance-db: {{path: {tree.database}}}\n"
    )
    tree.write(LOCAL, text)
    return lab_tickets


def test_a_machine_that_lacks_nothing_passes(tree: Tree, by_ticket: LabTickets, doctor: Any) -> None:
    seen = doctor("-e", "local")
    assert 0 == seen.code, seen.findings
    assert {"Python", "driver duckdb", "libkrb5.so.3", "clock", "tree", "environment", "krb5.conf"} <= set(
        seen.findings
    )
    assert "good" == seen.state("ticket for airline")
    tickets = seen.findings[f"tickets (FILE:{by_ticket.ccache})"]
    assert by_ticket.principal in tickets["detail"]
    assert "krbtgt/" in tickets["detail"]


def test_the_checklist_for_people_marks_what_is_bad_and_says_the_fix(tree: Tree, datakit: Any) -> None:
    result = datakit("doctor", "-e", "local")
    assert 78 == result.code
    assert "✓ Python: 3." in result.out
    assert "✗ secret airline/password:" in result.out
    assert "    next: look at what is published" in result.out
    assert " bad, " in result.out.splitlines()[-1]


def test_no_ticket_is_bad_only_where_one_is_needed(tree: Tree, by_ticket: LabTickets, doctor: Any) -> None:
    by_ticket.ccache.unlink()
    subject = f"tickets (FILE:{by_ticket.ccache})"
    seen = doctor("-e", "local")
    assert (78, "bad") == (seen.code, seen.state(subject))
    assert "unneeded" == doctor("-e", "elsewhere").state(subject)


def test_a_ticket_for_another_service_is_named(tree: Tree, by_ticket: LabTickets, doctor: Any) -> None:
    by_ticket.kdc.add_principal("MSSQLSvc/other.corp.example:1433")
    by_ticket.only_for("MSSQLSvc/other.corp.example:1433")
    finding = doctor("-e", "local").findings["ticket for airline"]
    assert ("bad", True) == (finding["state"], "MSSQLSvc/sql.corp.example:1433" in finding["detail"])


def test_somebody_elses_ticket_is_named(tree: Tree, by_ticket: LabTickets, doctor: Any) -> None:
    tree.replace(LOCAL, by_ticket.principal, f"svc-other@{by_ticket.kdc.realm}")
    assert "not to svc-other" in doctor("-e", "local").findings["ticket for airline"]["detail"]


def test_a_ticket_that_ends_soon_is_doubtful(tree: Tree, by_ticket: LabTickets, doctor: Any) -> None:
    by_ticket.kdc.kinit(by_ticket.principal, by_ticket.keytab, by_ticket.ccache, life=timedelta(seconds=100))
    seen = doctor("-e", "local")
    assert (0, "doubtful") == (seen.code, seen.state(f"tickets (FILE:{by_ticket.ccache})"))


def test_a_cache_and_a_secret_that_everybody_may_read_are_doubtful(
    tree: Tree, by_ticket: LabTickets, doctor: Any, lab_secrets: LabSecrets
) -> None:
    by_ticket.ccache.chmod(0o644)
    lab_secrets.publish("finance/password", "x").chmod(0o644)
    tree.replace(LOCAL, "{path:", "{password: finance/password, path:")
    seen = doctor("-e", "local")
    assert "everybody on this machine" in seen.findings[f"tickets (FILE:{by_ticket.ccache})"]["detail"]
    assert "doubtful" == seen.state("secret finance/password")


def test_each_principal_has_its_own_cache_in_the_folder_of_tickets(
    tree: Tree, by_ticket: LabTickets, doctor: Any, monkeypatch: Any
) -> None:
    folder = by_ticket.ccache.parent
    monkeypatch.setenv("DATAKIT_TICKETS", str(folder))
    monkeypatch.setenv("KRB5CCNAME", "FILE:/somebody/elses")
    loader = f"{{host: db.lab.test, gssapi: true, principal: loader@{by_ticket.kdc.realm}}}"
    tree.replace(LOCAL, f"{{path: {tree.database}}}", loader)
    seen = doctor("-e", "local")
    assert "good" == seen.state("ticket for airline")
    assert "bad" == seen.state(f"tickets (FILE:{folder}/loader)")
    (folder / "loader").write_bytes(by_ticket.ccache.read_bytes())
    assert "not to loader" in doctor("-e", "local").findings["ticket for finance-db"]["detail"]


@pytest.mark.parametrize("content", [b"", b"\x05\x04garbage"])
def test_a_corrupt_cache_is_named(tree: Tree, by_ticket: LabTickets, doctor: Any, content: bytes) -> None:
    by_ticket.ccache.write_bytes(content)
    seen = doctor("-e", "local")
    assert (78, "bad") == (seen.code, seen.state(f"tickets (FILE:{by_ticket.ccache})"))


@pytest.mark.parametrize(
    ("text", "subject", "state"),
    [
        ("[libdefaults]\n rdns = false\n", "krb5.conf: dns_canonicalize_hostnames", "doubtful"),
        ("[libdefaults]\n dns_canonicalize_hostnames = no\n", "krb5.conf: rdns", "doubtful"),
        (
            "[libdefaults]\n default_ccache_name = KEYRING:persistent:%{uid}\n",
            "krb5.conf: default_ccache_name",
            "doubtful",
        ),
        ("[libdefaults]\n dns_lookup_kdc = false\n[realms]\n OTHER = {\n kdc = x\n }\n", "realm {realm}", "bad"),
        ("include {folder}/more.conf\n", "krb5.conf: rdns", "doubtful"),
        ("includedir {folder}\n", "krb5.conf: rdns", "doubtful"),
    ],
)
def test_traps_in_krb5_conf_are_named(
    tree: Tree,
    by_ticket: LabTickets,
    doctor: Any,
    tmp_path: Path,
    monkeypatch: Any,
    text: str,
    subject: str,
    state: str,
) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (folder / "more.conf").write_text("[libdefaults]\n rdns = true\n")
    path = tmp_path / "krb5.conf"
    path.write_text(text.replace("{folder}", str(folder)))
    monkeypatch.setenv("KRB5_CONFIG", str(path))
    if "default_ccache_name" in subject:
        monkeypatch.delenv("KRB5CCNAME")
    assert state == doctor("-e", "local").state(subject.format(realm=by_ticket.kdc.realm))


def test_a_good_krb5_conf_has_no_trap(tree: Tree, by_ticket: LabTickets, doctor: Any) -> None:
    assert not [subject for subject in doctor("-e", "local").findings if subject.startswith(("krb5.conf:", "realm"))]


def test_no_krb5_conf_is_named_although_libkrb5_accepts_it(
    tree: Tree, by_ticket: LabTickets, doctor: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("KRB5_CONFIG", "/nonexistent/krb5.conf")
    seen = doctor("-e", "local")
    assert (78, "bad") == (seen.code, seen.state("krb5.conf"))


def test_a_port_on_which_nobody_answers_is_named(tree: Tree, doctor: Any, closed_port: int) -> None:
    tree.replace(LOCAL, "host: memory.corp.example,", f"host: localhost, port: {closed_port},")
    finding = doctor("-e", "local").findings["source airline"]
    assert ("bad", True) == (finding["state"], "Connection refused" in finding["detail"])


def test_a_host_that_does_not_resolve_is_named(tree: Tree, doctor: Any) -> None:
    tree.replace(LOCAL, "memory.corp.example", "nowhere.invalid")
    finding = doctor("-e", "local").findings["source airline"]
    assert ("bad", True) == (finding["state"], "cannot be resolved" in finding["detail"])


def test_a_warehouse_on_another_host_is_reached_too(tree: Tree, doctor: Any, listening: int) -> None:
    tree.replace(LOCAL, f"{{path: {tree.database}}}", f"{{host: localhost, port: {listening}}}")
    assert "good" == doctor("-e", "local").state("warehouse finance-db")


def test_a_warehouses_settings_are_judged_by_its_adapter(tree: Tree, doctor: Any) -> None:
    assert "good" == doctor("-e", "local").state("settings of finance-db")
    tree.replace(LOCAL, "{path:", "{pth:")
    finding = doctor("-e", "local").findings["settings of finance-db"]
    assert ("bad", True) == (finding["state"], "did you mean 'path'?" in finding["detail"])


def test_an_address_where_kerberos_wants_a_name_is_doubtful(tree: Tree, by_ticket: LabTickets, doctor: Any) -> None:
    tree.replace(LOCAL, "host: localhost", "host: 127.0.0.1")
    finding = doctor("-e", "local").findings["source airline"]
    assert ("doubtful", True) == (finding["state"], "fully qualified" in finding["fix"])


def test_the_labs_localhost_is_good_by_ticket(tree: Tree, by_ticket: LabTickets, doctor: Any) -> None:
    assert "good" == doctor("-e", "local").state("source airline")


def test_a_secret_of_two_connections_is_listed_once(tree: Tree, datakit: Any) -> None:
    tree.replace(LOCAL, "{path:", "{password: airline/password, path:")
    assert 1 == datakit("doctor", "-e", "local").out.count("secret airline/password")


def test_without_an_environment_nothing_is_said_of_its_secrets(tree: Tree, doctor: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("DATAKIT_SECRETS", "/nonexistent")
    finding = doctor().findings["secrets"]
    assert ("unneeded", True) == (finding["state"], "no environment is chosen" in finding["detail"])


def test_secrets_are_read_and_never_shown(tree: Tree, doctor: Any, datakit: Any, lab_secrets: LabSecrets) -> None:
    assert "bad" == doctor("-e", "local").state("secret airline/password")
    lab_secrets.publish("airline/password", "hunter2!")
    assert "good" == doctor("-e", "local").state("secret airline/password")
    assert "hunter2" not in datakit("doctor", "-e", "local").out
    lab_secrets.publish("airline/password", "")
    assert "is empty" in doctor("-e", "local").findings["secret airline/password"]["detail"]


def test_a_driver_that_is_needed_and_cannot_be_imported_names_its_extra(
    tree: Tree, doctor: Any, monkeypatch: Any
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    monkeypatch.setitem(__import__("sys").modules, "pgpq", None)
    seen = doctor("-e", "local")
    assert ("bad", "unneeded") == (seen.state("driver duckdb"), seen.state("driver pgpq"))
    assert "pip install 'datakit[duckdb]'" == seen.findings["driver duckdb"]["fix"]


def test_without_a_tree_or_environment_it_still_looks_at_the_machine(
    tmp_path: Path, doctor: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = doctor()
    assert (78, "bad", "good") == (seen.code, seen.state("tree"), seen.state("Python"))


def test_an_environment_that_is_not_there_suggests_the_nearest(tree: Tree, doctor: Any) -> None:
    finding = doctor("-e", "locl").findings["environment"]
    assert ("bad", True) == (finding["state"], "did you mean 'local'?" in finding["detail"])


def test_broken_files_are_counted(tree: Tree, doctor: Any) -> None:
    tree.write("warehouses/marketing/warehouse.yaml", "name: [")
    finding = doctor("-e", "local").findings["tree"]
    assert ("bad", True) == (finding["state"], "datakit check" in finding["fix"])


def test_a_report_path_that_cannot_be_written_is_bad(tree: Tree, doctor: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("DATAKIT_REPORT", "/nonexistent/return.json")
    assert "bad" == doctor("-e", "local").state("run report")
    monkeypatch.setenv("DATAKIT_REPORT", str(tree.root / "return.json"))
    assert "good" == doctor("-e", "local").state("run report")


def test_the_doctor_changes_nothing(tree: Tree, by_ticket: LabTickets, doctor: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in tree.root.parent.rglob("*") if path.is_file()}
    doctor("-e", "local")
    assert before == {path: path.stat().st_mtime_ns for path in tree.root.parent.rglob("*") if path.is_file()}
    assert not os.path.lexists(tree.database)
