"""What Git's working tree may look like when a lock is changed, and that nothing of it is ever lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from datakit.model.lock import Lock
from datakit.model.project import Project
from datakit.model.yaml import Document
from datakit.release.git import GitRepository


def version(tree: Any, environment: str, house: str = "finance", kit: str = "sqlserver-bronze") -> str:
    return Document.read(tree.path(environment)).into(Lock).warehouses[house][kit].version


def clone(tree: Any, folder: Path) -> Any:
    """Return what a second person has, whose branch follows the first one's repository."""
    subprocess.run(["git", "clone", "--quiet", str(tree.root), str(folder)], check=True)
    return type(tree)(folder)


def test_other_work_in_the_tree_stays_as_it_is(promoted: Any, datakit: Any) -> None:
    promoted.write("datakits/sqlserver-bronze/notes.txt", "staged")
    promoted.git("add", "datakits/sqlserver-bronze/notes.txt")
    file = promoted.root / "datakits/other-bronze/datakit.yaml"
    file.write_text(file.read_text() + "# changed\n")
    promoted.write("README.md", "untracked")
    before = promoted.git("status", "--porcelain")
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    assert before == promoted.git("status", "--porcelain")
    assert ["warehouses/environments/int.lock.yaml"] == promoted.git("show", "--format=", "--name-only").splitlines()


@pytest.mark.parametrize("dirty", ["qa.lock.yaml", "int.lock.yaml", "qa.yaml"])
def test_a_lock_or_what_it_needs_with_uncommitted_changes_is_left_alone(
    promoted: Any, datakit: Any, dirty: str
) -> None:
    file = promoted.root / "warehouses/environments" / dirty
    file.write_text(file.read_text() + "# my own thought\n")
    text, count = file.read_text(), promoted.count()
    datakit("lock", "int", "sqlserver-bronze@1.1.0", code=78 if dirty.startswith("int") else 0)
    answer = datakit("promote", "int", "qa", code=78)
    assert f"warehouses/environments/{dirty} has changes that are not committed" in answer.err
    assert "git diff HEAD" in answer.err
    assert text == file.read_text()
    assert count + (not dirty.startswith("int")) == promoted.count()


def test_a_file_that_is_in_no_commit_is_to_be_added(tree: Any, datakit: Any) -> None:
    name = "warehouses/finance/warehouse.yaml"
    tree.git("rm", "--quiet", "--cached", name)
    tree.git("commit", "--quiet", "-m", "Forget it")
    answer = datakit("lock", "int", code=78)
    assert f"{name} is in no commit" in answer.err
    assert f"git add {name}, and commit it" in answer.err
    tree.git("add", name)
    tree.git("commit", "--quiet", "-m", "Do what was said")
    datakit("lock", "int")


def test_a_warehouse_that_is_not_committed_yet_is_not_locked(tree: Any, datakit: Any) -> None:
    file = tree.root / "warehouses/finance/warehouse.yaml"
    file.write_text(file.read_text() + "# more\n")
    assert "warehouses/finance/warehouse.yaml has changes" in datakit("lock", "int", code=78).err
    assert not tree.path("int").exists()


def test_a_detached_head_is_refused_because_the_commit_would_be_lost(promoted: Any, datakit: Any) -> None:
    promoted.git("checkout", "--quiet", "--detach")
    answer = datakit("lock", "int", "sqlserver-bronze@1.1.0", code=78)
    assert "the commit would be lost" in answer.err
    assert "git switch -c" in answer.err
    datakit("lock", "int", "sqlserver-bronze@1.1.0", "--dry-run")
    promoted.git("switch", "--quiet", "-c", "promote")
    datakit("lock", "int", "sqlserver-bronze@1.1.0")


