"""The image that an Airflow is deployed as: the platform's Airflow, with the tree's DAGs, warehouses and locks.

It is made like a datakit's image, without an engine: one layer upon ``platform/airflow``. The locks travel in it, so
that rolling Airflow back rolls back what it runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datakit.errors import ConfigurationError, ReleaseRefused
from datakit.model.lock import lock_path
from datakit.model.project import Project
from datakit.release._annotations import (
    BASE_DIGEST,
    BASE_NAME,
    CREATED,
    DESCRIPTION,
    REVISION,
    SOURCE,
    TITLE,
    UNPINNED,
    VERSION,
)
from datakit.release._commit import Commit, listed, read_commit
from datakit.release.gate import refuse_unreproducible
from datakit.release.image import Origin, Parts, archive_of, assemble, find_base, read_files, written_time
from datakit.release.registry import Registry
from datakit.release.status import status

REPOSITORY: Final = "platform/airflow-deployment"
"""Where deployments are in a registry."""

_HOME: Final = "opt/datakit/tree"
"""Below the root: what ``platform/airflow`` names as DATAKIT_HOME."""
_TAKEN: Final = (
    "dags",
    "warehouses",
    ":(glob)datakits/*/datakit.yaml",
    ":(glob)datakits/*/contracts/**",
    ":(glob)datakits/*/**/*.sql",
    ":(exclude,glob)**/tests/**",
)
"""Git's patterns of what Airflow reads. The code of a datakit is in its own image."""
_IGNORED_BY_AIRFLOW: Final = ".airflowignore"
_DAGS: Final = re.compile(r"(?:warehouses/(?:(?P<warehouse>[^/]+)/)?)?dags/(?P<path>.+)")
_SECRET_NAMES: Final = re.compile(
    r"(^|/)(\.env(\..*)?|\.netrc|\.pgpass|\.pypirc|\.docker(cfg|configjson)|\.git-credentials|id_[a-z0-9]+"
    r"|[^/]*\.(keytab|p12|pfx|jks))$"
)
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEYTAB: Final = b"\x05\x02\x00"
_OF_THE_BASE_ALONE: Final = ("org.opencontainers.image.", "datakit.")
RUNTIME_LABEL: Final = "io.astronomer.docker.runtime.version"
"""Which Astronomer runtime an image holds; Astronomer's API wants to be told."""
TITLE_OF_ONE: Final = "airflow-deployment"


@dataclass(frozen=True, slots=True)
class Deployment:
    """An Airflow image that is ready to be pushed.

    :ivar tag: ``v``, day and hash of the commit, and the start of the base's digest: the same one names the same bytes.
    :ivar dags: how many DAG files it has; ``files``, how many of the tree.
    :ivar runtime_version: Astronomer's, if the base says it.
    :ivar unpinned: frozen environment → WAREHOUSE/DATAKIT that its lock does not pin, so that no DAG could be parsed
        there.
    """

    parts: Parts
    tag: str
    commit: Commit
    dags: int
    files: int
    runtime_version: str | None
    unpinned: Mapping[str, tuple[str, ...]]

    @property
    def digest(self) -> str:
        """What the image is."""
        return self.parts.digest


