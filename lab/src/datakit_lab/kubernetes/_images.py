"""Getting images to the node: pull policies, pull secrets, and what goes wrong with them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from datakit_lab.docker import Engine, EngineRefused
from datakit_lab.kubernetes._errors import ApiError
from datakit_lab.kubernetes._store import Store

Json = dict[str, Any]
Tell = Callable[[str, str, str], None]

_HUB: Final = "docker.io"
_HUB_KEYS: Final = ("https://index.docker.io/v1/", "index.docker.io", _HUB)


class ImagePullError(Exception):
    """An image is not to be had now.

    :ivar reason: ErrImagePull, ErrImageNeverPull or InvalidImageName.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Images:
    """The images of the one node.

    An image that was pulled here with a login is not given to a pod that has none, as kubelets since 1.35 do it
    (``imagePullCredentialsVerificationPolicy: NeverVerifyPreloadedImages``): such a pod pulls again, and is refused.
    """

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store
        self._lock = threading.Lock()
        self._pulled_with: dict[tuple[str, str], set[str]] = {}  # by repository and image

    def ensure(self, pod: Json, container: Json, tell: Tell) -> Json:
        """Return what the engine knows of a container's image, pulled first if the policy says so.

        :param tell: takes an event: its type, reason and message.
        :raises ImagePullError: it is not to be had.
        """
        name, policy = container["image"], container["imagePullPolicy"]
        if any(character.isupper() for character in _repository(name).removeprefix(registry_of(name))):
            message = (
                f'Failed to apply default image tag "{name}": couldn\'t parse image name: invalid reference format'
            )
            raise ImagePullError("InvalidImageName", message)
        logins = self._logins(pod, name, tell)
        present = self._engine.image(name)
        if present is not None and policy != "Always" and self._may_reuse(name, present["Id"], logins):
            tell("Normal", "Pulled", f'Container image "{name}" already present on machine')
            return present
        if policy == "Never":
            raise ImagePullError(
                "ErrImageNeverPull", f'Container image "{name}" is not present with pull policy of Never'
            )
        tell("Normal", "Pulling", f'Pulling image "{name}"')
        return self._pull(name, logins, tell, known=present is not None)

    def _pull(self, name: str, logins: list[dict[str, str]], tell: Tell, *, known: bool) -> Json:
        refused = "no login was tried"
        tries: list[dict[str, str] | None] = [*logins] or [None]
        for login in tries:
            try:
                if known:  # the engine would not ask the registry for a digest that it has
                    self._engine.ask_registry(name, login)
                self._engine.pull(name, login)
            except EngineRefused as error:
                refused = error.message
                continue
            pulled = self._engine.image(name)
            if pulled is None:
                raise ImagePullError("ErrImagePull", f"the engine pulled {name} and has no image of that name")
            with self._lock:
                self._pulled_with.setdefault((_repository(name), pulled["Id"]), set()).add(_digest(login))
            tell("Normal", "Pulled", f'Successfully pulled image "{name}"')
            return pulled
        message = f'failed to pull and unpack image "{name}": {refused}'
        tell("Warning", "Failed", f'Failed to pull image "{name}": {message}')
        tell("Warning", "Failed", "Error: ErrImagePull")
        raise ImagePullError("ErrImagePull", message)

    def _may_reuse(self, name: str, image: str, logins: list[dict[str, str]]) -> bool:
        with self._lock:
            known = self._pulled_with.get((_repository(name), image))
        return known is None or _digest(None) in known or any(_digest(login) in known for login in logins)

    def _logins(self, pod: Json, image: str, tell: Tell) -> list[dict[str, str]]:
        """Return the logins for the image's registry, of the pod's pull secrets and its service account's."""
        namespace, spec = pod["metadata"]["namespace"], pod["spec"]
        account = spec["serviceAccountName"]
        names = [each["name"] for each in spec.get("imagePullSecrets") or []]
        if not names and self._store.has("serviceaccounts", namespace, account):
            kept = self._store.get("serviceaccounts", namespace, account)
            names = [each["name"] for each in kept.get("imagePullSecrets") or []]
        found: list[dict[str, str]] = []
        missing = []
        for name in names:
            try:
                secret = self._store.get("secrets", namespace, name)
            except ApiError as error:
                if error.code != HTTPStatus.NOT_FOUND:
                    raise
                missing.append(name)
                continue
            found += _of_registry(secret, registry_of(image))
        if missing:
            said = (
                f"Unable to retrieve some image pull secrets ({', '.join(missing)}); attempting to pull the image "
                "may not succeed."
            )
            tell("Warning", "FailedToRetrieveImagePullSecret", said)
        return found


def registry_of(image: str) -> str:
    """Return the registry that an image's name stands for.

    >>> registry_of("localhost:5000/a:1"), registry_of("debian"), registry_of("apache/airflow:3")
    ('localhost:5000', 'docker.io', 'docker.io')
    """
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else _HUB


def _repository(image: str) -> str:
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def _of_registry(secret: Json, registry: str) -> list[dict[str, str]]:
    """Return the logins that a ``kubernetes.io/dockerconfigjson`` Secret holds for a registry."""
    packed = (secret.get("data") or {}).get(".dockerconfigjson")
    if packed is None:
        return []
    try:
        entries = json.loads(base64.b64decode(packed))["auths"]
    except (ValueError, KeyError):
        return []  # the kubelet ignores a secret that it cannot read, and the registry will say no
    keys = _HUB_KEYS if registry == _HUB else (registry, f"https://{registry}", f"http://{registry}")
    return [_login(entries[key], registry) for key in keys if key in entries]


def _login(entry: Json, registry: str) -> dict[str, str]:
    if "auth" in entry and "username" not in entry:
        try:
            username, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            username = password = ""
    else:
        username, password = entry.get("username", ""), entry.get("password", "")
    return {"username": username, "password": password, "serveraddress": registry}


def _digest(login: dict[str, str] | None) -> str:
    """Tell logins apart without keeping them."""
    return hashlib.sha256(json.dumps(login, sort_keys=True).encode()).hexdigest()
