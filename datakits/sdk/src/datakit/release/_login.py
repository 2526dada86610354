"""Who logs in to a registry: a name and a password file, or what ``docker login`` has left on this machine."""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datakit.credentials.secrets import Secret
from datakit.errors import ConfigurationError, RegistryDenied, SecretUnavailable

_HELPER_SECONDS: Final = 30
_NOBODY_KNOWN: Final = "credentials not found"
"""What a helper says if it has none for that registry (https://github.com/docker/docker-credential-helpers)."""
_HUB: Final = "https://index.docker.io/v1/"


@dataclass(frozen=True, slots=True)
class Login:
    """A name and its password, or an identity token.

    :ivar origin: where it was found, for errors.
    :ivar user: empty for an identity token.
    """

    user: str
    password: Secret[str]
    origin: str

    @property
    def is_identity_token(self) -> bool:
        """Whether the password is a refresh token, which only a token server takes."""
        return not self.user


def find_login(host: str, *, user: str | None = None, password_file: Path | None = None) -> Login | None:
    """Return the login for a registry, read now; None if there is none, which is an anonymous reader.

    With ``user`` and ``password_file``, these; else ``DATAKIT_REGISTRY_USER`` and ``DATAKIT_REGISTRY_PASSWORD_FILE``
    (a file that the sidecar publishes, say); else Docker's ``config.json``, with its credential helpers.

    :raises ConfigurationError: only one of the two is given, or Docker's file is malformed.
    :raises SecretUnavailable: the password's file is not readable, or is empty.
    :raises RegistryDenied: a credential helper is missing or fails.
    """
    user = user or os.environ.get("DATAKIT_REGISTRY_USER") or None
    named = os.environ.get("DATAKIT_REGISTRY_PASSWORD_FILE")
    password_file = password_file or (Path(named) if named else None)
    if (user is None) != (password_file is None):
        raise ConfigurationError(
            "a name without a password file, or a password file without a name",
            subject=host,
            fix="give both: --username and --password-file, or the variables of the same meaning",
        )
    if user is not None and password_file is not None:
        return Login(user, _read_password(password_file), str(password_file))
    return _of_docker(host)


def _read_password(path: Path) -> Secret[str]:
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SecretUnavailable(
            f"the registry's password cannot be read: {reason}",
            subject=str(path),
            fix="write the password, and nothing else, into that file; let only this account read it",
        ) from None
    if not text:
        raise SecretUnavailable("the file of the registry's password is empty", subject=str(path))
    return Secret(text)


def _of_docker(host: str) -> Login | None:
    path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    config = _read_config(path)
    helper = _mapping(config, "credHelpers", path).get(host) or config.get("credsStore")
    if isinstance(helper, str) and helper:
        for server in _spellings(host):
            if (found := _ask_helper(helper, server)) is not None:
                return found
    entries = _mapping(config, "auths", path)
    entry = next((entries[server] for server in _spellings(host) if server in entries), None)
    if not isinstance(entry, dict):
        return None
    if isinstance(token := entry.get("identitytoken"), str) and token:
        return Login("", Secret(token), str(path))
    if isinstance(encoded := entry.get("auth"), str) and encoded:
        return _decode(encoded, host, path)
    return None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(
            f"Docker's configuration cannot be read: {error.strerror}", subject=str(path), fix="correct its mode"
        ) from None
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ConfigurationError(
            "Docker's configuration is not a JSON object", subject=str(path), fix="write it anew with docker login"
        )
    return config


def _mapping(config: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigurationError(f"{key} is no mapping in Docker's configuration", subject=str(path))
    return value


def _spellings(host: str) -> tuple[str, ...]:
    """Return how ``docker login`` may have written a registry's name down."""
    plain = (host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/", f"http://{host}")
    return (_HUB, *plain) if host in ("docker.io", "registry-1.docker.io", "index.docker.io") else plain


def _decode(encoded: str, host: str, path: Path) -> Login:
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        user, colon, password = "", "", ""
    if not (user and colon):
        raise ConfigurationError(
            f"the login for {host} in Docker's configuration is malformed",
            subject=str(path),
            fix=f"docker login {host}",
        )
    return Login(user, Secret(password), str(path))


def _ask_helper(helper: str, server: str) -> Login | None:
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=server.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except FileNotFoundError:
        raise RegistryDenied(
            f"Docker's configuration names a credential helper that is not installed: {program}",
            subject=server,
            fix=f"install {program}, or give --username and --password-file",
        ) from None
    except subprocess.TimeoutExpired:
        raise RegistryDenied(
            f"the credential helper {program} did not answer within {_HELPER_SECONDS} s",
            subject=server,
            cause="it waits for a person",
            fix="unlock its store, or give --username and --password-file",
        ) from None
    if done.returncode:
        if _NOBODY_KNOWN in done.stdout.decode(errors="replace").lower():
            return None
        raise RegistryDenied(  # what it printed is kept back: nobody promises that it holds no secret
            f"the credential helper {program} failed with code {done.returncode}",
            subject=server,
            fix=f"see what it says: echo {server} | {program} get",
        )
    try:
        said = json.loads(done.stdout)
        user, password = str(said["Username"]), str(said["Secret"])
    except (ValueError, KeyError, TypeError):
        raise RegistryDenied(f"the credential helper {program} answered with no login", subject=server) from None
    return Login("" if user == "<token>" else user, Secret(password), program)
