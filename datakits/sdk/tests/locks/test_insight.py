"""What runs where, since when, by whom; and where the lock and the world differ."""

from __future__ import annotations

import json
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from .conftest import moment


def report(folder: Path, **said: Any) -> Path:
    """Leave a run report of finance's flights, as a datakit does."""
    started = said.pop("started_at", moment())
    known = {
        "status": "loaded",
        "run_id": "finance/manual__1",
        "dataset": "airline.flights",
        "warehouse": "finance",
        "environment": "prod",
        "table": "bronze.flights",
        "datakit": "sqlserver-bronze@1.0.0",
        "source_datakit": "airline-source@1.0.0",
        "mode": "merge",
        "rows_read": 7,
        "rows_written": 7,
        "started_at": started.isoformat(),
        "ended_at": (started + timedelta(seconds=4)).isoformat(),
        "seconds": 4.0,
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(known | said))
    return path


def kinds(answer: Any) -> list[str]:
    return [each["kind"] for each in answer.json["drift"]]


# What runs where (scenario 28)


def test_one_command_says_what_runs_where_in_every_environment_and_warehouse(
    promoted: Any, datakit: Any, releases: Any
) -> None:
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    rows = {
        (row["environment"], row["warehouse"], row["datakit"]): row for row in datakit("status", "--json").json["rows"]
    }
    assert 9 == len(rows)
    row = rows["prod", "finance", "sqlserver-bronze"]
    assert ("1.0.0", 2, "1.1.0", True) == (row["version"], row["behind_by"], row["newest"], row["by_command"])
    assert 0 <= row["age_seconds"] < 300
    assert ("1.1.0", 0) == (
        rows["int", "finance", "sqlserver-bronze"]["version"],
        rows["int", "finance", "sqlserver-bronze"]["behind_by"],
    )
    lines = datakit("status", "int", "qa", "prod").out.splitlines()
    assert ["datakit", "warehouses", "int", "qa", "prod"] == lines[0].split()
    assert 3 == len(lines)
    assert lines[2].startswith("sqlserver-bronze  finance, marketing  1.1.0 ")
    digest = releases.digests["sqlserver-bronze@1.0.0"].removeprefix("sha256:")[:8]
    assert 2 == lines[2].count(f"1.0.0 {digest}, ")
    assert 2 == lines[2].count("behind 2")


def test_warehouses_that_differ_have_lines_of_their_own(promoted: Any, datakit: Any) -> None:
    datakit("lock", "int", "finance/sqlserver-bronze@1.1.0")
    lines = datakit("status", "int").out.splitlines()
    assert ["finance", "marketing"] == [line.split()[1] for line in lines if line.startswith("sqlserver-bronze")]


def test_what_is_not_pinned_is_shown_with_the_version_of_the_tree(tree: Any, datakit: Any) -> None:
    assert "not pinned" in datakit("status", "int").out
    assert "the tree has 0.9.0" in datakit("status", "int").out


def test_what_a_frozen_environment_does_not_pin_runs_nowhere(tree: Any, datakit: Any) -> None:
    assert "nothing: frozen, not pinned" in datakit("status", "prod").out
    assert {True} == {row["frozen"] for row in datakit("status", "prod", "--json").json["rows"]}


def test_status_goes_without_a_registry_and_says_what_it_does_not_know(
    promoted: Any, datakit: Any, registry_server: Any, request: pytest.FixtureRequest
) -> None:
    assert "behind ?" in datakit("status", "--offline").out
    request.addfinalizer(registry_server.start)
    registry_server.stop()
    answer = datakit("status")
    assert "was not compared" in answer.out
    assert "1.0.0" in answer.out


def test_a_pin_that_was_edited_by_hand_shows_in_the_status(promoted: Any, datakit: Any) -> None:
    promoted.edit("prod", "version: 1.0.0", "version: 1.0.9")
    assert "edited by hand" in datakit("status", "prod").out


