"""``environments/NAME.yaml``: where source systems and warehouses are, and how datakits run there.

Never a secret: only references, which name files under the secrets folder (:mod:`datakit.credentials`).
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from datakit.model._base import Model, text_like
from datakit.model.manifest import Duration, KebabName

SECRET_REFERENCE: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")
"""What a :data:`SecretReference` looks like."""

SecretReference = Annotated[
    str,
    text_like(
        SECRET_REFERENCE.pattern,
        "REFERENCE/FIELD, which names a secret and never holds one, such as airline-reader/password",
    ),
]
"""``REFERENCE/FIELD``: the file ``/run/datakit/secrets/REFERENCE/FIELD``."""


_MEMORY = re.compile(r"([1-9]\d*)(Mi|Gi)")
_SECRET_NAME = re.compile(r"pass(word|wd|phrase)|secret|token|credential|private_?key|api_?key", re.IGNORECASE)

Memory = Annotated[str, text_like(r"^[1-9]\d*(Mi|Gi)$", "a number and Mi or Gi, such as 512Mi")]
"""Bytes in powers of 1,024, which every runtime means by the same letters: ``512Mi``, ``4Gi``."""

MountPath = Annotated[str, text_like(r"^(/[^/\s]+)+$", "an absolute path in the container, such as /var/lib/datakit")]

VariableName = Annotated[str, text_like(r"^[a-z][a-z0-9_]*$", "lower-case words joined by underscores")]


def memory_bytes(memory: Memory) -> int:
    """Return how many bytes ``512Mi`` or ``4Gi`` are.

    :raises ValueError: it is written otherwise.
    """
    match = _MEMORY.fullmatch(memory)
    if match is None:
        raise ValueError(f"{memory!r} is no amount of memory; write a number and Mi or Gi, such as 512Mi")
    return int(match[1]) * (1 << 20 if match[2] == "Mi" else 1 << 30)


class SourceSystem(Model):
    """Where one source system is, and who reads it."""

    host: Annotated[
        str,
        Field(
            min_length=1,
            description="Fully qualified name: the SPN is built from it",
            examples=["sqlserver.corp.example"],
        ),
    ]
    port: Annotated[int, Field(gt=0, lt=65536)] = 1433
    database: Annotated[str, Field(min_length=1, examples=["NAME"])]
    principal: Annotated[
        str | None,
        text_like(
            r"^[^@/\s]+(/[^@\s]+)?@[^@\s]+$",
            "a Kerberos principal with its realm, such as svc-airline@CORP.EXAMPLE",
            description="The Kerberos principal that connects, user@REALM",
            examples=["svc-datakit@CORP.EXAMPLE"],
        ),
    ] = None
    server_spn: Annotated[
        str | None, Field(description="The service principal name, where it is not MSSQLSvc/host:port")
    ] = None
    encrypt: Annotated[Literal["yes", "strict", "no"], Field(description="TLS; no is for laboratories")] = "yes"
    trust_server_certificate: Annotated[bool, Field(description="Accept any certificate; for laboratories")] = False
    host_name_in_certificate: str | None = None
    read_only_intent: Annotated[bool, Field(description="ApplicationIntent=ReadOnly: let a replica answer")] = False
    user: Annotated[
        str | None, Field(description="SQL login, only where Kerberos cannot be had; its password is a secret")
    ] = None
    password: SecretReference | None = None


class Resources(Model):
    """How much one task may use; both container runtimes and Kubernetes' requests and limits are made of it."""

    cpu: Annotated[float, Field(gt=0, le=1024, description="Cores; a part of one is 0.5. A process is not held to it")]
    memory: Annotated[Memory, Field(description="The most it may hold; more ends it")]
    scratch: Annotated[
        Memory, Field(description="Writable space of a container, at /tmp; in Docker it counts as memory")
    ] = "256Mi"


DEFAULT_RESOURCES: Final[dict[str, Resources]] = {
    "small": Resources(cpu=1, memory="1Gi"),
    "medium": Resources(cpu=2, memory="4Gi"),
    "large": Resources(cpu=4, memory="8Gi"),
}
"""The classes that every environment has, unless it says otherwise."""


class TaskDefaults(Model):
    """What a task gets that does not say otherwise."""

    resources: Annotated[str, Field(description="A class of resources")] = "small"
    grace: Annotated[
        Duration, Field(description="How long a datakit that is told to end may take, before it is killed")
    ] = timedelta(seconds=30)