def test_two_people_who_promote_different_datakits_merge_without_a_conflict(
    promoted: Any, datakit: Any, releases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases.publish("other-bronze", "2.1.0")
    other = clone(promoted, tmp_path / "other")
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    monkeypatch.chdir(other.root)
    datakit("lock", "int", "other-bronze@2.1.0")
    other.git("pull", "--quiet", "--no-rebase", "--no-edit")
    assert ("1.1.0", "2.1.0") == (version(other, "int"), version(other, "int", kit="other-bronze"))
    assert "no difference in 1 environment" in datakit("drift", "int").out


def test_two_people_who_promote_the_same_datakit_are_told_what_each_side_pins(
    promoted: Any, datakit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = clone(promoted, tmp_path / "other")
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    monkeypatch.chdir(other.root)
    datakit("lock", "int", "sqlserver-bronze@1.0.1")
    other.git("pull", "--quiet", "--no-rebase", "--no-edit", check=False)
    for command in (["lock", "int"], ["promote", "int", "qa"], ["status"], ["diff", "int", "qa"]):
        answer = datakit(*command, code=78)
        assert "merge is not finished" in answer.err or "two people changed the same pin" in answer.err
    answer = datakit("diff", "int", "qa", code=78)
    assert "one side pins 1.0.1, 1.0.1, the other 1.1.0, 1.1.0" in answer.err
    assert "git checkout --ours int.lock.yaml" in answer.err
    other.git("checkout", "--theirs", "warehouses/environments/int.lock.yaml")
    other.git("add", "--all")
    other.git("commit", "--quiet", "--no-edit")
    assert "1.1.0" == version(other, "int")
    datakit("lock", "int", "sqlserver-bronze@1.0.1")
    assert "no difference" in datakit("drift", "int").out


def test_whoever_has_not_pulled_another_ones_change_is_told_before_a_conflict_arises(
    promoted: Any, datakit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = clone(promoted, tmp_path / "other")
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    monkeypatch.chdir(other.root)
    other.git("fetch", "--quiet")
    answer = datakit("lock", "int", "sqlserver-bronze@1.0.1", code=78)
    assert "origin/main has changes of this file that are not here" in answer.err
    datakit("lock", "qa", "sqlserver-bronze@1.0.1")  # that lock nobody else changed


def test_two_commands_at_once_both_arrive(promoted: Any, releases: Any) -> None:
    releases.publish("other-bronze", "2.1.0")
    script = "import sys\nfrom datakit.cli import main\nmain(sys.argv[1:])"  # as the console script does
    before = promoted.count()
    started = [
        subprocess.Popen([sys.executable, "-c", script, "lock", "int", pin], stderr=subprocess.PIPE, text=True)
        for pin in ("sqlserver-bronze@1.1.0", "other-bronze@2.1.0")
    ]
    said = [process.communicate()[1] for process in started]
    assert [0, 0] == [process.returncode for process in started], said
    assert before + 2 == promoted.count()
    assert ("1.1.0", "2.1.0") == (version(promoted, "int"), version(promoted, "int", kit="other-bronze"))


def test_a_repository_that_another_git_command_holds_is_temporary_and_nothing_changes(
    promoted: Any, datakit: Any
) -> None:
    (promoted.root / ".git/index.lock").touch()
    before = promoted.path("int").read_text()
    answer = datakit("lock", "int", "sqlserver-bronze@1.1.0", code=75)
    assert "another process writes to the repository; nothing was changed" in answer.err
    assert before == promoted.path("int").read_text()
    (promoted.root / ".git/index.lock").unlink()
    datakit("lock", "int", "sqlserver-bronze@1.1.0")


@pytest.mark.parametrize("environment", ["int", "fresh"])
def test_a_hook_that_refuses_leaves_everything_as_it_was(promoted: Any, datakit: Any, environment: str) -> None:
    source = promoted.root / "warehouses/environments/int.yaml"
    promoted.write("warehouses/environments/fresh.yaml", source.read_text().replace("name: int", "name: fresh"))
    promoted.commit("Another environment")
    hook = promoted.root / ".git/hooks/commit-msg"
    hook.write_text("#!/bin/sh\necho 'write a ticket number' >&2\nexit 1\n")
    hook.chmod(0o755)
    path = promoted.path(environment)
    before = path.read_text() if path.exists() else None
    answer = datakit("lock", environment, "sqlserver-bronze@1.1.0", code=78)
    assert "write a ticket number" in answer.err
    assert before == (path.read_text() if path.exists() else None)
    assert "" == promoted.git("status", "--porcelain")


def test_a_command_that_is_told_to_end_finishes_its_commit_first(promoted: Any, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    hook = promoted.root / ".git/hooks/commit-msg"
    hook.write_text(f"#!/bin/sh\ntouch {begun}\nsleep 1\n")
    hook.chmod(0o755)
    before = promoted.count()
    process = subprocess.Popen([sys.executable, "-m", "datakit", "lock", "int", "sqlserver-bronze@1.1.0"])
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    assert 75 == process.wait()
    assert (before + 1, "1.1.0", "") == (promoted.count(), version(promoted, "int"), promoted.git("status", "-s"))


def test_a_full_disk_leaves_the_lock_as_it_was(promoted: Any) -> None:
    before = promoted.path("int").read_text()
    # -B: Python itself would leave a bytecode file cut off, for everybody after it
    command = [sys.executable, "-B", "-m", "datakit", "lock", "int", "sqlserver-bronze@1.1.0"]
    full = subprocess.run(["prlimit", "--fsize=500", *command], capture_output=True, text=True, check=False)
    assert 78 == full.returncode
    assert "it cannot be written: File too large; nothing was changed" in full.stderr
    assert (before, "") == (promoted.path("int").read_text(), promoted.git("status", "-s"))


def test_environments_of_another_repository_are_changed_there(
    promoted: Any, datakit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = type(promoted)(tmp_path / "environments")
    other.write("int.yaml", (promoted.root / "warehouses/environments/int.yaml").read_text())
    other.git("init", "--quiet")
    other.commit()
    monkeypatch.setenv("DATAKIT_ENVIRONMENTS", str(other.root))
    before = promoted.count()
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    assert ["int.lock.yaml"] == other.git("show", "--format=", "--name-only").splitlines()
    assert before == promoted.count()
    promoted.write("warehouses/finance/warehouse.yaml", "# nothing yet\n")
    assert "warehouses/finance/warehouse.yaml" in datakit("lock", "int", code=78).err


def test_a_merge_that_is_not_finished_is_not_mixed_with_a_change(promoted: Any, datakit: Any) -> None:
    promoted.git("switch", "--quiet", "-c", "side")
    promoted.write("notes.txt", "side")
    promoted.commit()
    promoted.git("switch", "--quiet", "main")
    promoted.write("notes.txt", "main")
    promoted.commit()
    promoted.git("merge", "side", check=False)
    answer = datakit("lock", "int", "sqlserver-bronze@1.1.0", code=78)
    assert "a merge is not finished" in answer.err


def test_whom_git_does_not_know_cannot_change_a_lock(promoted: Any, datakit: Any, tmp_path: Path) -> None:
    (tmp_path / "gitconfig").write_text("[user]\nuseConfigOnly = true\n")
    assert "Git does not know who you are" in datakit("lock", "int", code=78).err


def test_outside_of_git_a_lock_is_read_and_not_changed(promoted: Any, datakit: Any) -> None:
    (promoted.root / ".git").rename(promoted.root / ".gone")
    assert "is in no Git repository" in datakit("lock", "int", code=78).err
    assert "is in no Git repository" in datakit("history", "int", code=78).err
    assert "1.0.0" in datakit("status").out


def test_without_git_it_says_what_is_missing(promoted: Any, datakit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    answer = datakit("lock", "int", code=78)
    assert "git is not installed" in answer.err
    assert "apt-get install git" in answer.err


def test_a_lock_that_git_ignores_is_refused_by_name(tree: Any, datakit: Any) -> None:
    tree.write(".gitignore", "*.lock.yaml\n")
    tree.commit("Ignore locks")
    answer = datakit("lock", "int", code=78)
    assert "ignored" in answer.err
    assert not tree.path("int").exists()


def test_a_shallow_clone_says_that_history_was_cut_off(
    promoted: Any, datakit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", f"file://{promoted.root}", str(tmp_path / "shallow")], check=True
    )
    monkeypatch.chdir(tmp_path / "shallow")
    assert "git fetch --unshallow" in datakit("rollback", "int", code=78).err
    assert "shallow" in datakit("history", "int").out


def test_a_waiting_command_gives_up_with_a_reason(promoted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from datakit.errors import TemporaryError
    from datakit.release import git

    monkeypatch.setattr(git, "_PATIENCE_SECONDS", 0)
    repository = GitRepository.around(promoted.root)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with repository.exclusively():
            entered.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert entered.wait(30)
        with pytest.raises(TemporaryError, match="another command has been changing locks"), repository.exclusively():
            pass
    finally:
        leave.set()
        holder.join()


def test_a_run_takes_the_digest_that_the_lock_pins(promoted: Any, datakit: Any, releases: Any) -> None:
    from datakit.model.specification import specify

    def image() -> str | None:
        return specify(
            Project(promoted.root), "prod", datakit="sqlserver-bronze", dataset="airline.flights", warehouse="finance"
        ).image

    name = f"{releases.reference}/datakits/sqlserver-bronze"
    assert f"{name}@{releases.digests['sqlserver-bronze@1.0.0']}" == image()
    datakit("lock", "int", "sqlserver-bronze@1.1.0")
    datakit("promote", "int", "prod")
    assert f"{name}@{releases.digests['sqlserver-bronze@1.1.0']}" == image()
    datakit("rollback", "prod")
    assert f"{name}@{releases.digests['sqlserver-bronze@1.0.0']}" == image()
