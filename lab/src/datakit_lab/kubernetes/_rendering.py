"""One container of a pod, in the words of the Docker engine."""

from __future__ import annotations

import re
from typing import Any, Final

from datakit_lab.kubernetes._errors import ApiError
from datakit_lab.kubernetes._fields import pod_field
from datakit_lab.kubernetes._quantities import quantity
from datakit_lab.kubernetes._store import Store, object_data

Json = dict[str, Any]

_PERIOD: Final = 100_000  # microseconds
_LEAST_SHARES: Final = 2
_REFERENCE: Final = re.compile(r"\$\$|\$\((?P<name>[A-Za-z_][A-Za-z0-9_.-]*)\)")


class ConfigError(Exception):
    """The container cannot be made of what the pod and its objects say; the kubelet tries again."""


def container_body(pod: Json, container: Json, image: Json, mounts: list[Json], store: Store, network: str) -> Json:
    """Return the body of ``POST /containers/create``.

    :param image: what the engine knows of the container's image.
    :raises ConfigError: a referenced object or key is missing, or the user may not be what it is.
    """
    environment = _environment(pod, container, store)
    settings: Json = image.get("Config") or {}
    values = dict(pair.split("=", 1) for pair in settings.get("Env") or [] if "=" in pair) | environment
    body: Json = {
        "Image": image["Id"],
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Tty": bool(container.get("tty")),
        "OpenStdin": bool(container.get("stdin")),
        "StdinOnce": bool(container.get("stdinOnce")),
        "HostConfig": {
            "Mounts": mounts,
            "NetworkMode": network,
            "LogConfig": {"Type": "json-file", "Config": {}},
            **_security(pod, container),
            **_limits(container.get("resources") or {}),
        },
    }
    if container.get("command"):
        body["Entrypoint"] = [_expanded(part, values) for part in container["command"]]
        body["Cmd"] = []
    if container.get("args"):
        body["Cmd"] = [_expanded(part, values) for part in container["args"]]
    if container.get("workingDir"):
        body["WorkingDir"] = container["workingDir"]
    user = _user(pod, container, str(settings.get("User") or ""))
    if user:
        body["User"] = user
    return body


def _user(pod: Json, container: Json, of_image: str) -> str:
    """Return ``uid[:gid]``, or nothing to leave the image's.

    :raises ConfigError: it is root, or cannot be known, and ``runAsNonRoot`` is set.
    """
    both = {**(pod["spec"].get("securityContext") or {}), **(container.get("securityContext") or {})}
    uid, gid = both.get("runAsUser"), both.get("runAsGroup")
    if both.get("runAsNonRoot"):
        where = f'(pod: "{pod["metadata"]["name"]}", container: {container["name"]})'
        named = of_image.partition(":")[0]
        if uid == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy {where}")
        if uid is None and named in {"", "0", "root"}:
            raise ConfigError(f"container has runAsNonRoot and image will run as root {where}")
        if uid is None and not named.isdecimal():
            what = f"image has non-numeric user ({named}), cannot verify user is non-root"
            raise ConfigError(f"container has runAsNonRoot and {what} {where}")
    if uid is None and gid is None:
        return ""
    first = str(uid) if uid is not None else of_image.partition(":")[0] or "0"
    return f"{first}:{gid if gid is not None else 0}"


def _security(pod: Json, container: Json) -> Json:
    of_pod = pod["spec"].get("securityContext") or {}
    of_container = container.get("securityContext") or {}
    capabilities = of_container.get("capabilities") or {}
    groups = [*(of_pod.get("supplementalGroups") or []), *([of_pod["fsGroup"]] if "fsGroup" in of_pod else [])]
    options = []
    if of_container.get("allowPrivilegeEscalation") is False:
        options.append("no-new-privileges")
    profile = (of_container.get("seccompProfile") or of_pod.get("seccompProfile") or {}).get("type", "Unconfined")
    if profile != "RuntimeDefault":  # without a word, Docker confines and Kubernetes does not
        options.append("seccomp=unconfined")
    return {
        "ReadonlyRootfs": bool(of_container.get("readOnlyRootFilesystem")),
        "Privileged": bool(of_container.get("privileged")),
        "CapDrop": capabilities.get("drop") or [],
        "CapAdd": capabilities.get("add") or [],
        "GroupAdd": [str(group) for group in groups],
        "SecurityOpt": options,
    }


def _limits(resources: Json) -> Json:
    """Return limits; by quota, because Docker refuses more processors than the machine has, and a node does not."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    found: Json = {}
    if "memory" in limits:
        found["Memory"] = found["MemorySwap"] = int(quantity(limits["memory"]))
    if "cpu" in limits:
        found |= {"CpuPeriod": _PERIOD, "CpuQuota": max(1000, int(quantity(limits["cpu"]) * _PERIOD))}
    if "cpu" in requests:
        found["CpuShares"] = max(_LEAST_SHARES, int(quantity(requests["cpu"]) * 1024))
    return found


def _environment(pod: Json, container: Json, store: Store) -> dict[str, str]:
    found: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        prefix = source.get("prefix", "")
        for resource, reference in (("configmaps", source.get("configMapRef")), ("secrets", source.get("secretRef"))):
            if reference is not None:
                entries = _entries(pod, resource, reference, store)
                found |= {f"{prefix}{key}": value.decode() for key, value in (entries or {}).items()}
    for variable in container.get("env") or []:
        value = _value(pod, container, variable, found, store)
        if value is not None:
            found[variable["name"]] = value
    return found


def _value(pod: Json, container: Json, variable: Json, known: dict[str, str], store: Store) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return _expanded(str(variable.get("value") or ""), known)
    if "fieldRef" in source:
        try:
            return pod_field(pod, source["fieldRef"]["fieldPath"])
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if "resourceFieldRef" in source:
        return _resource_field(container, source["resourceFieldRef"]["resource"])
    resource, reference = (
        ("secrets", source["secretKeyRef"]) if "secretKeyRef" in source else ("configmaps", source["configMapKeyRef"])
    )
    entries = _entries(pod, resource, reference, store)
    if entries is None:
        return None
    if reference["key"] not in entries:
        if reference.get("optional"):
            return None
        kind = "Secret" if resource == "secrets" else "ConfigMap"
        where = f"{pod['metadata']['namespace']}/{reference['name']}"
        raise ConfigError(f"couldn't find key {reference['key']} in {kind} {where}")
    return entries[reference["key"]].decode()


def _entries(pod: Json, resource: str, reference: Json, store: Store) -> dict[str, bytes] | None:
    try:
        return object_data(store.get(resource, pod["metadata"]["namespace"], reference["name"]))
    except ApiError as error:
        if reference.get("optional"):
            return None
        raise ConfigError(error.message.replace("secrets", "secret").replace("configmaps", "configmap")) from None


def _resource_field(container: Json, path: str) -> str:
    group, _, name = path.partition(".")
    amount = ((container.get("resources") or {}).get(group) or {}).get(name, 0)
    return str(int(quantity(amount).to_integral_value(rounding="ROUND_CEILING")))


def _expanded(text: str, values: dict[str, str]) -> str:
    """Replace ``$(NAME)`` where the name is known; ``$$`` is a dollar."""

    def replace(match: re.Match[str]) -> str:
        return "$" if match["name"] is None else values.get(match["name"], match[0])

    return _REFERENCE.sub(replace, text)