def build_deployment(
    project: Project, registry: Registry, *, base: str | None = None, dags_folder: str | None = None
) -> Deployment:
    """Make the image of the tree, and push nothing.

    :param base: ``REPOSITORY:TAG`` or ``REPOSITORY@DIGEST``; None takes ``platform/airflow`` of this SDK's version.
    :param dags_folder: where its Airflow looks for DAGs; None takes what the base says.
    :raises UnknownName: the base is not in the registry.
    :raises ConfigurationError: the tree is not in Git, has no DAG file, or one that looks like a secret.
    """
    from datakit import __version__

    paths = listed(project.root, *_TAKEN)
    if paths is None:
        raise ConfigurationError(
            "the tree is in no Git repository", subject=str(project.root), fix="git init, and commit the tree"
        )
    commit = read_commit(project.root, _TAKEN)
    _refuse_links(project.root, paths)
    files = read_files(project.root, paths)
    _refuse_secrets(project.root, files)
    files = {path: file for path, file in files.items() if _is_read(path)}
    origin = find_base(registry, base or f"platform/airflow:v{__version__}")
    there = Path((dags_folder or _dags_folder(origin, registry)).lstrip("/"))
    placed, dags = _placed(project.root, files, there)
    if not dags:
        raise ConfigurationError(
            "the tree has no DAG file",
            subject=str(project.root / "warehouses/dags"),
            fix="write one: globals().update(dags_from_warehouses()) makes a DAG for each warehouse and schedule",
        )
    tag = _tag(commit, origin)
    unpinned = _unpinned(project)
    annotations = _annotations(commit, origin, tag, unpinned)
    labels = (origin.config.get("config") or {}).get("Labels") or {}
    kept = {name: value for name, value in labels.items() if not name.startswith(_OF_THE_BASE_ALONE)}
    runtime = kept.get(RUNTIME_LABEL)
    home = f"DATAKIT_HOME=/{_HOME}"
    parts = assemble(
        origins=(origin,),
        layer=archive_of(
            placed, folders=_folders_below(placed, (there, Path(_HOME))), owned=_owned(origin, there, registry)
        ),
        layer_of=f"tree@{commit.revision or 'uncommitted'}",
        annotations=annotations,
        created=commit.time,
        environment=[] if home in ((origin.config.get("config") or {}).get("Env") or []) else [home],
        made_by="datakit airflow build",
        labels=kept | annotations,
    )
    return Deployment(parts, tag, commit, dags, len(files) - dags, runtime, unpinned)


def refuse_undeployable(project: Project, deployment: Deployment) -> None:
    """Refuse what Git could not give back, and locks that do not say what would run.

    :raises ReleaseRefused: something is uncommitted, or a pin was edited by hand.
    """
    refuse_unreproducible(deployment.commit, project.root, what="tree", becomes="deployment", then="push")
    rows, _ = status(project, open_registry=None)
    for row in rows:
        if not row.by_command:
            raise ReleaseRefused(
                "a pin was edited by hand, and does not fit its seal",
                subject=f"{lock_path(project.environment_files[row.environment].path)}: {row.warehouse}/{row.datakit}",
                fix=f"datakit history {row.environment} shows who; datakit lock or promote writes it anew",
            )


def _unpinned(project: Project) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for row in status(project, open_registry=None)[0]:
        if row.frozen and row.pin is None:
            found[row.environment] = (*found.get(row.environment, ()), f"{row.warehouse}/{row.datakit}")
    return found


def _is_read(path: Path) -> bool:
    """Whether a file is for Airflow: nothing hidden but the list of what it skips."""
    return path.name == _IGNORED_BY_AIRFLOW or not any(part.startswith(".") for part in path.parts)


def _placed(
    root: Path, files: Mapping[Path, tuple[bytes, bool]], dags: Path
) -> tuple[dict[Path, tuple[bytes, bool]], int]:
    """Return where each file is in the image, and how many are DAG files."""
    placed: dict[Path, tuple[bytes, bool]] = {}
    origin: dict[Path, Path] = {}
    count = 0
    for path, file in files.items():
        if match := _DAGS.fullmatch(path.as_posix()):
            place = dags / (match["warehouse"] or "") / match["path"]
            count += path.suffix == ".py"
        else:
            place = Path(_HOME) / path
        if place in placed:
            raise ConfigurationError(
                "two DAG files of the tree have one place in Airflow's DAGs folder",
                subject=str(root / path),
                cause=f"the other one is {root / origin[place]}",
                fix="rename one of them",
            )
        placed[place], origin[place] = file, path
    return placed, count


