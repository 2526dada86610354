"""The tree and the environment that this Airflow works with: chosen by whoever runs it, never guessed.

Both are read once in a process. Airflow parses each DAG file in a process of its own, so nothing goes stale.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache, lru_cache
from pathlib import Path

from airflow.providers.common.compat.sdk import conf
from datakit.errors import ConfigurationError
from datakit.model.project import Project


def chosen_project(path: str | Path | None = None) -> Project:
    """Return the tree at ``path``; without it the one of DATAKIT_HOME, ``[datakit] home``, or above the DAGs folder.

    :raises ConfigurationError: there is none; says where it was looked for.
    """
    home = str(path or os.environ.get("DATAKIT_HOME") or _option("home") or "")
    return _project(home, os.environ.get("DATAKIT_ENVIRONMENTS", ""))


def chosen_environment(project: Project) -> str:
    """Return the name of the environment: DATAKIT_ENVIRONMENT, else ``[datakit] environment``.

    :raises ConfigurationError: neither is set; lists where it was looked for and what there is.
    """
    name = os.environ.get("DATAKIT_ENVIRONMENT") or _option("environment")
    if name:
        return name
    known = ", ".join(sorted(project.environment_files)) or "none"
    folders = " and ".join(str(folder) for folder in project.environment_folders)
    similar = sorted(variable for variable in os.environ if variable.startswith("DATAKIT_ENV"))
    also = f"; set is {', '.join(similar)}" if similar else ""
    raise ConfigurationError(
        "no environment is chosen",
        subject=str(project.root),
        cause="looked for the variable DATAKIT_ENVIRONMENT, then for the option environment in the section [datakit] "
        f"of airflow.cfg (or the variable AIRFLOW__DATAKIT__ENVIRONMENT): neither is set{also}",
        fix=f"set one of them to one of the environments in {folders}: {known}",
    )


@cache
def this_airflow() -> str:
    """Return what tells this Airflow from another one that uses the same engine or cluster: a hash of its addresses."""
    addresses = (
        conf.get(*option, fallback="") for option in (("api", "base_url"), ("core", "execution_api_server_url"))
    )
    return hashlib.sha256("\n".join(map(str, addresses)).encode()).hexdigest()[:12]


def _option(name: str) -> str | None:
    return conf.get("datakit", name, fallback=None) or None


@lru_cache(maxsize=8)
def _project(home: str, environments: str) -> Project:  # noqa: ARG001  # what the tree reads depends on the second too
    if home:
        return Project.find(Path(home))
    dags = Path(conf.get("core", "dags_folder"))
    try:
        return Project.find(dags)
    except ConfigurationError:
        raise ConfigurationError(
            "there is no tree of datakits and warehouses",
            subject=str(dags),
            cause="looked for the variable DATAKIT_HOME, then for the option home in the section [datakit] of "
            "airflow.cfg: neither is set; then for datakits/ and warehouses/ in the DAGs folder and above it",
            fix="set DATAKIT_HOME to the folder that holds datakits/ and warehouses/",
        ) from None
