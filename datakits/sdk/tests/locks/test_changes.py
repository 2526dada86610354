"""lock, promote and rollback: each one commit of one file, checked before anything is written."""

from __future__ import annotations

from typing import Any

import pytest
from datakit.model.lock import Lock
from datakit.model.yaml import Document


def pins(tree: Any, environment: str) -> dict[str, str]:
    lock = Document.read(tree.path(environment)).into(Lock)
    return {f"{house}/{kit}": pin.version for house, kit, pin in lock.pins()}


def test_a_lock_pins_what_the_warehouses_take_by_the_newest_releases(tree: Any, datakit: Any, releases: Any) -> None:
    datakit("lock", "int")
    assert {
        "finance/other-bronze": "2.0.0",
        "finance/sqlserver-bronze": "1.1.0",
        "marketing/sqlserver-bronze": "1.1.0",
    } == pins(tree, "int")
    lock = Document.read(tree.path("int")).into(Lock)
    pin = lock.warehouses["finance"]["sqlserver-bronze"]
    assert (releases.digests["sqlserver-bronze@1.1.0"], f"sha256:{'c' * 64}") == (pin.digest, pin.contract)
    assert "Ann <ann@corp.example>" == pin.by
    assert lock.is_by_command("finance", "sqlserver-bronze")


def test_a_change_is_one_commit_of_one_file_with_trailers(tree: Any, datakit: Any, releases: Any) -> None:
    before = tree.count()
    datakit("lock", "int", "finance/sqlserver-bronze@1.0.0", "--why", "a # first: try")
    assert before + 1 == tree.count()
    assert ["warehouses/environments/int.lock.yaml"] == tree.git("show", "--format=", "--name-only").splitlines()
    assert "Pin sqlserver-bronze 1.0.0 in int" == tree.git("log", "-1", "--format=%s")
    trailers = tree.git("log", "-1", "--format=%(trailers:only)").splitlines()
    assert [
        "Datakit-Action: lock",
        "Datakit-Environment: int",
        f"Datakit-Pin: finance/sqlserver-bronze 1.0.0 {releases.digests['sqlserver-bronze@1.0.0']}",
    ] == trailers
    assert 'why: "a # first: try"' in tree.path("int").read_text()
    assert "" == tree.git("status", "--porcelain")


def test_a_range_stays_and_is_followed_later(tree: Any, datakit: Any, releases: Any) -> None:
    datakit("lock", "int", "sqlserver-bronze@~1.0")
    assert {"finance/sqlserver-bronze": "1.0.1", "marketing/sqlserver-bronze": "1.0.1"} == pins(tree, "int")
    releases.publish("sqlserver-bronze", "1.0.2")
    releases.publish("sqlserver-bronze", "1.0.3-rc.1")
    datakit("lock", "int")
    assert "1.0.2" == pins(tree, "int")["finance/sqlserver-bronze"]


def test_a_range_without_a_release_names_those_that_there_are(tree: Any, datakit: Any) -> None:
    answer = datakit("lock", "int", "sqlserver-bronze@^3", code=78)
    assert "no release of 'sqlserver-bronze' in the range '^3'" in answer.err
    assert "1.0.0, 1.0.1, 1.1.0" in answer.err
    assert not tree.path("int").exists()


def test_a_misspelt_pin_is_told_the_nearest(tree: Any, datakit: Any) -> None:
    assert "did you mean 'sqlserver-bronze'?" in datakit("lock", "int", "sqlserver-bronce", code=78).err
    assert "names no pin" in datakit("lock", "int", "@1.0.0", code=78).err


def test_a_promotion_copies_digests_and_says_from_where(promoted: Any, datakit: Any, releases: Any) -> None:
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    datakit("promote", "int", "qa", "--only", "marketing", "--why", "quarter end")
    assert {
        "finance/other-bronze": "2.0.0",
        "finance/sqlserver-bronze": "1.0.0",
        "marketing/sqlserver-bronze": "1.1.0",
    } == pins(promoted, "qa")
    assert "Promote sqlserver-bronze 1.1.0 from int to qa" == promoted.git("log", "-1", "--format=%s")
    assert "Datakit-From: int" in promoted.git("log", "-1", "--format=%(trailers:only)")
    assert 'why: "promoted from int: quarter end"' in promoted.path("qa").read_text()


def test_a_promotion_again_changes_nothing(promoted: Any, datakit: Any) -> None:
    before = promoted.count()
    assert "nothing to change" in datakit("promote", "int", "qa").out
    assert before == promoted.count()


def test_a_dry_run_shows_file_and_message_and_writes_nothing(promoted: Any, datakit: Any) -> None:
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    before, text = promoted.count(), promoted.path("qa").read_text()
    answer = datakit("promote", "int", "qa", "--dry-run")
    assert "-      version: 1.0.0" in answer.out
    assert "+      version: 1.1.0" in answer.out
    assert "Datakit-Action: promote" in answer.out
    shown = datakit("promote", "int", "qa", "--dry-run", "--json").json
    assert (None, True, 2) == (shown["commit"], shown["dry_run"], len(shown["changes"]))
    assert (before, text, "") == (promoted.count(), promoted.path("qa").read_text(), promoted.git("status", "-s"))


