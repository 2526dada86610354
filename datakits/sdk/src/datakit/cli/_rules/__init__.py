"""The rules of ``datakit check``: what can be known about a tree without a source, a warehouse or a network.

Each module holds the rules about one kind of file and yields errors, which are the same that a run would raise, but
all of them at once and with file, line and column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datakit.cli._rules.connections import connection_notes, connection_problems
from datakit.cli._rules.environments import environment_notes, environment_problems
from datakit.cli._rules.landing import landing_notes, landing_problems
from datakit.cli._rules.layout import layout_problems
from datakit.cli._rules.sources import source_notes, source_problems
from datakit.errors import DatakitError, InvalidFile, ReleaseRefused
from datakit.model.project import Project

__all__ = ["Findings", "check_tree", "refuse_problems"]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check found.

    :ivar problems: errors; the tree is not fit to be released while there is one.
    :ivar notes: sentences about what could not be checked, or is not complete yet.
    """

    problems: tuple[DatakitError, ...]
    notes: tuple[str, ...]


def check_tree(project: Project, only: Path | None = None) -> Findings:
    """Check everything in the tree.

    :param only: report on files in this folder alone; the rest of the tree is still what they refer to.
    """
    rules: tuple[Callable[[Project], Iterable[DatakitError]], ...] = (
        layout_problems,
        source_problems,
        landing_problems,
        environment_problems,
        connection_problems,
    )
    problems = [*_flat(project.broken), *(problem for rule in rules for problem in _flat(rule(project)))]
    notes = [
        *source_notes(project),
        *landing_notes(project),
        *environment_notes(project),
        *connection_notes(project),
    ]
    if only is not None and only.resolve() != project.root:
        prefix = f"{only.resolve()}/"
        problems = [problem for problem in problems if (problem.subject or "").startswith(prefix)]
        notes = [note for note in notes if note.startswith(prefix)]
    return Findings(tuple(_without_others(problem) for problem in problems), tuple(notes))


def refuse_problems(project: Project, only: Path | None = None) -> None:
    """Refuse to make an image of a tree with a problem.

    :param only: as of :func:`check_tree`.
    :raises ReleaseRefused: there is one; names the first.
    """
    problems = check_tree(project, only=only).problems
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        first = problems[0]
        raise ReleaseRefused(
            f"datakit check finds a problem{more}: {first.what}",
            subject=first.subject,
            cause=first.cause,
            fix=f"see all of it: datakit check {only or ''}".rstrip(),
        )


def _flat(problems: Iterable[DatakitError]) -> Iterator[DatakitError]:
    for problem in problems:
        yield problem
        if isinstance(problem, InvalidFile):
            yield from problem.others


def _without_others(problem: DatakitError) -> DatakitError:
    if not isinstance(problem, InvalidFile) or not problem.others:
        return problem
    return InvalidFile(problem.what, subject=problem.subject, cause=problem.cause, fix=problem.fix)
