"""Which registry a command talks to, and how it logs in: options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datakit.cli._options import complete_datakit
from datakit.errors import ConfigurationError, RegistryUnavailable, UnknownName

if TYPE_CHECKING:
    from datakit.release.registry import Registry, Release

_PANEL = "Registry"

Address = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="HOST/PATH",
        rich_help_panel=_PANEL,
        help="[dim]Default: DATAKIT_REGISTRY, else the one that the environments of the tree name[/dim]",
    ),
]
User = Annotated[
    str | None,
    typer.Option(
        "--username",
        rich_help_panel=_PANEL,
        help="[dim]Default: DATAKIT_REGISTRY_USER, else what docker login left[/dim]",
    ),
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        rich_help_panel=_PANEL,
        help="[dim]Default: DATAKIT_REGISTRY_PASSWORD_FILE, else as above[/dim]",
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        rich_help_panel=_PANEL,
        help="Authority of the registry's certificate. [dim]Default: DATAKIT_REGISTRY_CA, else Docker's certs.d[/dim]",
    ),
]
Datakit = Annotated[
    str, typer.Argument(metavar="NAME", autocompletion=complete_datakit, help="A datakit of the tree: its name.")
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="REPOSITORY:TAG",
        help="The image to stand on. [dim]Default: platform/datakit-base of this version[/dim]",
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Write the image there, as an OCI layout.")
]
Load = Annotated[bool, typer.Option("--load", help="Put the image into the Docker engine of this machine.")]
ReleaseName = Annotated[
    str,
    typer.Argument(
        metavar="NAME@VERSION", autocompletion=complete_datakit, help="A release, such as airline-source@1.2.3."
    ),
]


def registry_address(chosen: str | None) -> tuple[str, list[str]]:
    """Return the registry to talk to, and the environments that name it where nothing else does.

    :raises ConfigurationError: none is named, or the tree names several.
    """
    from datakit.model.project import Project

    if given := chosen or os.environ.get("DATAKIT_REGISTRY"):
        return given, []
    try:
        environments = Project.find().environments()
    except ConfigurationError:  # releases are looked at from anywhere; then nothing but the variable names a registry
        environments = {}
    named: dict[str, list[str]] = {}
    for name, each in sorted(environments.items()):
        if each.registry and each.docker.pull != "never":
            named.setdefault(each.registry, []).append(name)
    if len(named) == 1:
        return named.popitem()
    raise ConfigurationError(
        f"the environments name {len(named)} registries: {', '.join(sorted(named))}"
        if named
        else "no registry is chosen",
        fix="choose one: --registry HOST/PATH, or export DATAKIT_REGISTRY=HOST/PATH",
    )


@contextmanager
def open_chosen(
    address: str | None, user: str | None, password_file: Path | None, ca_file: Path | None
) -> Iterator[Registry]:
    """Open the registry that the options choose; where it cannot be reached, say who named it."""
    from datakit.release.registry import open_registry

    chosen, environments = registry_address(address)
    try:
        with open_registry(chosen, user=user, password_file=password_file, ca_file=ca_file) as opened:
            yield opened
    except RegistryUnavailable as error:
        if environments and error.subject == chosen.partition("/")[0]:  # of the host, not of an image in it
            s = "s" if environments[1:] else ""
            whose = f"environment{s} {', '.join(environments)}"
            error.cause = error.cause or f"{chosen} comes from the tree's {whose}, and nothing else chose one"
            error.fix = f"{error.fix}; for another registry: --registry HOST/PATH, or export DATAKIT_REGISTRY=HOST/PATH"
        raise


def split_release(text: str) -> tuple[str, str]:
    """Return name and version of ``NAME@VERSION``.

    :raises ConfigurationError: it is something else.
    """
    name, at, version = text.partition("@")
    if not (name and at and version):
        raise ConfigurationError(f"{text!r} is not a release", fix="write NAME@VERSION, such as airline-source@1.2.3")
    return name, version.removeprefix("v")


def find_release(registry: Registry, text: str) -> Release:
    """Return the release ``NAME@VERSION``.

    :raises UnknownName: that version was never released; names those that were.
    """
    from datakit.release.semver import SemVer

    name, version = split_release(text)
    release = registry.release(name, version)
    if release is not None:
        return release
    where = registry.image(f"datakits/{name}")
    versions = [str(found) for tag in registry.tags(f"datakits/{name}") if (found := SemVer.of_tag(tag)) is not None]
    if not versions:
        raise UnknownName(
            f"nothing was released as {name} yet",
            subject=where,
            fix=f"check the name and the registry; or release it: datakit release {name}",
        )
    raise UnknownName.of(f"release of {name} called", version, versions, where=where)


def megabytes(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"