def test_two_environments_are_compared_offline(promoted: Any, datakit: Any, registry_server: Any) -> None:
    assert "int and prod pin the same" in datakit("diff", "int", "prod").out
    datakit("lock", "int", "finance/sqlserver-bronze@1.1.0")
    answer = datakit("diff", "int", "prod")
    assert "another contract" in answer.out
    (found,) = datakit("diff", "int", "prod", "--json").json["differences"]
    assert ("1.1.0", "1.0.0") == (found["before"]["version"], found["after"]["version"])


def test_two_environments_without_a_lock_are_not_called_the_same(tree: Any, datakit: Any) -> None:
    assert "neither int nor qa has a lock" in datakit("diff", "int", "qa").out


def test_check_reads_locks_too(promoted: Any, datakit: Any) -> None:
    promoted.edit("qa", "version: 1.0.0", "versoin: 1.0.0")
    answer = datakit("check", code=78)
    assert "qa.lock.yaml" in answer.out
    assert "versoin" in answer.out


# History


def test_the_history_says_who_pinned_what_when_and_why(promoted: Any, datakit: Any) -> None:
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    datakit("promote", "int", "prod")
    datakit("rollback", "prod", "--why", "late flights")
    answer = datakit("history", "prod", "--json").json
    assert ["rollback", "promote", "promote"] == [each["action"] for each in answer["changes"]]
    assert [0, 1, 2] == [each["number"] for each in answer["changes"]]
    assert {"Ann <ann@corp.example>"} == {each["author"] for each in answer["changes"]}
    assert "int" == answer["changes"][1]["from"]
    assert "finance/sqlserver-bronze 1.1.0 → 1.0.0" in datakit("history", "prod", "-n", "1").out
    assert 1 == len(datakit("history", "prod", "-n", "1", "--json").json["changes"])


