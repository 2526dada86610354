"""What a cluster says, in words that name the next step."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from datakit.errors import AccessDenied, ConfigurationError, DatakitError, TemporaryError
from datakit.model.environment import KubernetesRuntime
from datakit.model.specification import RunSpec
from kubernetes.client import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from airflow_datakit._outcome import SIGNALS
from airflow_datakit.runtimes._pod import SIDECAR
from airflow_datakit.runtimes._registry_words import certificate_of_another, is_denied, is_missing, is_untrusted

UNREACHABLE: Final = (HTTPError, ConfigException)
"""What the client raises where no cluster answers, or none is configured."""

_LAST_LINES: Final = 20


@dataclass(frozen=True, slots=True)
class LastWords:
    """What is known of a pod that never ran its datakit.

    :ivar sidecar: the end of its sidecar's log.
    :ivar mount: why a volume could not be mounted, where that kept the sidecar from starting.
    """

    sidecar: str = ""
    mount: str = ""


def of_api(error: ApiException, place: KubernetesRuntime) -> DatakitError:
    """Return what the API server refused, and why."""
    message = _message(error)
    lowered = message.lower()
    if "serviceaccount" in lowered and "not found" in lowered:
        return ConfigurationError(
            f"the cluster does not know the service account: {message}",
            subject=f"namespace {place.namespace}",
            cause="it was not created there, or the environment spells it otherwise",
            fix=f"kubectl get serviceaccounts -n {place.namespace}; then correct kubernetes.service_account",
        )
    if "namespaces" in lowered and "not found" in lowered:
        return ConfigurationError(
            f"the cluster does not know the namespace: {message}",
            subject=f"namespace {place.namespace}",
            cause="it was not created on this cluster, or the environment names another cluster's",
            fix="kubectl get namespaces; then correct kubernetes.namespace",
        )
    if error.status in {401, 403}:
        return AccessDenied(
            f"the cluster does not let Airflow do this: {message}",
            subject=f"namespace {place.namespace}",
            cause="the role of Airflow's service account lacks a right, or a quota or policy of the namespace says no",
            fix="the rights it needs on pods, pods/log, pods/exec and events are in docs/airflow.md",
        )
    if error.status in {400, 422}:
        return ConfigurationError(
            f"the cluster refuses the pod: {message}",
            subject=f"namespace {place.namespace}",
            cause="the pod template holds what this version of Kubernetes does not take",
            fix="compare kubernetes.pod_template with the message",
        )
    return TemporaryError(
        f"the cluster failed ({error.status}): {message}",
        subject=f"namespace {place.namespace}",
        cause="its API server is overloaded or being updated, or somebody deleted the pod",
        fix="a retry is safe",
    )


def of_connection(error: Exception) -> DatakitError:
    """Return why no cluster answers."""
    if isinstance(error, ConfigException):
        return ConfigurationError(
            f"no cluster is configured: {error}",
            cause="Airflow does not run in a cluster here, and neither KUBECONFIG nor a connection names one",
            fix="set kubernetes.connection in the environment, or KUBECONFIG for this worker",
        )
    return TemporaryError(
        f"the cluster cannot be reached: {error}",
        cause="its API server is away, or its address is another network's",
        fix="kubectl version, from the worker, says whether it answers",
    )


def of_pod(error: Exception, pod: Any, said: LastWords, place: KubernetesRuntime) -> DatakitError:
    """Return why a pod never came to run its datakit, or could not be made.

    :param pod: as it was last seen; None if there never was one.
    """
    name = pod.metadata.name if pod is not None else "the pod"
    for status in _statuses(pod):
        waiting = status.state.waiting if status.state else None
        if waiting is not None and waiting.reason in {"ErrImagePull", "ImagePullBackOff", "InvalidImageName"}:
            return _of_pull(status.image, waiting.message or waiting.reason, name)
        if waiting is not None and waiting.reason == "CreateContainerConfigError":
            return ConfigurationError(
                f"the container {status.name} cannot be made: {waiting.message}",
                subject=name,
                cause="a ConfigMap or Secret that the environment names is not there, or its image runs as root",
                fix="kubectl get configmaps,secrets in the namespace; compare with sidecar in the environment",
            )
    text = _message(error) if isinstance(error, ApiException) else str(error)
    if "image cannot be pulled" in text.lower():
        return _of_pull("its image", text, name)
    if said.mount:
        return ConfigurationError(
            f"a volume of the pod cannot be mounted: {said.mount}",
            subject=name,
            cause="a ConfigMap or Secret that sidecar.config_map or sidecar.bootstrap_secret of the environment names, "
            "or a claim of kubernetes.volumes or the pod template, is not there",
            fix=f"kubectl get configmaps,secrets,persistentvolumeclaims -n {place.namespace}; then correct the name",
        )
    if _sidecar_starts(pod):
        last = f"; it said last:\n{said.sidecar}" if said.sidecar else ""
        return TemporaryError(
            f"the sidecar never got ready, so the datakit never began{last}",
            subject=name,
            cause="the vault or the KDC is away, or does not know what sidecar.yaml asks for",
            fix="datakit-sidecar doctor, in a container of the sidecar's image, says what is missing",
        )
    if isinstance(error, ApiException):
        return of_api(error, place)
    if "scheduled" in text.lower():
        return TemporaryError(
            f"no node of the cluster took the pod: {text}",
            subject=name,
            cause="none has as much free as the class of resources asks for, or the pod template asks for another kind",
            fix="the events above say why; take a smaller class, or let the platform team add nodes",
        )
    return TemporaryError(text, subject=name, fix="the pod's events above say more; a retry is safe")


def exit_code(pod: Any, container: str) -> int | None:
    """Return the exit code of a container; None while it runs, or where nobody knows."""
    statuses = (pod.status.container_statuses if pod is not None and pod.status else None) or []
    for status in statuses:
        if status.name == container and status.state and status.state.terminated:
            return int(status.state.terminated.exit_code)
    return None


def hint(code: int, pod: Any, spec: RunSpec) -> str | None:
    """Return what the cluster knows of a container that was killed."""
    for status in _statuses(pod):
        ended = status.state.terminated if status.state else None
        if ended is not None and ended.reason == "OOMKilled":
            return (
                f"it wanted more than {spec.resources.memory} of memory; a larger class is one argument: resource_class"
            )
    return "the node was drained or lost, or somebody deleted the pod" if code > SIGNALS else None


def vanished(pod: Any, *, killed: bool) -> str:
    """Return what to say of a pod that ended and left no exit code."""
    name = pod.metadata.name if pod is not None else "the pod"
    if killed:
        return f"{name} was told to end, because the task was"
    reason = pod.status.reason or pod.status.message if pod is not None and pod.status else None
    return (
        f"{name} went away before its datakit ended{f': {reason}' if reason else ''}\n"
        "Likely cause: its node was drained or lost, or somebody deleted it\n"
        "Next step: a retry is safe"
    )


def last_words(client: Any, pod: Any) -> LastWords:
    """Return the end of the sidecar's log; where it never began, why its volumes could not be mounted."""
    sidecar = mount = ""
    with suppress(ApiException, HTTPError):
        sidecar = str(
            client.read_namespaced_pod_log(
                pod.metadata.name, pod.metadata.namespace, container=SIDECAR, tail_lines=_LAST_LINES
            )
        ).strip()
    if not _sidecar_began(pod):
        with suppress(ApiException, HTTPError):
            found = client.list_namespaced_event(
                pod.metadata.namespace, field_selector=f"involvedObject.name={pod.metadata.name}"
            )
            mount = next((each.message for each in reversed(found.items) if _is_of_a_volume(each)), "")
    return LastWords(sidecar=sidecar, mount=mount)


