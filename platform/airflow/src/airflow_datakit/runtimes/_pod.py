"""The parts of a datakit's pod, made of the specification; nothing in it talks to a cluster.

The sidecar is a native one (an init container with ``restartPolicy: Always``, Kubernetes 1.29 and later): a plain
container beside the datakit would keep the pod running when the datakit has ended. Its startup probe holds the datakit
back until tickets and secrets are there.
"""

from __future__ import annotations

from typing import Final

from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from datakit.model.environment import SidecarRuntime
from datakit.model.specification import RunSpec
from kubernetes.client import models as k8s

from airflow_datakit._tree import this_airflow
from airflow_datakit.runtimes._places import BOOTSTRAP, SHARED

SIDECAR: Final = "datakit-sidecar"
_CONFIGURATION: Final = "/etc/datakit"
_GROUP: Final = 10000
"""The group that sidecar and datakit share: what the one publishes, the other reads."""
_NOBODY: Final = 65534
_OWNER_AND_GROUP_READ: Final = 0o440


class PodParts:
    """What the real operator wants as objects of the Kubernetes client."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec

    def volumes(self) -> list[k8s.V1Volume]:
        """Return what is mounted: credentials in memory, the sidecar's configuration and bootstrap, scratch, claims."""
        sidecar = self._sidecar()
        return [
            k8s.V1Volume(
                name="datakit-credentials",
                empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit="16Mi"),
            ),
            k8s.V1Volume(name="datakit-sidecar", config_map=k8s.V1ConfigMapVolumeSource(name=sidecar.config_map)),
            k8s.V1Volume(
                name="datakit-bootstrap",
                secret=k8s.V1SecretVolumeSource(
                    secret_name=sidecar.bootstrap_secret, default_mode=_OWNER_AND_GROUP_READ
                ),
            ),
            k8s.V1Volume(
                name="datakit-scratch",
                empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=self._spec.resources.scratch),
            ),
            *(
                k8s.V1Volume(
                    name=f"datakit-claim-{number}",
                    persistent_volume_claim=k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim),
                )
                for number, claim in enumerate(self._claims)
            ),
        ]

    def mounts(self) -> list[k8s.V1VolumeMount]:
        """Return what the datakit sees: credentials it may read, scratch space, and claims."""
        return [
            k8s.V1VolumeMount(name="datakit-credentials", mount_path=SHARED, read_only=True),
            k8s.V1VolumeMount(name="datakit-scratch", mount_path="/tmp"),  # noqa: S108  # in the container
            *(
                k8s.V1VolumeMount(name=f"datakit-claim-{number}", mount_path=path)
                for number, path in enumerate(self._claims.values())
            ),
        ]

    def sidecar(self) -> k8s.V1Container:
        """Return the native sidecar."""
        sidecar = self._sidecar()
        return k8s.V1Container(
            name=SIDECAR,
            image=sidecar.image,
            image_pull_policy="IfNotPresent",
            restart_policy="Always",
            startup_probe=k8s.V1Probe(
                _exec=k8s.V1ExecAction(command=["datakit-sidecar", "healthcheck"]),
                period_seconds=1,
                timeout_seconds=5,
                # not the probe but the operator gives up, and then says what the sidecar said
                failure_threshold=86400,
            ),
            resources=_limits(sidecar.cpu, sidecar.memory, burst=1),
            security_context=self.container_security(),
            volume_mounts=[
                k8s.V1VolumeMount(name="datakit-credentials", mount_path=SHARED),
                k8s.V1VolumeMount(name="datakit-sidecar", mount_path=_CONFIGURATION, read_only=True),
                k8s.V1VolumeMount(name="datakit-bootstrap", mount_path=BOOTSTRAP, read_only=True),
            ],
        )

    def resources(self) -> k8s.V1ResourceRequirements:
        """Return the datakit's requests, which are its limits: a pod that got its place keeps it."""
        return _limits(self._spec.resources.cpu, self._spec.resources.memory)

    def pod_security(self) -> k8s.V1PodSecurityContext:
        """Return what holds for every container of the pod."""
        return k8s.V1PodSecurityContext(
            run_as_non_root=True,
            fs_group=_GROUP,
            fs_group_change_policy="OnRootMismatch",
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        )

    def container_security(self) -> k8s.V1SecurityContext:
        """Return the restricted profile of Kubernetes' pod security standards, with a root that is read only."""
        return k8s.V1SecurityContext(
            run_as_non_root=True,
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        )

    def xcom_security(self) -> k8s.V1SecurityContext:
        """Return the same for the container that hands over the report, whose image may know no user but root."""
        security = self.container_security()
        security.run_as_user = _NOBODY
        return security

    def pull_secrets(self) -> list[k8s.V1LocalObjectReference]:
        """Return the secrets that log in to the registry."""
        return [k8s.V1LocalObjectReference(name=name) for name in self._spec.environment.kubernetes.pull_secrets]

    def labels(self) -> dict[str, str]:
        """Return labels that a selector can use; what is too long for one is an annotation.

        The real operator finds an earlier try's pod by them, so they tell environments and Airflows apart.
        """
        labels = {
            **self._spec.labels,
            "datakit.airflow": this_airflow(),
            "datakit.environment": self._spec.environment.name,
            "datakit.name": self._spec.datakit,
            "datakit.version": self._spec.version,
            "datakit.dataset": self._spec.dataset,
            "datakit.warehouse": self._spec.warehouse.name,
        }
        return {name: make_safe_label_value(value) for name, value in labels.items()}

    def annotations(self, image: str | None) -> dict[str, str]:
        """Return what people ask a pod for."""
        return {"datakit.image": str(image), "kubectl.kubernetes.io/default-container": "base"}

    def environment(self, variables: dict[str, str]) -> list[k8s.V1EnvVar]:
        """Return the datakit's environment variables; none of them is a secret."""
        return [k8s.V1EnvVar(name=name, value=value) for name, value in variables.items()]

    @property
    def _claims(self) -> dict[str, str]:
        return self._spec.volumes_of(self._spec.environment.kubernetes.volumes)

    def _sidecar(self) -> SidecarRuntime:
        sidecar = self._spec.environment.sidecar
        if sidecar is None:  # rendering the task has refused it already
            raise ValueError(self._spec.environment.name)
        return sidecar


def xcom_resources() -> k8s.V1ResourceRequirements:
    """Return what the container needs that hands over the report: a quota refuses pods of which one says nothing.

    A tenth of a core would do for it, but not to start it: that took the pod a third longer.
    """
    return _limits(0.01, "32Mi", burst=0.5)


def _limits(cpu: float, memory: str, *, burst: float = 0) -> k8s.V1ResourceRequirements:
    """Return requests that are limits, but for the processors of who needs many only for a moment: to start."""
    requests = {"cpu": f"{round(cpu * 1000)}m", "memory": memory}
    limits = {"cpu": f"{round(max(cpu, burst) * 1000)}m", "memory": memory}
    return k8s.V1ResourceRequirements(requests=requests, limits=limits)