def test_a_long_history_is_numbered_through(promoted: Any, datakit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from datakit.release import history

    datakit("lock", "int", "sqlserver-bronze@1.0.1")
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    whole = datakit("history", "int", "--json").json
    assert [2, 2, 3] == [len(each["changes"]) for each in whole["changes"]]
    for at_once in (1, 2, 3):
        monkeypatch.setattr(history, "_AT_ONCE", at_once)
        assert whole == datakit("history", "int", "--json").json


def test_a_change_by_hand_stands_out_in_the_history(promoted: Any, datakit: Any) -> None:
    promoted.edit("prod", "version: 1.0.0", "version: 1.0.9")
    promoted.commit("Quick fix")
    assert "BY HAND" in datakit("history", "prod").out
    assert datakit("history", "prod", "--json").json["changes"][0]["by_command"] is False


def test_an_author_whose_name_is_no_utf8_does_not_break_the_history(promoted: Any, datakit: Any) -> None:
    file = promoted.path("prod")
    file.write_text(file.read_text() + "# a word\n")
    promoted.git("config", "i18n.commitEncoding", "UTF-8")
    subprocess.run(
        ["git", "commit", "--quiet", "--all", "--message", b"Gr\xfc\xdfe", b"--author=J\xfcrgen <j@corp.example>"],
        cwd=promoted.root,
        check=True,
        stderr=subprocess.DEVNULL,
    )
    assert 2 == len(datakit("history", "prod", "--json").json["changes"])
    datakit("history", "prod")


def test_a_squashed_or_reverted_change_of_a_command_is_none_by_hand(promoted: Any, datakit: Any) -> None:
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    promoted.git("commit", "--quiet", "--amend", "--message", "Squashed (#12)")
    assert "BY HAND" not in datakit("history", "int").out
    promoted.git("revert", "--no-edit", "HEAD")
    assert "BY HAND" not in datakit("history", "int").out
    assert "no difference" in datakit("drift", "int").out


def test_half_a_lock_in_the_history_does_not_hide_what_is_before_it(promoted: Any, datakit: Any) -> None:
    text = promoted.path("prod").read_text()
    promoted.path("prod").write_text("environment: [")
    promoted.commit("Broken")
    promoted.path("prod").write_text(text)
    promoted.commit("Mended")
    assert [None, None, "promote"] == [each["action"] for each in datakit("history", "prod", "--json").json["changes"]]


def test_an_environment_without_a_lock_has_no_history(tree: Any, datakit: Any) -> None:
    assert "never had a lock" in datakit("history", "int").out


# Only a commit changes a lock (scenario 25)


def test_nothing_but_a_commit_changes_a_lock_and_no_newer_release_undoes_a_rollback(
    promoted: Any, datakit: Any, releases: Any
) -> None:
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    datakit("promote", "int", "prod")
    datakit("rollback", "prod")
    text, commit = promoted.path("prod").read_text(), promoted.git("rev-parse", "HEAD")
    releases.publish("sqlserver-bronze", "1.2.0")
    for command in (["status"], ["drift"], ["history", "prod"], ["diff", "int", "prod"], ["check"]):
        datakit(*command)
    assert (text, commit) == (promoted.path("prod").read_text(), promoted.git("rev-parse", "HEAD"))
    assert "is frozen" in datakit("lock", "prod", code=78).err
    assert (text, commit) == (promoted.path("prod").read_text(), promoted.git("rev-parse", "HEAD"))


def test_no_later_lock_undoes_a_rollback_until_somebody_names_a_release(
    promoted: Any, datakit: Any, releases: Any
) -> None:
    datakit("lock", "int", "sqlserver-bronze@^1")
    datakit("rollback", "int", "--why", "late flights")
    releases.publish("sqlserver-bronze", "1.2.0")
    answer = datakit("lock", "int")
    assert "nothing to change" in answer.out
    assert "sqlserver-bronze 1.2.0 is newer than the range 1.0.0 lets in" in answer.out
    datakit("lock", "int", "sqlserver-bronze@^1")
    assert "version: 1.2.0" in promoted.path("int").read_text()


# Moved tags (scenario 26)


def test_a_moved_tag_is_found_and_promoted_nowhere_and_pins_keep_their_digest(
    promoted: Any, datakit: Any, releases: Any
) -> None:
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    moved = releases.move_tag("sqlserver-bronze", "1.1.0")
    assert ["moved-tag"] == kinds(datakit("drift", "int", "--json", code=78))
    answer = datakit("drift", "int", code=78)
    assert f"names {moved} now" in answer.out
    assert "runs by digest are not affected" in answer.out
    assert "finance/sqlserver-bronze, marketing/sqlserver-bronze" in answer.out
    refused = datakit("promote", "int", "qa", code=78)
    assert "is not the one that was released as sqlserver-bronze 1.1.0" in refused.err
    assert releases.digests["sqlserver-bronze@1.1.0"] in promoted.path("int").read_text()


# Breaking changes (scenario 27: datakit release refuses them; here, whoever promotes one is told)


def test_whoever_promotes_a_breaking_release_is_told_so(promoted: Any, datakit: Any, releases: Any) -> None:
    releases.publish("sqlserver-bronze", "2.0.0", contract="e")
    datakit("lock", "int", "sqlserver-bronze@2.0.0")
    answer = datakit("promote", "int", "qa", "--dry-run")
    assert "finance/sqlserver-bronze: 1.0.0 → 2.0.0 may break who reads the tables" in answer.out


# Drift


def test_locks_that_commands_wrote_do_not_drift(promoted: Any, datakit: Any) -> None:
    answer = datakit("drift")
    assert "no difference in 3 environments" in answer.out
    assert "not compared with what ran: give the folder" in answer.out


def test_a_deleted_image_and_a_deleted_tag_are_told_apart(promoted: Any, datakit: Any, releases: Any) -> None:
    releases.delete("other-bronze", releases.digests["other-bronze@2.0.0"])
    assert ["missing-digest"] == kinds(datakit("drift", "qa", "--json", code=78))


def test_a_lock_edited_by_hand_is_found_before_and_after_its_commit_and_promoted_nowhere(
    promoted: Any, datakit: Any, releases: Any
) -> None:
    promoted.edit("qa", releases.digests["sqlserver-bronze@1.0.0"], releases.digests["sqlserver-bronze@1.1.0"])
    answer = datakit("drift", "qa", "--json", code=78)
    assert {"edited", "uncommitted", "moved-tag"} == set(kinds(answer)), answer.json["notes"]
    promoted.commit("Quick fix")
    assert {"edited", "not-by-command", "moved-tag"} == set(kinds(datakit("drift", "qa", "--json", code=78)))
    answer = datakit("promote", "qa", "prod", code=78)
    assert "the pin finance/sqlserver-bronze was edited by hand" in answer.err
    assert "datakit lock qa finance/sqlserver-bronze@1.0.0" in answer.err
    datakit("lock", "qa", "sqlserver-bronze@1.0.0")
    assert [] == kinds(datakit("drift", "qa", "--json"))
    datakit("promote", "qa", "prod")


def test_a_pin_that_was_removed_by_hand_is_found(promoted: Any, datakit: Any) -> None:
    lines = promoted.path("qa").read_text().splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if line.strip() == "marketing:")
    promoted.path("qa").write_text("".join(lines[:start]))
    promoted.commit("Away with it")
    assert {"not-by-command", "unpinned"} == set(kinds(datakit("drift", "qa", "--json", code=78)))