def _of_pull(image: str, message: str, pod: str) -> DatakitError:
    if is_denied(message):
        return AccessDenied(
            f"the registry does not let the cluster pull {image}: {message}",
            subject=pod,
            cause="a pull secret is missing or wrong, or the image is not there at all",
            fix="compare kubernetes.pull_secrets in the environment with kubectl get secrets in the namespace",
        )
    if is_untrusted(message):
        return certificate_of_another(message, pod) or ConfigurationError(
            f"the nodes do not trust the registry's certificate: {message}",
            subject=pod,
            cause="it was signed by the company's own authority, which the nodes were not told of",
            fix="let the platform team add the authority to the nodes' container runtime",
        )
    if is_missing(message):
        return ConfigurationError(
            f"the registry does not have {image}: {message}",
            subject=pod,
            cause="that version was never released to this registry, or the lock's digest is another registry's",
            fix="compare registry, version and digest with what the registry lists",
        )
    return TemporaryError(
        f"{image} cannot be pulled: {message}",
        subject=pod,
        cause="the registry is away, or the nodes cannot reach it",
        fix="the pod's events above say more",
    )


def _statuses(pod: Any) -> list[Any]:
    if pod is None or pod.status is None:
        return []
    return [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]


def _sidecar_starts(pod: Any) -> bool:
    """Whether the sidecar runs and its probe has not succeeded."""
    return any(status.name == SIDECAR and not status.started for status in _statuses(pod))


def _sidecar_began(pod: Any) -> bool:
    """Whether the sidecar was started at all, and so everything was mounted."""
    sidecars = (status for status in _statuses(pod) if status.name == SIDECAR)
    return any(status.state and (status.state.running or status.state.terminated) for status in sidecars)


def _is_of_a_volume(event: Any) -> bool:
    """Whether a volume keeps a pod from its start: a claim that is not there keeps it from any node."""
    missing_claim = event.reason == "FailedScheduling" and "persistentvolumeclaim" in event.message
    return event.reason == "FailedMount" or missing_claim


def _message(error: ApiException) -> str:
    with suppress(ValueError, TypeError, AttributeError):
        return str(json.loads(error.body)["message"])
    return str(error.reason or error)
