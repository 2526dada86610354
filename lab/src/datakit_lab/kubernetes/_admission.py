"""What the API server does with a pod before it keeps it: checks, and defaults filled in.

A field that the double does not model is refused, never ignored; those that only choose a node are accepted, because
there is one node, which takes every pod.
"""

from __future__ import annotations

import importlib.util
import re
import secrets
from collections.abc import Iterator
from typing import Any, Final

from datakit_lab.kubernetes._errors import bad_request, forbidden, invalid, not_found, not_modelled
from datakit_lab.kubernetes._quantities import quantity
from datakit_lab.kubernetes._store import Store

Json = dict[str, Any]

_NAME: Final = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_CONTAINER_NAME: Final = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_LABEL_VALUE: Final = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_LABEL_KEY: Final = re.compile(r"^([a-z0-9][-a-z0-9.]*[a-z0-9]/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
_MOST_NAME: Final = 253
_SUBDOMAIN_RULE: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character"
)
_LABEL_RULE: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character"
)
_QUANTITIES: Final = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"
_MOST_LABEL: Final = 63

_POD_FIELDS: Final = frozenset(
    {
        "activeDeadlineSeconds", "affinity", "automountServiceAccountToken", "containers", "dnsPolicy",
        "enableServiceLinks", "hostNetwork", "imagePullSecrets", "initContainers", "nodeSelector", "preemptionPolicy",
        "priority", "priorityClassName", "restartPolicy", "runtimeClassName", "schedulerName", "securityContext",
        "serviceAccount", "serviceAccountName", "terminationGracePeriodSeconds", "tolerations",
        "topologySpreadConstraints", "volumes",
    }
)  # fmt: skip
_CONTAINER_FIELDS: Final = frozenset(
    {
        "args", "command", "env", "envFrom", "image", "imagePullPolicy", "lifecycle", "livenessProbe", "name", "ports",
        "readinessProbe", "resources", "restartPolicy", "securityContext", "startupProbe", "stdin", "stdinOnce",
        "terminationMessagePath", "terminationMessagePolicy", "tty", "volumeMounts", "workingDir",
    }
)  # fmt: skip
_VOLUME_SOURCES: Final = frozenset(
    {"emptyDir", "secret", "configMap", "projected", "downwardAPI", "hostPath", "persistentVolumeClaim"}
)
_PROBES: Final = ("startupProbe", "livenessProbe", "readinessProbe")
_PROBE_DEFAULTS: Final = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}


def admit(given: Any, namespace: str, store: Store) -> Json:
    """Return the pod that the double keeps: checked, and with the API server's defaults.

    :raises ApiError: it is refused; the words are the API server's.
    """
    if not isinstance(given, dict) or given.get("kind", "Pod") != "Pod":
        raise bad_request("the object provided is no Pod")
    pod: Json = {**given, "metadata": dict(given.get("metadata") or {}), "spec": dict(given.get("spec") or {})}
    metadata, spec = pod["metadata"], pod["spec"]
    if metadata.setdefault("namespace", namespace) != namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if not metadata.get("name"):
        metadata["name"] = f"{metadata.get('generateName', '')}{secrets.token_hex(3)[:5]}"
    _check_schema(pod)
    if not store.has("namespaces", "", namespace):
        raise not_found("namespaces", namespace)
    if causes := list(_causes(pod)):
        raise invalid("Pod", metadata["name"], causes)
    _refuse_what_is_not_modelled(spec)
    _fill_in(spec)
    account = spec["serviceAccountName"]
    if not store.has("serviceaccounts", namespace, account):
        why = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise forbidden("pods", metadata["name"], why)
    _mount_the_token(spec, store.get("serviceaccounts", namespace, account))
    pod["status"] = {"phase": "Pending", "qosClass": _quality(spec)}
    return pod


