"""The page that answers what runs where: every environment of the tree that this Airflow was deployed with.

It shows what ``datakit status --offline`` shows in that tree. It asks no registry: a page that many people keep open
must not depend on one.
"""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from datakit.model.project import Project

from airflow_datakit._html import document
from airflow_datakit._tree import chosen_environment, chosen_project

if TYPE_CHECKING:
    from datakit.release.status import StatusRow

_COLUMNS = ("warehouse", "datakit", "version", "digest", "since", "by", "why")


def status_page() -> str:
    """Return the page.

    :raises DatakitError: there is no tree, no environment is chosen, or a file of the tree cannot be read.
    """
    from datakit.release.status import status

    project = Project(chosen_project().root)  # read anew: this process lives long, and on a laptop the tree changes
    own = chosen_environment(project)
    rows, _ = status(project, open_registry=None)
    groups = {name: list(found) for name, found in groupby(rows, key=lambda row: row.environment)}
    order = sorted(groups, key=lambda name: (name != own, name))
    head = "".join(f"<th>{column}</th>" for column in _COLUMNS)
    body = "".join(_environment(name, groups[name], own=name == own) for name in order)
    table = f"<div class=wide><table><thead><tr>{head}</tr></thead>{body}</table></div>"
    intro = f"<p>As pinned in {escape(str(project.root))}, which this Airflow was deployed with.</p>"
    nothing = "<p>No warehouse takes anything in any environment.</p>"
    return document("What runs where", intro + (table if body else nothing))


def _environment(name: str, rows: list[StatusRow], *, own: bool) -> str:
    mark = " <small>this Airflow's environment</small>" if own else ""
    title = f"<tr><th colspan={len(_COLUMNS)} scope=rowgroup><h2>{escape(name)}{mark}</h2></th></tr>"
    return f"<tbody>{title}{''.join(map(_row, rows))}</tbody>"


def _row(row: StatusRow) -> str:
    pin = row.pin
    if pin is None:
        cells = [row.warehouse, row.datakit, _unpinned(row), "", "", "", ""]
    else:
        digest = pin.digest.removeprefix("sha256:")[:12]
        since = f"{pin.at:%Y-%m-%d %H:%M} UTC" if pin.at else ""
        cells = [row.warehouse, row.datakit, pin.version, digest, since, pin.by or "", pin.why or ""]
    texts = [escape(cell) for cell in cells]
    if not row.by_command:
        texts[_COLUMNS.index("version")] += " <mark>edited by hand</mark>"
    return f"<tr>{''.join(f'<td>{text}</td>' for text in texts)}</tr>"


def _unpinned(row: StatusRow) -> str:
    if row.frozen:
        return "nothing: frozen, not pinned"
    return f"{row.in_tree} (not pinned: the tree's)" if row.in_tree else "nothing: not pinned, not in the tree"