class ProcessRuntime(Model):
    """How datakits run as processes of the Airflow worker's machine, each in a Python environment of its own.

    A relative path starts at the root of the tree.
    """

    command: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="The datakit's command; {datakit} and {version} stand for its own"),
    ] = (".venv/bin/datakit",)
    tickets: Annotated[str, Field(description="Folder of credential caches, one for each principal")] = (
        "/run/datakit/tickets"
    )
    secrets: Annotated[str, Field(description="Folder of secret files")] = "/run/datakit/secrets"
    krb5_conf: Annotated[
        str | None, Field(description="Kerberos' configuration, where it is not the krb5.conf beside the tickets")
    ] = None


_TAKEN_PATHS: Final = ("/tmp", "/run/datakit", "/airflow")  # noqa: S108  # in the container
"""Where a container has what the run protocol needs."""


def _free_paths(volumes: dict[str, str]) -> dict[str, str]:
    seen: dict[str, str] = {}
    for name, path in volumes.items():
        for taken in _TAKEN_PATHS:
            if f"{path}/".startswith(f"{taken}/") or f"{taken}/".startswith(f"{path}/"):
                raise ValueError(
                    f"{name} would be at {path}, and {taken} is the datakit's own; take /var/lib/datakit, say"
                )
        if path in seen:
            raise ValueError(f"{name} and {seen[path]} would both be at {path}")
        seen[path] = name
    return volumes


class DockerRuntime(Model):
    """How datakits run as containers of a Docker engine."""

    url: Annotated[str, Field(description="Where the engine is")] = "unix:///var/run/docker.sock"
    connection: Annotated[
        str | None, Field(description="The Airflow connection that logs in to the registry, where it asks for that")
    ] = None
    network: Annotated[str | None, Field(description="The network that containers join; none is Docker's own")] = None
    credentials_volume: Annotated[
        str, Field(description="The named volume, of memory, in which the sidecar publishes tickets and secrets")
    ] = "datakit-credentials"
    pull: Annotated[
        Literal["missing", "never"],
        Field(description="never: images are built on the engine's machine, and the registry is but their prefix"),
    ] = "missing"
    pids: Annotated[int, Field(gt=0, description="The most processes and threads in one container")] = 256
    volumes: Annotated[dict[str, MountPath], AfterValidator(_free_paths)] = Field(
        {}, description="Named volume → where a container has it; those whose warehouse is a file in it do"
    )


class KubernetesRuntime(Model):
    """How datakits run as pods."""

    connection: Annotated[
        str | None, Field(description="The Airflow connection to the cluster; none is the one that Airflow runs in")
    ] = None
    namespace: KebabName = "default"
    service_account: Annotated[
        str | None, Field(description="Whose pods these are; its token is not mounted in any case")
    ] = None
    pull_secrets: Annotated[tuple[KebabName, ...], Field(description="Secrets that log in to the registry")] = ()
    pod_template: Annotated[
        str | None,
        Field(
            description="A file beside this one, a pod that ours is laid over; .yml, for each .yaml is an environment"
        ),
    ] = None
    xcom_image: Annotated[
        str | None, Field(description="The image of the container that hands over the run report: any with a shell")
    ] = None
    volumes: Annotated[dict[KebabName, MountPath], AfterValidator(_free_paths)] = Field(
        {}, description="PersistentVolumeClaim → where a pod has it; those whose warehouse is a file in it do"
    )
    deferrable: Annotated[bool, Field(description="Wait for pods in the triggerer instead of in a worker")] = False
    startup_timeout: Annotated[Duration, Field(description="How long a pod may take until it runs")] = timedelta(
        minutes=10
    )


class SidecarRuntime(Model):
    """The container beside a pod's datakit that gets its tickets and secrets."""

    image: Annotated[str, Field(min_length=1)]
    config_map: Annotated[KebabName, Field(description="The ConfigMap whose key sidecar.yaml is its configuration")]
    bootstrap_secret: Annotated[KebabName, Field(description="The Secret with the vault's credential, for it alone")]
    cpu: Annotated[float, Field(gt=0, description="Cores that it is sure of; to start, it may use one")] = 0.1
    memory: Memory = "64Mi"