def _check_schema(pod: Json) -> None:
    """Hold the pod against the official schema, if ``kubernetes-validate`` is installed."""
    if importlib.util.find_spec("kubernetes_validate") is None:
        return
    import kubernetes_validate

    checked = {"apiVersion": "v1", "kind": "Pod", **pod}
    checked.pop("status", None)
    try:
        kubernetes_validate.validate(checked, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        where = ".".join(map(str, error.path))
        raise bad_request(
            f'Pod in version "v1" cannot be handled as a Pod: strict decoding error: {where}: {error.message}'
        ) from None


def _causes(pod: Json) -> Iterator[tuple[str, str]]:
    metadata, spec = pod["metadata"], pod["spec"]
    if not _NAME.match(metadata["name"]) or len(metadata["name"]) > _MOST_NAME:
        yield "metadata.name", f'Invalid value: "{metadata["name"]}": {_SUBDOMAIN_RULE}'
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_KEY.match(key):
            yield "metadata.labels", f'Invalid value: "{key}": name part must consist of alphanumeric characters'
        if not isinstance(value, str) or not _LABEL_VALUE.match(value):
            yield "metadata.labels", f'Invalid value: "{value}": {_LABEL_RULE}'
        elif len(value) > _MOST_LABEL:
            yield "metadata.labels", f'Invalid value: "{value}": must be no more than {_MOST_LABEL} bytes'
    if not spec.get("containers"):
        yield "spec.containers", "Required value"
    if spec.get("restartPolicy") not in {None, "Always", "OnFailure", "Never"}:
        yield "spec.restartPolicy", f'Unsupported value: "{spec["restartPolicy"]}"'
    volumes = {volume.get("name") for volume in spec.get("volumes") or []}
    names: set[str] = set()
    for group in ("initContainers", "containers"):
        for position, container in enumerate(spec.get(group) or []):
            where = f"spec.{group}[{position}]"
            yield from _container_causes(where, group, container, volumes)
            name = container.get("name")
            if name in names:
                yield f"{where}.name", f'Duplicate value: "{name}"'
            names.add(name)


def _container_causes(where: str, group: str, container: Json, volumes: set[Any]) -> Iterator[tuple[str, str]]:
    if not container.get("name"):
        yield f"{where}.name", "Required value"
    elif not _CONTAINER_NAME.match(container["name"]) or len(container["name"]) > _MOST_LABEL:
        yield f"{where}.name", f'Invalid value: "{container["name"]}": a lowercase RFC 1123 label is needed'
    if not container.get("image"):
        yield f"{where}.image", "Required value"
    policy = container.get("restartPolicy")
    if policy is not None and (group == "containers" or policy != "Always"):
        yield f"{where}.restartPolicy", f'Unsupported value: "{policy}": only a native sidecar, Always, is supported'
    if group == "initContainers" and policy != "Always":
        for probe in _PROBES:
            if container.get(probe):
                yield f"{where}.{probe}", "Forbidden: may not be set for init containers without restartPolicy=Always"
    for position, mount in enumerate(container.get("volumeMounts") or []):
        if mount.get("name") not in volumes:
            yield f"{where}.volumeMounts[{position}].name", f'Not found: "{mount.get("name")}"'
    yield from _resource_causes(where, container.get("resources") or {})


def _resource_causes(where: str, resources: Json) -> Iterator[tuple[str, str]]:
    amounts: dict[tuple[str, str], Any] = {}
    for group in ("limits", "requests"):
        for name, text in (resources.get(group) or {}).items():
            try:
                amounts[group, name] = quantity(text)
            except ValueError:
                said = f'Invalid value: "{text}": quantities must match the regular expression {_QUANTITIES!r}'
                yield f"{where}.resources.{group}[{name}]", said
    for (group, name), amount in amounts.items():
        limit = amounts.get(("limits", name))
        if group == "requests" and limit is not None and amount > limit:
            text = resources["requests"][name]
            yield f"{where}.resources.requests", f'Invalid value: "{text}": must be less than or equal to {name} limit'


def _refuse_what_is_not_modelled(spec: Json) -> None:
    for field, value in spec.items():
        if field not in _POD_FIELDS and value not in (None, False, [], {}):
            raise not_modelled(f"spec.{field}")
    for volume in spec.get("volumes") or []:
        _refuse_volume(volume)
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        _refuse_container(container)


def _refuse_volume(volume: Json) -> None:
    for source in set(volume) - {"name"} - _VOLUME_SOURCES:
        raise not_modelled(f"volumes of the kind {source}")
    for source in [volume, *((volume.get("projected") or {}).get("sources") or [])]:
        if any("fieldRef" not in item for item in (source.get("downwardAPI") or {}).get("items") or []):
            raise not_modelled("resource fields in a volume of the downward API")


def _refuse_container(container: Json) -> None:
    for field, value in container.items():
        if field not in _CONTAINER_FIELDS and value not in (None, False, [], {}):
            raise not_modelled(f"the field {field} of a container")
    for mount in container.get("volumeMounts") or []:
        if mount.get("subPath") or mount.get("subPathExpr"):
            raise not_modelled("subPath of a volume mount")
    for probe in _PROBES:
        if (container.get(probe) or {}).get("grpc"):
            raise not_modelled("probes by gRPC")


def _fill_in(spec: Json) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("enableServiceLinks", True)
    account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = account
    for group in ("initContainers", "containers"):
        if spec.get(group):
            spec[group] = [_filled_container(container) for container in spec[group]]


def _filled_container(given: Json) -> Json:
    container = {
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        **given,
    }
    last = container["image"].rpartition("/")[2]
    moves = "@" not in container["image"] and (":" not in last or last.endswith(":latest"))
    container.setdefault("imagePullPolicy", "Always" if moves else "IfNotPresent")
    for probe in _PROBES:
        if container.get(probe):
            container[probe] = {**_PROBE_DEFAULTS, **container[probe]}
    requests = {**(container["resources"].get("limits") or {}), **(container["resources"].get("requests") or {})}
    if requests:  # what is only limited is requested too
        container["resources"] = {**container["resources"], "requests": requests}
    return container


def _mount_the_token(spec: Json, account: Json) -> None:
    """Mount the service account's token as a real cluster does, unless the pod or the account declines it."""
    wants = spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
    if wants is False:
        return
    name = f"kube-api-access-{secrets.token_hex(3)[:5]}"
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    spec["volumes"] = [*(spec.get("volumes") or []), {"name": name, "projected": {"sources": sources}}]
    mount = {"name": name, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}
    for group in ("initContainers", "containers"):
        for container in spec.get(group) or []:
            container["volumeMounts"] = [*(container.get("volumeMounts") or []), mount]


def _quality(spec: Json) -> str:
    every = [container["resources"] for container in [*(spec.get("initContainers") or []), *spec["containers"]]]
    if not any(each.get("requests") or each.get("limits") for each in every):
        return "BestEffort"
    fixed = all(
        (each.get("limits") or {}).get(name) is not None
        and (each.get("requests") or {}).get(name) == each["limits"][name]
        for each in every
        for name in ("cpu", "memory")
    )
    return "Guaranteed" if fixed else "Burstable"