def test_what_comes_from_no_registry_needs_no_pin(tree: Any, datakit: Any) -> None:
    assert {"unpinned"} == set(kinds(datakit("drift", "int", "--offline", "--json", code=78)))
    file = tree.root / "warehouses/environments/int.yaml"
    text = file.read_text()
    for place in (text.replace("docker", "process"), f"{text}docker: {{pull: never}}\n"):
        file.write_text(place)
        assert [] == kinds(datakit("drift", "int", "--offline", "--json"))


def test_a_lock_from_before_seals_says_that_no_command_wrote_it(tree: Any, datakit: Any, releases: Any) -> None:
    digest = releases.digests["sqlserver-bronze@1.0.0"]
    kits = f"    sqlserver-bronze: {{version: 1.0.0, digest: {digest}}}\n"
    text = f"environment: int\nwarehouses:\n  finance:\n{kits}  marketing:\n{kits}"
    tree.path("int").write_text(text)
    tree.commit()
    answer = datakit("drift", "int", "--offline", code=78)
    assert "no command wrote this pin" in answer.out
    assert "no command wrote finance/sqlserver-bronze" in datakit("promote", "int", "qa", code=78).err


def test_a_run_of_another_version_than_the_pinned_one_is_found(promoted: Any, datakit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    report(folder, datakit="sqlserver-bronze@0.9.0", started_at=moment() - timedelta(days=1))  # before it was pinned
    report(folder, run_id="finance/2", started_at=moment() + timedelta(seconds=2))
    (folder / "other.json").write_text("{}")
    answer = datakit("drift", "prod", "--reports", str(folder), "--json")
    assert [] == kinds(answer)
    assert any("other.json holds no run report" in note for note in answer.json["notes"])
    report(folder, run_id="finance/3", datakit="sqlserver-bronze@0.9.0", started_at=moment() + timedelta(seconds=9))
    answer = datakit("drift", "prod", "--reports", str(folder), code=78)
    assert "0.9.0 ran at" in answer.out
    assert "although 1.0.0 is pinned" in answer.out
    assert "deploy the Airflow image that holds this lock" in answer.out


def test_a_registry_that_does_not_answer_is_no_drift_but_no_success_either(
    promoted: Any, datakit: Any, registry_server: Any, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(registry_server.start)
    registry_server.stop()
    assert "not compared with the registry" in datakit("drift", code=75).out
    assert "no difference" in datakit("drift", "--offline").out
