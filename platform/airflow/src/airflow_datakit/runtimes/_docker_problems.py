"""What the Docker engine and registries say, in words that name the next step. Permissions are never widened here."""

from __future__ import annotations

import os
import stat
from http import HTTPStatus
from pathlib import Path

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from datakit.errors import AccessDenied, ConfigurationError, DatakitError, TemporaryError
from docker.errors import APIError

from airflow_datakit.runtimes._registry_words import certificate_of_another, is_denied, is_missing, is_untrusted


def check_socket(url: str) -> None:
    """Look at the engine's socket before anybody connects to it.

    :raises TemporaryError: nobody listens there.
    :raises AccessDenied: this user may not connect.
    """
    if not url.startswith("unix://"):
        return
    path = Path("/" + url.removeprefix("unix://").lstrip("/"))
    try:
        mode = path.stat()
    except FileNotFoundError:
        raise TemporaryError(
            "there is no Docker engine",
            subject=str(path),
            cause="the engine does not run, or its socket is not mounted into this worker",
            fix="start it (systemctl start docker), or set docker.url in the environment",
        ) from None
    except PermissionError:
        raise _denied(path, "this user may not enter its folder") from None
    if not stat.S_ISSOCK(mode.st_mode):
        raise ConfigurationError("this is no socket", subject=str(path), fix="set docker.url in the environment")
    if not os.access(path, os.R_OK | os.W_OK):
        raise _denied(path, f"uid {os.geteuid()} is neither its owner ({mode.st_uid}) nor in its group ({mode.st_gid})")


def of_connection(error: Exception, url: str, connection: str | None) -> DatakitError:
    """Return why Airflow's hook gives no client."""
    if isinstance(error, AirflowNotFoundException):
        return ConfigurationError(
            str(error),
            subject=f"docker.connection {connection}",
            cause="Airflow has no connection of that name, or it lacks the registry's host or login",
            fix="make it in Airflow's connections or the vault, of type Docker, with host, login and password",
        )
    return TemporaryError(
        f"no Docker engine answers: {error}",
        subject=url,
        cause="the engine is away, its address is another one, or its certificate is not trusted",
        fix="docker info, from the worker, says whether it answers; else correct docker.url in the environment",
    )


def of(error: Exception, image: str, url: object) -> DatakitError:
    """Return what went wrong with the engine, the image or the network."""
    text = str(getattr(error, "explanation", None) or error)
    lowered = text.lower()
    if "network" in lowered and "not found" in lowered:
        return ConfigurationError(
            text.rstrip("."),
            subject="Docker network",
            cause="the network that the environment names was not made on this engine",
            fix="docker network create NAME, or correct docker.network in the environment",
        )
    if "no such image" in lowered or "pull" in lowered or "manifest" in lowered or "registry" in lowered:
        return of_pull(text, image)
    if "permission denied" in lowered:
        return AccessDenied(
            f"the Docker engine refuses this user: {text}",
            subject=str(url),
            fix="let the platform team add the worker's user to the group that owns the socket",
        )
    if getattr(error, "status_code", None) == HTTPStatus.BAD_REQUEST:
        return ConfigurationError(
            f"the Docker engine refuses the container: {text}",
            subject=str(url),
            cause="the environment asks for what this engine cannot give: processors, memory, a mount, a network",
            fix="compare the section docker and the resources of the environment with the message",
        )
    return TemporaryError(
        f"the Docker engine failed: {text}",
        subject=str(url),
        cause="it is being restarted, is out of disk, or was asked for something that it does not know",
        fix="docker info, and the engine's own log, say more",
    )


def of_login(text: str, image: str) -> DatakitError:
    """Return why the registry did not take the login of ``docker.connection``."""
    if is_untrusted(text) or not is_denied(text):
        return of_pull(text, image)
    return AccessDenied(
        f"the registry refuses the login: {text}",
        subject=image.partition("/")[0],
        cause="login or password in the Airflow connection that docker.connection names is wrong or has expired",
        fix="correct it where it is kept, in Airflow's connections or the vault",
    )


def keeps_no_log(error: APIError) -> bool:
    """Whether the engine was told to keep nothing of what containers write."""
    return "does not support reading" in str(error.explanation or error)


def not_built(image: str) -> DatakitError:
    """Return what to say where images are not pulled and this one is not there."""
    return ConfigurationError(
        "this engine does not have the image, and the environment pulls none (docker.pull: never)",
        subject=image,
        cause="it was not built on the engine's machine, or was built of another version or prefix",
        fix="build it there, or let it be pulled: docker.pull: missing",
    )


def of_pull(text: str, image: str) -> DatakitError:
    """Return what went wrong with a pull, by what registries and engines say."""
    registry = image.partition("/")[0]
    if is_untrusted(text):
        return certificate_of_another(text, registry) or ConfigurationError(
            f"the engine does not trust the registry's certificate: {text}",
            subject=registry,
            cause="it was signed by the company's own authority, which this engine was not told of",
            fix=f"put the authority's certificate into /etc/docker/certs.d/{registry}/ca.crt on the engine's machine",
        )
    if is_denied(text):
        return AccessDenied(
            f"the registry does not let this engine pull the image: {text}",
            subject=image,
            cause="nobody is logged in, the login is wrong, the image is in another project, or it is not there at all",
            fix="set docker.connection in the environment to an Airflow connection with the registry's login",
        )
    if is_missing(text):
        return ConfigurationError(
            f"the registry does not have the image: {text}",
            subject=image,
            cause="that version was never released to this registry, or the lock's digest is another registry's",
            fix="compare registry, version and digest with what the registry lists",
        )
    return TemporaryError(
        f"the image cannot be pulled: {text}",
        subject=image,
        cause="the registry is away, or this engine cannot reach it",
        fix=f"docker pull {image}, on the engine's machine, says whether it is back",
    )


def _denied(path: Path, why: str) -> AccessDenied:
    return AccessDenied(
        "this worker may not use the Docker engine",
        subject=str(path),
        cause=why,
        fix="let the platform team add the worker's user to the socket's group; leave the socket's mode alone",
    )
