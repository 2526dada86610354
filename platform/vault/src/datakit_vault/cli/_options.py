"""The options that every command has: where the vault is and who asks it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, ParamSpec, cast

import typer

from datakit_vault._settings import Kind, VaultSettings
from datakit_vault.errors import InvalidSettings

Json = Annotated[bool, typer.Option("--json", help="For scripts: JSON on stdout, errors as one line of JSON.")]
SecretReference = Annotated[str, typer.Argument(help="Id (42) or full path (/Folder/Name).")]

_P = ParamSpec("_P")


class VaultKind(StrEnum):
    """Which of Delinea's vaults it is."""

    SECRET_SERVER = "secret-server"  # noqa: S105  # the name of a product
    PLATFORM = "platform"


def _option(name: str, text: str) -> Any:
    return typer.Option(f"--{name}", envvar=f"DATAKIT_VAULT_{name.replace('-', '_').upper()}", help=text)


def _settings(
    kind: Annotated[VaultKind | None, _option("kind", "Which vault it is.")] = None,
    url: Annotated[str | None, _option("url", "Its URL, with the base path.")] = None,
    credentials: Annotated[
        Path | None,
        _option("credentials", "Folder with username and password, or client_id and client_secret."),
    ] = None,
    domain: Annotated[str | None, _option("domain", "Active Directory domain of the user.")] = None,
    ca_file: Annotated[Path | None, _option("ca-file", "PEM file of the authorities to trust.")] = None,
    proxy: Annotated[str | None, _option("proxy", "http://host:port")] = None,
    timeout: Annotated[float, _option("timeout", "Seconds for one request.")] = 10.0,
    comment: Annotated[str | None, _option("comment", "The reason to give where one is wanted.")] = None,
    checkout: Annotated[bool, _option("checkout", "Check secrets out where that is needed.")] = False,
    allow_http: Annotated[bool, _option("allow-http", "Permit http://; everybody on the way can then read.")] = False,
) -> VaultSettings:
    needed = {"kind": kind, "url": url, "credentials": credentials}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise InvalidSettings(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set",
            cause="neither the option nor the environment variable is there",
            fix="; ".join(f"--{name} or DATAKIT_VAULT_{name.upper()}" for name in missing),
        )
    return VaultSettings(
        kind=cast("Kind", str(kind)),
        url=cast("str", url),
        credentials=cast("Path", credentials),
        domain=domain,
        ca_file=ca_file,
        proxy=proxy,
        timeout=timeout,
        comment=comment,
        checkout=checkout,
        allow_http=allow_http,
    )


_OPTIONS: Final = inspect.signature(_settings, eval_str=True).parameters


def with_settings(command: Callable[_P, None]) -> Callable[..., None]:
    """Give a command, whose last parameter is ``settings``, the options that make them."""
    own = inspect.signature(command, eval_str=True)
    parameters = [each for name, each in own.parameters.items() if name != "settings"]

    @functools.wraps(command)
    def with_options(*positional: Any, **arguments: Any) -> None:
        chosen = {name: arguments.pop(name) for name in _OPTIONS}
        command(*positional, **arguments, settings=_settings(**chosen))  # type: ignore[arg-type]

    merged = own.replace(parameters=[*parameters, *_OPTIONS.values()])
    with_options.__signature__ = merged  # type: ignore[attr-defined]  # what Typer reads
    with_options.__annotations__ = {name: each.annotation for name, each in merged.parameters.items()}
    return with_options
