"""A datakit as a pod: a native sidecar brings tickets and secrets, the pod ends when the datakit does.

The objects of the Kubernetes client are made when a task runs, not when its DAG is parsed: a DAG may have a thousand
tasks, and making the objects costs more than everything else about them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager
from airflow.providers.common.compat.sdk import AirflowException
from datakit.errors import ConfigurationError
from datakit.model.specification import RunSpec
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from airflow_datakit._outcome import Report, fail, parse_report
from airflow_datakit._task import DatakitTask
from airflow_datakit.runtimes import _kubernetes_problems as problems
from airflow_datakit.runtimes._places import REPORT, SECRETS, TICKETS
from airflow_datakit.runtimes._pod import PodParts, xcom_resources

if TYPE_CHECKING:
    from airflow.sdk import Context
    from kubernetes.client import models as k8s

_POLL_SECONDS: Final = 1
_XCOM_SECONDS: Final = 60


class _Hook(KubernetesHook):
    """Takes the image that hands over the report from the environment, not from a connection or a public hub."""

    def __init__(self, *, xcom_image: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._xcom_image = xcom_image

    def get_xcom_sidecar_container_image(self) -> str:
        return self._xcom_image

    def get_xcom_sidecar_container_resources(self) -> k8s.V1ResourceRequirements:
        return xcom_resources()


class _PodManager(PodManager):
    """Gives the datakit's lines to the task, which knows their levels."""

    def __init__(self, task: DatakitKubernetesOperator, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._task = task

    def run_pod_async(self, pod: k8s.V1Pod, **arguments: Any) -> k8s.V1Pod:
        """Make the pod; the real one writes the whole of it into the log if that fails."""
        body = self._client.api_client.sanitize_for_serialization(pod)
        self._task.refuse_to_begin()
        made = self._client.create_namespaced_pod(body=body, namespace=pod.metadata.namespace, **arguments)
        if self._task.told_to_end:  # meanwhile: nobody knew of a pod that could be ended
            self.delete_pod(made)
            self._task.refuse_to_begin()
        return made

    def _log_message(self, message: str, *_: Any, **__: Any) -> None:
        self._task.log_line(message)


class DatakitKubernetesOperator(DatakitTask, KubernetesPodOperator):
    """Runs a datakit as a pod."""

    template_fields = ("request", "image")
    _left: tuple[Report | None, str | None] = (None, None)
    _said = problems.LastWords()

    @classmethod
    def rendered(cls, spec: RunSpec) -> dict[str, Any]:
        """Return the real operator's arguments for a specification.

        :raises ConfigurationError: the environment does not say what a pod needs.
        """
        place, sidecar = spec.environment.kubernetes, spec.environment.sidecar
        for key, value, what in (
            ("sidecar", sidecar, "the container that brings tickets and secrets"),
            ("kubernetes.xcom_image", place.xcom_image, "the image of the container that hands over the run report"),
        ):
            if value is None:
                raise ConfigurationError(
                    f"environment {spec.environment.name!r} runs pods, and does not say {key}: {what}",
                    subject=spec.environment.name,
                    fix=f"add {key} to the environment",
                )
        grace = round(spec.environment.defaults.grace.total_seconds())
        return {
            "image": spec.image,
            "arguments": ["run"],
            "name": f"{spec.datakit}-{spec.dataset.replace('.', '-').replace('_', '-')}-{spec.warehouse.name}"[:40],
            "namespace": place.namespace,
            "kubernetes_conn_id": place.connection,
            "service_account_name": place.service_account,
            "automount_service_account_token": False,
            "pod_template_dict": spec.pod_template,
            "deferrable": place.deferrable,
            "startup_timeout_seconds": round(place.startup_timeout.total_seconds()),
            "startup_check_interval_seconds": _POLL_SECONDS,
            "base_container_status_polling_interval": _POLL_SECONDS,
            "poll_interval": _POLL_SECONDS,
            "termination_grace_period": grace,
            "image_pull_policy": "IfNotPresent",
            "do_xcom_push": True,
            "log_pod_spec_on_failure": False,  # it would show the whole environment in the log
            "log_events_on_failure": True,
        }

    @cached_property
    def hook(self) -> KubernetesHook:
        """The connection to the cluster."""
        return _Hook(
            xcom_image=str(self.spec.environment.kubernetes.xcom_image),
            conn_id=self.kubernetes_conn_id,
            in_cluster=self.in_cluster,
            config_file=self.config_file,
            cluster_context=self.cluster_context,
        )

    @cached_property
    def pod_manager(self) -> PodManager:
        """What follows the pod."""
        return _PodManager(self, kube_client=self.client, callbacks=self.callbacks)

    def build_pod_request_obj(self, context: Context | None = None, *, dry_run: bool = False) -> k8s.V1Pod:
        """Return the pod: the platform's template, and over it what a datakit needs."""
        parts = PodParts(self.spec)
        self.volumes = parts.volumes()
        self.volume_mounts = parts.mounts()
        self.init_containers = [parts.sidecar()]
        self.container_resources = parts.resources()
        self.security_context = parts.pod_security()
        self.container_security_context = parts.container_security()
        self.xcom_sidecar_container_security_context = parts.xcom_security()
        self.image_pull_secrets = parts.pull_secrets()
        self.labels = parts.labels()
        self.annotations = parts.annotations(self.image)
        if self.execution_timeout is not None:  # what ends a pod whose worker and whose Airflow are gone
            self.active_deadline_seconds = round(
                self.execution_timeout.total_seconds()
                + self.startup_timeout_seconds
                + (self.termination_grace_period or 0)
            )
        if context is not None:
            self.env_vars = parts.environment(
                self.variables_for(context, report=REPORT, tickets=TICKETS, secrets=SECRETS)
            )
        pod = super().build_pod_request_obj(context, dry_run=dry_run)
        pod.spec.automount_service_account_token = False  # a false value of ours gives way to the template's
        return pod

    def on_kill(self) -> None:
        """Delete the pod; the datakit in it has its grace."""
        DatakitTask.on_kill(self)
        KubernetesPodOperator.on_kill(self)

    def execute(self, context: Context) -> Report:
        """Run the pod, its log in the task's log as it comes, and return its report.

        :raises AirflowException: or one of its subclasses, as the run protocol's exit codes say.
        """
        self.told_to_end = self._killed = False
        self.log.info("%s, a pod of %s", self.title, self.image)
        return self._concluded(context, lambda: super(DatakitKubernetesOperator, self).execute(context))

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> Report:
        """Go on where a deferred task left off: read the log, take the report.

        :raises AirflowException: as :meth:`execute`.
        """
        return self._concluded(context, lambda: super(DatakitKubernetesOperator, self).trigger_reentry(context, event))

    def _write_logs(self, pod: k8s.V1Pod, follow: bool = False, since_time: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Log what a pod said while nobody of this task listened, at the levels that the datakit gave its lines."""
        stream = self.client.read_namespaced_pod_log(
            name=pod.metadata.name,
            namespace=pod.metadata.namespace,
            container=self.base_container_name,
            follow=follow,
            _preload_content=False,
        )
        for line in stream:
            if text := line.decode("utf-8", errors="replace").rstrip("\n"):
                self.log_line(text)

    def extract_xcom(self, pod: k8s.V1Pod, **arguments: Any) -> Report | None:
        """Take the run report from the container that keeps it, whatever it is; :meth:`execute` judges it."""
        # a datakit may end before this container has begun; the real operator waits for it only in a worker
        self.pod_manager.await_xcom_sidecar_container_start(pod, timeout=_XCOM_SECONDS)
        with suppress(ValueError):  # the pod manager wants JSON, and the datakit may have left something else
            text = self.pod_manager.extract_xcom(pod, **arguments)
            self._left = parse_report(None if text.rstrip() == "__airflow_xcom_result_empty__" else text)
            return self._left[0]
        self._left = (None, "the run report is not JSON")
        return None

    def cleanup(
        self, pod: k8s.V1Pod, remote_pod: k8s.V1Pod, xcom_result: dict[str, Any] | None = None, context: Any = None
    ) -> None:
        """Remove the pod; the verdict over it, which the real operator speaks here, is :meth:`finish`'s."""
        self.remote_pod = remote_pod
        if remote_pod is not None and self._exit_code() is None:  # it is about to go, and what it says with it
            with suppress(ApiException, HTTPError):
                self.remote_pod = self.pod_manager.read_pod(remote_pod)
                self._said = problems.last_words(self.client, remote_pod)
        with suppress(AirflowException):
            super().cleanup(pod, remote_pod, xcom_result, context)

    def _concluded(self, context: Context, run: Callable[[], object]) -> Report:
        self._left, self._said = (None, "the datakit left no run report"), problems.LastWords()
        # whether or not Airflow keeps the report as XCom, the verdict needs it
        wanted, self.do_xcom_push = self.do_xcom_push, True
        try:
            run()
        except problems.UNREACHABLE as error:
            fail(problems.of_connection(error))
        except (AirflowException, ApiException) as error:
            if self._exit_code() is None and not self._killed:
                fail(problems.of_pod(error, self.remote_pod, self._said, self.spec.environment.kubernetes))
        finally:
            self.do_xcom_push = wanted
        exit_code = self._exit_code()
        if exit_code is None:
            raise AirflowException(problems.vanished(self.remote_pod or self.pod, killed=self._killed))
        return self.finish(context, exit_code, *self._left, hint=problems.hint(exit_code, self.remote_pod, self.spec))

    def _exit_code(self) -> int | None:
        return problems.exit_code(self.remote_pod, self.base_container_name)