def test_a_digest_that_was_never_released_is_not_promoted(promoted: Any, datakit: Any, releases: Any) -> None:
    releases.delete("sqlserver-bronze", releases.digests["sqlserver-bronze@1.0.0"])
    datakit("lock", "int", "other-bronze")  # int itself may be written; only what is asked of the registry counts
    releases.publish("other-bronze", "2.1.0")
    datakit("lock", "int", "other-bronze@2.1.0")
    answer = datakit("promote", "int", "qa", code=78)
    assert "sqlserver-bronze 1.0.0 was never released to this registry" in answer.err
    assert "2.0.0" == pins(promoted, "qa")["finance/other-bronze"]  # not even the one that could have gone


def test_a_release_that_is_not_in_the_first_environment_is_not_promoted(promoted: Any, datakit: Any) -> None:
    answer = datakit("promote", "int", "qa", "--only", "sqlserver-bronze@1.1.0", code=78)
    assert "1.1.0 of sqlserver-bronze is not what 'int' pins for finance: that is 1.0.0" in answer.err


def test_a_frozen_environment_takes_digests_and_no_tags(promoted: Any, datakit: Any, releases: Any) -> None:
    for pin in ([], ["sqlserver-bronze@1.1.0"], ["sqlserver-bronze@^1"], ["sqlserver-bronze"]):
        assert "is frozen" in datakit("lock", "prod", *pin, code=78).err
    datakit("lock", "prod", f"finance/sqlserver-bronze@{releases.digests['sqlserver-bronze@1.1.0']}")
    assert "1.1.0" == pins(promoted, "prod")["finance/sqlserver-bronze"]
    other = f"sqlserver-bronze@sha256:{'0' * 64}"
    assert "no release of this datakit has that digest" in datakit("lock", "prod", other, code=78).err


def test_a_rollback_restores_pins_and_another_one_takes_it_back(promoted: Any, datakit: Any) -> None:
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    datakit("promote", "int", "prod")
    answer = datakit("rollback", "prod", "--why", "late flights")
    assert "finance/sqlserver-bronze: 1.0.0 is older than 1.1.0" in answer.out
    assert "1.0.0" == pins(promoted, "prod")["finance/sqlserver-bronze"]
    assert "Roll prod back to sqlserver-bronze 1.0.0" == promoted.git("log", "-1", "--format=%s")
    datakit("rollback", "prod")
    assert "1.1.0" == pins(promoted, "prod")["finance/sqlserver-bronze"]


def test_a_rollback_goes_to_a_commit_or_a_number_and_may_take_one_datakit(promoted: Any, datakit: Any) -> None:
    first = promoted.git("rev-parse", "HEAD")
    datakit("lock", "int", "sqlserver-bronze@1.0.1")
    datakit("promote", "int", "prod")
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    datakit("promote", "int", "prod")
    datakit("rollback", "prod", "--to", first[:10], "--only", "marketing")
    assert {"finance/sqlserver-bronze": "1.1.0", "marketing/sqlserver-bronze": "1.0.0"}.items() <= pins(
        promoted, "prod"
    ).items()
    datakit("rollback", "prod", "--to", "2")
    assert "1.0.1" == pins(promoted, "prod")["finance/sqlserver-bronze"]
    assert "has no state 9 changes ago" in datakit("rollback", "prod", "--to", "9", code=78).err
    assert "there is no commit 'nothing'" in datakit("rollback", "prod", "--to", "nothing", code=78).err
    begin = promoted.git("rev-list", "--max-parents=0", "HEAD")
    assert "has no lock at that commit" in datakit("rollback", "prod", "--to", begin, code=78).err


def test_a_rollback_goes_while_the_registry_is_away(
    promoted: Any, datakit: Any, registry_server: Any, request: pytest.FixtureRequest
) -> None:
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    datakit("promote", "int", "prod")
    request.addfinalizer(registry_server.start)
    registry_server.stop()
    assert 75 == datakit("promote", "int", "qa", code=75).code
    answer = datakit("rollback", "prod")
    assert "not checked with the registry" in answer.out
    assert "1.0.0" == pins(promoted, "prod")["finance/sqlserver-bronze"]


def test_what_no_warehouse_takes_any_more_is_removed_by_a_lock_of_everything(promoted: Any, datakit: Any) -> None:
    path = "warehouses/finance/warehouse.yaml"
    text = (promoted.root / path).read_text()
    promoted.write(path, text[: text.index("  - datakit: other-bronze")])
    promoted.commit("Finance does without planes")
    answer = datakit("lock", "int")
    assert "finance/other-bronze is removed: no warehouse takes it any more" in answer.out
    assert "finance/other-bronze" not in pins(promoted, "int")
    datakit("promote", "int", "prod")
    assert "finance/other-bronze" not in pins(promoted, "prod")


def test_nothing_is_promoted_from_an_environment_without_pins_or_to_itself(tree: Any, datakit: Any) -> None:
    assert "nothing is pinned in 'qa'" in datakit("promote", "qa", "prod", code=78).err
    assert "cannot be promoted to itself" in datakit("promote", "qa", "qa", code=78).err
    assert "did you mean 'prod'?" in datakit("promote", "qa", "prodd", code=78).err
