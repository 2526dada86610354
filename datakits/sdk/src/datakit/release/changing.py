"""The way of a change into Git: refused where it could be lost or take something else with it, else one commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

from datakit.errors import LockRefused, UnknownName
from datakit.release.git import GitRepository
from datakit.release.locks import LockFile


class Planned(Protocol):
    """A change of one file that is not written yet."""

    @property
    def text(self) -> str | None:
        """What the file will hold; None if nothing changes."""

    @property
    def message(self) -> str:
        """The commit's."""


_P = TypeVar("_P", bound=Planned)


def change_file(
    repository: GitRepository,
    path: Path,
    needs: Iterable[Path],
    plan: Callable[[], _P],
    *,
    dry_run: bool,
) -> tuple[_P, str | None]:
    """Plan a change of a file and commit it; return it and the commit, None if nothing changes or it is a dry run.

    :param needs: other files that the change is made of; what is in them has to be committed.
    :raises LockRefused: something is uncommitted, under way or newer elsewhere; or the plan refuses.
    """
    with repository.exclusively():
        if not dry_run:
            _refuse_lossy(repository)
        _refuse_uncommitted(repository, [path, *needs])
        _refuse_stale(repository, path)
        planned = plan()
        if dry_run or planned.text is None:
            return planned, None
        return planned, repository.commit(path, planned.text, planned.message)


def earlier(repository: GitRepository, path: Path, environment: str, to: str) -> tuple[LockFile, str]:
    """Return a lock as it was, and the commit that it is of.

    :param to: a commit, or how many changes back.
    :raises UnknownName: there is no such commit, or fewer changes.
    """
    log = repository.log(path)
    shallow = "this clone is shallow: git fetch --unshallow" if repository.is_shallow() else None
    if to.isdigit() and len(to) < 4:
        if not 0 < int(to) < len(log):
            raise UnknownName(
                f"the lock of {environment!r} has no state {to} changes ago",
                subject=str(path),
                cause=shallow or f"it was changed {len(log)} times",
                fix=f"datakit history {environment} counts them",
            )
        revision = log[int(to)].revision
    else:
        found = repository.resolve(to)
        if found is None:
            raise UnknownName(
                f"there is no commit {to!r}",
                subject=str(repository.root),
                cause=shallow,
                fix=f"datakit history {environment} shows the commits of its lock",
            )
        revision = found
    (text,) = repository.contents([revision], path)
    if text is None:
        raise UnknownName(
            f"the environment {environment!r} has no lock at that commit",
            subject=f"{path} at {revision[:12]}",
            fix=f"datakit history {environment} shows the commits of its lock",
        )
    return LockFile.parse(text, environment, path, at=revision[:12]), revision


def _refuse_lossy(repository: GitRepository) -> None:
    if under_way := repository.under_way():
        raise LockRefused(
            f"a {under_way} is not finished; a commit now would become part of it",
            subject=str(repository.root),
            fix=f"git {under_way} --continue, or --abort; then run it again",
        )
    if repository.branch() is None:
        raise LockRefused(
            "no branch is checked out, so the commit would be lost at the next checkout",
            subject=str(repository.root),
            cause="the head is detached, as CI leaves it",
            fix="git switch -c BRANCH, then run it again",
        )
    repository.identity()


def _refuse_uncommitted(repository: GitRepository, paths: Iterable[Path]) -> None:
    by_repository: dict[Path, list[Path]] = {}
    for path in paths:  # DATAKIT_ENVIRONMENTS may name a folder of another repository
        is_here = path.resolve().is_relative_to(repository.root)
        root = repository.root if is_here else GitRepository.around(path.parent).root
        by_repository.setdefault(root, []).append(path)
    for root, mine in by_repository.items():
        _refuse_dirty(GitRepository(root), GitRepository(root).uncommitted(mine))


def _refuse_dirty(repository: GitRepository, dirty: tuple[str, ...]) -> None:
    if dirty:
        first = dirty[0]
        (committed,) = repository.contents(["HEAD"], repository.root / first)
        raise LockRefused(
            f"{first} is in no commit" if committed is None else f"{first} has changes that are not committed",
            subject=str(repository.root),
            cause=f"the same goes for {', '.join(dirty[1:])}" if len(dirty) > 1 else None,
            fix=f"git add {first}, and commit it"
            if committed is None
            else f"git diff HEAD -- {first} shows them; commit them, or git restore --staged --worktree {first}",
        )


def _refuse_stale(repository: GitRepository, path: Path) -> None:
    if upstream := repository.changed_upstream(path):
        raise LockRefused(
            f"{upstream} has changes of this file that are not here",
            subject=str(path),
            cause="somebody else changed it meanwhile",
            fix="git pull, and run it again",
        )
