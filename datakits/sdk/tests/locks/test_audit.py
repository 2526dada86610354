"""The story of a run, from the commit to the rows; what is not at hand is missing, and nothing is made up."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from datakit.release._media import MANIFEST
from datakit.release._provenance import _PREDICATE
from datakit.release.attachments import PROVENANCE, Attachment, attach
from datakit_sidecar.audit import AuditLog
from datakit_sidecar.settings import AuditSettings

from .conftest import moment
from .test_insight import report

PRINCIPAL = "svc-airline@CORP.EXAMPLE"


def attach_provenance(releases: Any, name: str, version: str, revision: str, finished: datetime) -> None:
    digest = releases.digests[f"{name}@{version}"]
    used = [{"digest": {"gitCommit": revision}}, *({"digest": {"sha256": letter * 64}} for letter in "bd")]
    statement = {
        "subject": [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": {"resolvedDependencies": used},
            "runDetails": {"builder": {"id": "https://ci.example"}, "metadata": {"finishedOn": finished.isoformat()}},
        },
    }
    data = releases.client.manifest_bytes(f"datakits/{name}", digest)
    subject = {"mediaType": MANIFEST, "digest": digest, "size": len(data)}
    document = Attachment(PROVENANCE, json.dumps(statement).encode())
    assert [PROVENANCE] == list(attach(releases.client, f"datakits/{name}", subject, [document]))


@pytest.fixture
def story(tree: Any, datakit: Any, releases: Any, tmp_path: Path) -> tuple[Path, Path, datetime]:
    """A release of a commit of this tree, promoted to prod, and run there with a sidecar beside it."""
    revision = tree.git("rev-parse", "HEAD")
    releases.publish("sqlserver-bronze", "1.2.0", revision=revision)
    attach_provenance(releases, "sqlserver-bronze", "1.2.0", revision, moment())
    datakit("lock", "int", "sqlserver-bronze@1.2.0")
    datakit("promote", "int", "prod", "--why", "quarter end")
    started = moment() + timedelta(seconds=60)
    file = tmp_path / "audit.jsonl"
    clock = [(started - timedelta(seconds=30)).timestamp()]
    log = AuditLog(AuditSettings(file=file, stdout=False), now=lambda: clock[0])
    ends = int((started + timedelta(hours=1)).timestamp())
    log.write("ticket.issued", kvno=1, enctypes=["aes256"], principal="someone-else@CORP.EXAMPLE", ends=ends)
    log.write("ticket.issued", kvno=2, enctypes=["aes256"], principal=PRINCIPAL, ends=ends, renewable_until=None)
    log.write("vault.read", secret="/Databases/finance", id=42, field="password", used_for="finance-db")
    log.write(
        "secret.published", secret="/Databases/finance", folder="/run/datakit/secrets/finance-db", fields=["password"]
    )
    clock[0] = (started + timedelta(seconds=1)).timestamp()
    log.write(
        "secret.rotated", secret="/Databases/finance", folder="/run/datakit/secrets/finance-db", fields=["password"]
    )
    clock[0] = (started + timedelta(hours=1)).timestamp()
    log.write("ticket.renewed", principal=PRINCIPAL, ends=ends)
    log.close()
    folder = tmp_path / "reports"
    interval = {"start": "2026-11-21T00:00:00Z", "end": "2026-11-22T00:00:00Z"}
    report(
        folder,
        run_id="finance/scheduled__1",
        datakit="sqlserver-bronze@1.2.0",
        started_at=started,
        data_interval=interval,
    )
    return folder, file, started


def test_a_run_tells_its_whole_story_in_order(story: Any, tree: Any, datakit: Any, releases: Any) -> None:
    folder, file, _ = story
    arguments = ("audit", "finance/scheduled__1", "--reports", str(folder), "--audit-log", str(file))
    (run,) = datakit(*arguments, "--json").json["runs"]
    assert [] == run["missing"]
    assert releases.digests["sqlserver-bronze@1.2.0"] == run["digest"]
    told = [(each["kind"], each["details"].get("event")) for each in run["timeline"]]
    assert [
        ("commit", None),
        ("release", None),
        ("lock", None),
        ("ticket", "ticket.issued"),
        ("secret", "secret.published"),
        ("dag-run", None),
        ("run", None),
        ("secret", "secret.rotated"),
        ("run", None),
    ] == told
    assert sorted(each["time"] for each in run["timeline"]) == [each["time"] for each in run["timeline"]]
    words = datakit(*arguments).out
    for said in (
        "Begin (Ann <ann@corp.example>)",
        "sqlserver-bronze 1.2.0 was released by https://ci.example, not signed",
        "promote: finance/sqlserver-bronze 1.2.0 in prod, by Ann",
        "promoted from int: quarter end",
        "finance: scheduled__1, for 2026-11-21",
        f"ticket.issued: kvno 2, enctypes aes256, principal {PRINCIPAL}",
        "loaded into bronze.flights: 7 rows",
    ):
        assert said in words
    assert "someone-else" not in words


def test_a_table_tells_the_story_of_its_last_load(story: Any, datakit: Any) -> None:
    folder, _, started = story
    report(folder, run_id="finance/2", status="failed", started_at=started + timedelta(seconds=90))
    (run,) = datakit("audit", "bronze.flights", "--reports", str(folder), "--json").json["runs"]
    assert "finance/scheduled__1" == run["run_id"]
    report(folder, run_id="marketing/1", warehouse="marketing")
    assert "--warehouse finance" in datakit("audit", "bronze.flights", "--reports", str(folder), code=78).err
    datakit("audit", "bronze.flights", "--reports", str(folder), "--warehouse", "marketing")


def test_the_image_that_the_report_names_is_the_one_that_ran(promoted: Any, datakit: Any, tmp_path: Path) -> None:
    folder, other = tmp_path / "reports", f"sha256:{'e' * 64}"
    started = moment() + timedelta(seconds=5)
    report(
        folder, run_id="finance/1", image=f"registry.corp.example/datakits/sqlserver-bronze@{other}", started_at=started
    )
    (run,) = datakit("audit", "finance/1", "--reports", str(folder), "--json").json["runs"]
    assert other == run["digest"]
    missing = {each["kind"]: each["what"] for each in run["missing"]}
    assert f"no lock of 'prod' before the run pins finance/sqlserver-bronze 1.0.0 as {other}" == missing["lock"]
    assert f"has no {other}" in missing["release"]

    drifts = datakit("drift", "prod", "--reports", str(folder), "--json", code=78).json["drift"]
    assert [f"1.0.0 ({other}) ran"] == [
        each["what"].partition(" at ")[0] for each in drifts if each["kind"] == "ran-another"
    ]


def test_what_is_not_at_hand_is_named_and_not_made_up(promoted: Any, datakit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    started = moment() + timedelta(seconds=5)
    report(folder, run_id="by-hand", started_at=started)
    (run,) = datakit("audit", "by-hand", "--reports", str(folder), "--json").json["runs"]
    missing = {each["kind"]: each for each in run["missing"]}
    assert {"dag-run", "provenance", "commit", "tickets"} == set(missing)
    assert "--audit-log FILE" in missing["tickets"]["fix"]
    assert "ffffffffffff" in missing["commit"]["what"]
    assert "missing" in datakit("audit", "by-hand", "--reports", str(folder)).out
    (run,) = datakit("audit", "by-hand", "--reports", str(folder), "--offline", "--json").json["runs"]
    assert "the registry was not asked" in {each["what"] for each in run["missing"]}


def test_a_run_of_a_version_that_no_lock_pins_has_no_digest(promoted: Any, datakit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    report(folder, run_id="a/b", datakit="sqlserver-bronze@1.1.0", started_at=moment() + timedelta(seconds=5))
    (run,) = datakit("audit", "a/b", "--reports", str(folder), "--json").json["runs"]
    assert run["digest"] is None
    assert any("so its digest is not known" in each["what"] for each in run["missing"])


def test_a_run_before_the_new_lock_was_deployed_says_so(
    promoted: Any, datakit: Any, tmp_path: Path, releases: Any
) -> None:
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    datakit("promote", "int", "prod")
    folder = tmp_path / "reports"
    report(folder, run_id="a/b", datakit="sqlserver-bronze@1.0.0", started_at=moment() + timedelta(seconds=5))
    (run,) = datakit("audit", "a/b", "--reports", str(folder), "--json").json["runs"]
    assert releases.digests["sqlserver-bronze@1.0.0"] == run["digest"]
    assert any("the lock pinned 1.1.0 already" in each["what"] for each in run["missing"])


def test_an_audit_log_that_was_tampered_with_is_named(story: Any, datakit: Any) -> None:
    folder, file, _ = story
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:2], *lines[3:]]))
    arguments = ("audit", "finance/scheduled__1", "--reports", str(folder), "--audit-log", str(file), "--json")
    (run,) = datakit(*arguments).json["runs"]
    assert any(f"broken at {file}:3" in each["what"] for each in run["missing"])


def test_an_unknown_run_is_told_the_nearest(story: Any, datakit: Any, tmp_path: Path) -> None:
    folder, _, _ = story
    assert (
        "did you mean 'finance/scheduled__1'?"
        in datakit("audit", "finance/sched__1", "--reports", str(folder), code=78).err
    )
    assert "no such folder of run reports" in datakit("audit", "x", "--reports", str(tmp_path / "no"), code=78).err