class AirflowDeployment(Model):
    """How this environment's Airflow gets the image that ``datakit airflow push`` has made.

    A relative path starts at the root of the tree.
    """

    deploy: Annotated[
        Literal["gitops", "astronomer", "astro-cli"],
        Field(description="A commit in the GitOps folder; a call of self-hosted Astronomer's API; or its command"),
    ]
    overlay: Annotated[
        str | None, Field(description="gitops: the folder of a kustomization.yaml, whose images: is written")
    ] = None
    replaces: Annotated[
        str, Field(min_length=1, description="gitops with overlay: the image's name in what is rendered")
    ] = "apache/airflow"
    values: Annotated[
        str | None, Field(description="gitops: a values file of Airflow's Helm chart, whose images.airflow is written")
    ] = None
    url: Annotated[
        str | None,
        text_like(
            r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$",
            "a URL without a login, such as https://houston.astronomer.corp.example/v1",
            description="astronomer: its API, https://houston.BASEDOMAIN/v1",
        ),
    ] = None
    release: Annotated[
        KebabName | None, Field(description="astronomer: the deployment's release name, such as stellar-quark-1234")
    ] = None
    token: Annotated[
        SecretReference | None, Field(description="astronomer: the service account's key, as a secret")
    ] = None
    ca_file: Annotated[
        str | None, Field(description="astronomer: the authority of its certificate, where the machine lacks it")
    ] = None
    deployment: Annotated[str | None, Field(min_length=1, description="astro-cli: the deployment's id")] = None
    workspace: Annotated[
        str | None, Field(min_length=1, description="astro-cli: the workspace's id, if not the one of astro login")
    ] = None

    @model_validator(mode="after")
    def _keys_of_that_way(self) -> Self:
        needed, possible = _KEYS_OF[self.deploy]
        said = self.model_fields_set - {"deploy"}
        if foreign := sorted(said - needed - possible):
            raise ValueError(f"deploy: {self.deploy} takes no {foreign[0]}, but {', '.join(sorted(needed | possible))}")
        if missing := sorted(name for name in needed if getattr(self, name) is None):
            raise ValueError(f"deploy: {self.deploy} needs {missing[0]}")
        if self.deploy == "gitops" and (self.overlay is None) == (self.values is None):
            raise ValueError("deploy: gitops needs either overlay, a folder for Kustomize, or values, a file for Helm")
        return self


_KEYS_OF: Final[dict[str, tuple[frozenset[str], frozenset[str]]]] = {
    "gitops": (frozenset(), frozenset({"overlay", "replaces", "values"})),
    "astronomer": (frozenset({"url", "release", "token"}), frozenset({"ca_file"})),
    "astro-cli": (frozenset({"deployment"}), frozenset({"workspace"})),
}
"""For each way, the keys that it needs, and those that it may have."""


class Environment(Model):
    """One environment: ``local``, ``int``, ``qa``, ``prod`` …"""

    name: KebabName
    runtime: Annotated[Literal["process", "docker", "kubernetes"], Field(description="How datakits run here")]
    registry: Annotated[
        str | None,
        text_like(
            r"^[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*$",
            "a registry without a scheme, such as registry.corp.example/data",
            description="Where images are: REGISTRY/datakits/NAME",
        ),
    ] = None
    frozen: Annotated[bool, Field(description="Run images by the digest that the lock pins, and nothing else")] = False
    resources: dict[KebabName, Resources] = Field(
        {}, description="Classes of resources; small, medium and large are there anyway"
    )
    defaults: TaskDefaults = TaskDefaults()
    variables: dict[VariableName, str | None] = Field(
        {},
        description="What a task may say, and what holds if it does not: ${NAME} in labels and in the pod template "
        "stands for it; without a value every task has to say it",
    )
    labels: dict[str, str] = Field({}, description="Labels of every container and pod")
    env: dict[str, str] = Field(
        {}, description="Environment variables of every datakit; never a secret, which is a file"
    )
    process: ProcessRuntime = ProcessRuntime()
    docker: DockerRuntime = DockerRuntime()
    kubernetes: KubernetesRuntime = KubernetesRuntime()
    sidecar: SidecarRuntime | None = None
    airflow: Annotated[AirflowDeployment | None, Field(description="How its Airflow is deployed")] = None
    sources: dict[KebabName, SourceSystem] = Field({}, description="Connection name → where it is")
    warehouses: dict[KebabName, dict[str, Any]] = Field(
        {}, description="Connection name → where it is; the keys depend on the warehouse's type"
    )

    @field_validator("env")
    @classmethod
    def _no_secret_and_nothing_of_ours(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is not the name of a variable")
            if _SECRET_NAME.search(name):
                raise ValueError(
                    f"{name} looks like a secret, which a datakit reads from a file under the secrets folder"
                )
            if name.startswith("DATAKIT_") or name in {"KRB5CCNAME", "KRB5_CONFIG"}:
                raise ValueError(f"{name} is set by the run protocol")
        return value

    @property
    def pulls(self) -> bool:
        """Whether images come from a registry: a process has none, and an engine may have but what was built on it."""
        return self.runtime == "kubernetes" or (self.runtime == "docker" and self.docker.pull != "never")

    @property
    def resource_classes(self) -> dict[str, Resources]:
        """The classes of resources by name: the environment's own, and the usual ones."""
        return {**DEFAULT_RESOURCES, **self.resources}