def _folders_below(placed: Iterable[Path], roots: Iterable[Path]) -> set[Path]:
    return {
        parent
        for root in roots
        for path in placed
        if path.is_relative_to(root)
        for parent in path.parents
        if parent != root and parent.is_relative_to(root)
    }


def _dags_folder(base: Origin, registry: Registry) -> str:
    """Return where the base's Airflow looks for DAGs: AIRFLOW__CORE__DAGS_FOLDER, else AIRFLOW_HOME/dags."""
    variables = _variables(base)
    if folder := variables.get("AIRFLOW__CORE__DAGS_FOLDER"):
        return str(folder)
    if home := variables.get("AIRFLOW_HOME"):
        return f"{home}/dags"
    raise ConfigurationError(
        "the base image does not say where its Airflow looks for DAGs",
        subject=registry.image(base.repository, base.digest),
        cause="it sets neither AIRFLOW__CORE__DAGS_FOLDER nor AIRFLOW_HOME; perhaps it is no Airflow",
        fix="name the folder: --dags-folder /usr/local/airflow/dags",
    )


def _variables(base: Origin) -> dict[str, str]:
    lines = (base.config.get("config") or {}).get("Env") or []
    return dict(line.partition("=")[::2] for line in lines)


def _owned(base: Origin, dags: Path, registry: Registry) -> dict[Path, int]:
    """Return Airflow's home and what is in it down to the DAGs folder, with its user.

    A layer with a file in it may make a folder root's on some engines, and Airflow writes into its home.
    """
    home = Path(_variables(base).get("AIRFLOW_HOME", "/").lstrip("/"))
    if home == Path() or not dags.is_relative_to(home):
        return {}
    user = str((base.config.get("config") or {}).get("User") or "0").partition(":")[0]
    if not user.isdigit():
        raise ConfigurationError(
            f"the base image runs as the user {user!r}, whose number it does not say",
            subject=registry.image(base.repository, base.digest),
            cause="Airflow's home has to stay this user's; Kubernetes wants a number too, to see that it is not root",
            fix="end its Dockerfile with that number, such as USER 50000, as platform/airflow does",
        )
    return {folder: int(user) for folder in (dags, *dags.parents) if folder.is_relative_to(home)}


def _refuse_links(root: Path, paths: list[Path]) -> None:
    for path in paths:
        if (root / path).is_symlink():
            raise ConfigurationError(
                "a symbolic link cannot go into an image", subject=str(root / path), fix="put the file itself there"
            )


def _refuse_secrets(root: Path, files: Mapping[Path, tuple[bytes, bool]]) -> None:
    for path, (data, _) in files.items():
        if _SECRET_NAMES.search(path.as_posix()) or _PRIVATE_KEY.search(data) or data.startswith(_KEYTAB):
            raise ConfigurationError(
                "a file of the tree looks like a secret, and would be in the image for all who can pull it",
                subject=str(root / path),
                cause="it has the name, or holds the beginning, of a key or a password file",
                fix="take it out of Git, and change what it gives access to; secrets come from the sidecar",
            )


def _tag(commit: Commit, base: Origin) -> str:
    revision = commit.revision[:12] or "uncommitted"
    dirty = "-dirty" if commit.uncommitted else ""
    return f"v{commit.time:%Y.%m.%d}-{revision}{dirty}-{base.digest.removeprefix('sha256:')[:8]}"


def _annotations(commit: Commit, base: Origin, tag: str, unpinned: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    said = {
        TITLE: TITLE_OF_ONE,
        VERSION: tag.removeprefix("v"),
        DESCRIPTION: "Airflow with DAGs, warehouses, environments and their locks",
        REVISION: (commit.revision or "uncommitted") + ("-dirty" if commit.uncommitted else ""),
        CREATED: written_time(commit.time),
        SOURCE: commit.source,
        BASE_NAME: base.name,
        BASE_DIGEST: base.digest,
        UNPINNED: json.dumps(unpinned) if unpinned else "",
    }
    return {name: value for name, value in said.items() if value}
