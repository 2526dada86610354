import json
import shutil
from pathlib import Path

import pytest
from datakit.errors import ConfigurationError, InvalidFile, UnknownName
from datakit.model.environment import Environment, memory_bytes
from datakit.model.handed import with_configuration
from datakit.model.project import Project
from datakit.model.run import RunConfiguration
from datakit.model.specification import RunSpec, specify
from pydantic import ValidationError

SOURCE = """\
kind: source
name: airline-source
version: 1.0.0
system: sqlserver
connection: airline
datasets:
  flights: {table: ops.Flights}
  planes: {table: ops.Planes}
"""
BRONZE = """\
kind: bronze
name: sqlserver-bronze
version: 1.4.0
system: sqlserver
sources:
  - datakit: airline-source
"""
WAREHOUSE = """\
name: finance
type: postgres
connection: finance-db
schema: bronze
ingest:
  - datakit: sqlserver-bronze
    datasets: [airline.flights]
  - datakit: sqlserver-bronze
    datasets: [airline.planes]
    schema: reference
"""
ENVIRONMENT = """\
name: prod
runtime: docker
registry: registry.corp.example/data
sources:
  airline: {host: sql.corp.example, database: AirlineOps, principal: svc/reader@CORP.EXAMPLE}
warehouses:
  finance-db: {host: finance.corp.example, database: dwh, user: loader, password: finance-db/password}
"""
DIGEST = "sha256:" + "ab" * 32
LOCK = f"""\
environment: prod
warehouses:
  finance:
    sqlserver-bronze: {{version: 1.2.3, digest: "{DIGEST}"}}
"""


class Tree:
    """A small tree on disk, whose files a test changes before it asks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put("datakits/airline-source/datakit.yaml", SOURCE)
        self.put("datakits/sqlserver-bronze/datakit.yaml", BRONZE)
        self.put("warehouses/finance/warehouse.yaml", WAREHOUSE)
        self.environment()

    def put(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def environment(self, more: str = "", runtime: str = "docker") -> None:
        self.put(
            "warehouses/environments/prod.yaml", ENVIRONMENT.replace("runtime: docker", f"runtime: {runtime}") + more
        )

    def lock(self, text: str = LOCK) -> None:
        self.put("warehouses/environments/prod.lock.yaml", text)

    def specify(self, **more: object) -> RunSpec:
        asked: dict[str, object] = {
            "datakit": "sqlserver-bronze",
            "dataset": "airline.flights",
            "warehouse": "finance",
            **more,
        }
        return specify(Project(self.root), "prod", **asked)  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    for name in ("DATAKIT_HOME", "DATAKIT_ENVIRONMENT", "DATAKIT_ENVIRONMENTS"):
        monkeypatch.delenv(name, raising=False)
    return Tree(tmp_path)


def test_without_a_lock_the_image_is_the_version_in_the_tree(tree: Tree) -> None:
    spec = tree.specify()
    assert spec.image == "registry.corp.example/data/datakits/sqlserver-bronze:v1.4.0"
    assert spec.version == "1.4.0"


def test_a_pinned_image_is_named_by_its_digest_alone(tree: Tree) -> None:
    tree.lock()
    spec = tree.specify()
    assert spec.image == f"registry.corp.example/data/datakits/sqlserver-bronze@{DIGEST}"
    assert spec.version == "1.2.3"


def test_a_frozen_environment_refuses_an_image_that_nothing_pins(tree: Tree) -> None:
    tree.environment("frozen: true\n")
    with pytest.raises(ConfigurationError, match="frozen, and nothing pins a digest") as caught:
        tree.specify()
    assert caught.value.cause == "there is no lock"
    tree.lock()
    assert DIGEST in str(tree.specify().image)
    with pytest.raises(ConfigurationError, match=r"nothing pins a digest of sqlserver-bronze 1\.4\.0"):
        tree.specify(version="1.4.0")


def test_a_version_may_be_the_pinned_one_or_the_trees(tree: Tree) -> None:
    tree.lock()
    assert tree.specify(version="1.2.3").image == tree.specify().image
    assert str(tree.specify(version="1.4.0").image).endswith(":v1.4.0")


def test_processes_need_no_registry_and_run_the_pinned_version(tree: Tree) -> None:
    tree.environment(runtime="process")
    tree.lock()
    spec = tree.specify()
    assert spec.image is None
    assert spec.version == "1.2.3"


def test_containers_need_a_registry(tree: Tree) -> None:
    tree.put("warehouses/environments/prod.yaml", ENVIRONMENT.replace("registry: registry.corp.example/data\n", ""))
    with pytest.raises(ConfigurationError, match="no registry to take images from"):
        tree.specify()


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"datakit": "sqlserver-bronce"}, "sqlserver-bronze"),
        ({"dataset": "airline.flight"}, "airline.flights"),
        ({"warehouse": "finanse"}, "finance"),
        ({"version": "1.4.1"}, "1.4.0"),
        ({"resources": "smal"}, "small"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(tree: Tree, asked: dict[str, str], named: str) -> None:
    with pytest.raises(UnknownName) as caught:
        tree.specify(**asked)
    assert caught.value.cause == f"did you mean {named!r}?"


def test_an_unknown_environment_gets_the_nearest_one(tree: Tree) -> None:
    with pytest.raises(UnknownName, match="did you mean 'prod'"):
        specify(Project(tree.root), "prood", datakit="sqlserver-bronze", dataset="airline.flights", warehouse="finance")


def test_a_datakit_that_the_warehouse_does_not_use_is_refused(tree: Tree) -> None:
    tree.put("datakits/other-bronze/datakit.yaml", BRONZE.replace("sqlserver-bronze", "other-bronze"))
    with pytest.raises(ConfigurationError, match="through 'sqlserver-bronze', not through 'other-bronze'"):
        tree.specify(datakit="other-bronze")


def test_a_lock_of_another_environment_is_refused(tree: Tree) -> None:
    tree.lock(LOCK.replace("environment: prod", "environment: qa"))
    with pytest.raises(InvalidFile, match="says that it is the one of 'qa'"):
        tree.specify()


def test_a_lock_is_no_environment(tree: Tree) -> None:
    tree.lock()
    project = Project(tree.root)
    assert set(project.environments()) == {"prod"}
    assert project.broken == ()


def test_the_request_holds_what_is_asked_and_nothing_else(tree: Tree) -> None:
    spec = tree.specify(slice="1/4", parallel=2, full=True)
    assert spec.request == {
        "protocol": "1.0",
        "dataset": "airline.flights",
        "warehouse": "finance",
        "environment": "prod",
        "slice": "1/4",
        "full": True,
        "parallel": 2,
        "image": spec.image,
    }
    assert "slice" not in tree.specify().request


def test_the_table_is_in_the_schema_that_the_entry_says(tree: Tree) -> None:
    assert tree.specify().table == "bronze.flights"
    assert tree.specify(dataset="airline.planes").table == "reference.planes"


def test_the_credential_cache_is_named_as_the_sidecar_names_it(tree: Tree) -> None:
    assert tree.specify().ccache_name == "svc_reader"


def test_a_warehouse_with_kerberos_names_the_principal_where_the_source_has_none(tree: Tree) -> None:
    text = ENVIRONMENT.replace("password: finance-db/password", "gssapi: true, principal: writer@CORP.EXAMPLE")
    tree.put("warehouses/environments/prod.yaml", text.replace(", principal: svc/reader@CORP.EXAMPLE", ""))
    assert tree.specify().ccache_name == "writer"


def test_what_is_handed_over_is_a_tree_of_its_own(tree: Tree, tmp_path: Path) -> None:
    tree.environment("docker: {network: corp}\n")
    spec = tree.specify()
    image = tmp_path / "image"
    shutil.copytree(tree.root / "datakits", image / "datakits")
    configuration = RunConfiguration.model_validate_json(json.dumps(spec.configuration))
    handed = with_configuration(Project(image), configuration)
    config, ingest, bronze, source = handed.ingest("finance", "airline.flights")
    assert (config.table_schema, ingest.datakit, bronze.manifest.version) == ("bronze", "sqlserver-bronze", "1.4.0")
    place = handed.environment("prod")
    assert handed.source_system(place, source)[0].host == "sql.corp.example"
    assert handed.warehouse_connection(place, config)[0]["database"] == "dwh"
    assert "docker" not in spec.configuration["environment"]


def test_a_configuration_that_is_none_says_where_it_came_from(tree: Tree) -> None:
    wrong = RunConfiguration(warehouse={"name": "finance", "tipe": "postgres"}, environment={})
    with pytest.raises(InvalidFile, match=r"DATAKIT_RUN\.configuration\.warehouse:2:1.*'tipe'"):
        with_configuration(Project(tree.root), wrong)


def test_a_class_of_the_environment_replaces_a_usual_one(tree: Tree) -> None:
    tree.environment("resources: {small: {cpu: 0.5, memory: 256Mi}, huge: {cpu: 8, memory: 32Gi}}\n")
    assert memory_bytes(tree.specify().resources.memory) == 256 * 1024**2
    assert tree.specify(resources="huge").resources.cpu == 8
    assert tree.specify(resources="medium").resources.cpu == 2


def test_variables_of_a_task_reach_labels(tree: Tree) -> None:
    tree.environment('variables: {team: platform}\nlabels: {owner: "data-${team}"}\n')
    assert tree.specify().labels == {"owner": "data-platform"}
    assert tree.specify(variables={"team": "finance"}).labels == {"owner": "data-finance"}


def test_variables_of_a_task_reach_the_pod_template(tree: Tree) -> None:
    tree.environment("variables: {zone: null}\nkubernetes: {pod_template: pod.yaml}\n", runtime="kubernetes")
    tree.put(
        "warehouses/environments/pod.yaml",
        'apiVersion: v1\nkind: Pod\nspec: {nodeSelector: {zone: "${zone}"}, containers: [{name: base}]}\n',
    )
    spec = tree.specify(variables={"zone": "b"})
    assert spec.pod_template is not None
    assert spec.pod_template["spec"]["nodeSelector"] == {"zone": "b"}
    with pytest.raises(ConfigurationError, match="'zone' has no value"):
        tree.specify()


def test_an_unknown_variable_is_refused(tree: Tree) -> None:
    tree.environment('variables: {team: platform}\nlabels: {owner: "${team}"}\n')
    with pytest.raises(UnknownName, match="did you mean 'team'"):
        tree.specify(variables={"taem": "finance"})
    tree.environment('labels: {owner: "${team}"}\n')
    with pytest.raises(UnknownName, match="no variable 'team'"):
        tree.specify()


def test_a_variable_that_is_used_nowhere_is_refused(tree: Tree) -> None:
    tree.environment("variables: {team: platform}\n")
    with pytest.raises(ConfigurationError, match="'team' is used nowhere"):
        tree.specify()


def test_a_pod_template_that_is_no_pod_is_refused(tree: Tree) -> None:
    tree.environment("kubernetes: {pod_template: pod.yaml}\n", runtime="kubernetes")
    tree.put("warehouses/environments/pod.yaml", "kind: Deployment\n")
    with pytest.raises(InvalidFile, match="is no pod"):
        tree.specify()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("hostNetwork: true", "goes without hostNetwork"),
        ("automountServiceAccountToken: true", "goes without automountServiceAccountToken"),
        ("volumes: [{name: datakit-scratch, emptyDir: {}}]", "the volume datakit-scratch is the datakit's own"),
        ("initContainers: [{name: datakit-sidecar}]", "the container datakit-sidecar is the datakit's own"),
        (
            "containers: [{name: base, volumeMounts: [{name: datakit-bootstrap, mountPath: /b}]}]",
            "the volume datakit-bootstrap is the datakit's own",
        ),
        ("containers: [{name: proxy}, {name: base}]", "is not the first one"),
        ("containers: [{name: base, command: [sh]}]", "base has its command from the run protocol"),
        ("containers: [{name: base, envFrom: [{secretRef: {name: db}}]}]", "base has its envFrom"),
        ("containers: [{name: base, env: [{name: DATAKIT_RUN, value: x}]}]", "DATAKIT_RUN is set by the run protocol"),
        (
            "containers: [{name: base, env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]}]",
            "A would bring a secret into the environment",
        ),
    ],
)
def test_a_pod_template_that_undoes_what_a_datakits_pod_goes_without_is_refused(
    tree: Tree, spec: str, words: str
) -> None:
    tree.environment("kubernetes: {pod_template: pod.yml}\n", runtime="kubernetes")
    tree.put("warehouses/environments/pod.yml", f"kind: Pod\nspec:\n  nodeSelector: {{pool: data}}\n  {spec}\n")
    with pytest.raises(InvalidFile, match=words) as caught:
        tree.specify()
    assert "pod.yml:4:" in str(caught.value)


def test_a_task_carries_its_own_dataset_of_the_warehouse_and_no_other(tree: Tree) -> None:
    tree.environment("")
    file = tree.root / "warehouses/finance/warehouse.yaml"
    configured = tree.specify().configuration["warehouse"]
    assert [entry["datasets"] for entry in configured["ingest"]] == [["airline.flights"]]
    assert configured["name"] == "finance"
    assert "airline.planes" in file.read_text()


@pytest.mark.parametrize("runtime", ["docker", "kubernetes"])
@pytest.mark.parametrize(
    ("volumes", "words"),
    [
        ({"a": "data"}, "should match pattern"),
        ({"a": "/tmp"}, "/tmp is the datakit's own"),
        ({"a": "/tmp/data"}, "/tmp is the datakit's own"),
        ({"a": "/run"}, "/run/datakit is the datakit's own"),
        ({"a": "/airflow/xcom"}, "/airflow is the datakit's own"),
        ({"a": "/data", "b": "/data"}, "b and a would both be at /data"),
    ],
)
def test_a_volume_where_the_datakit_has_its_own_or_another_is_refused(
    runtime: str, volumes: dict[str, str], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        Environment.model_validate({"name": "x", "runtime": runtime, runtime: {"volumes": volumes}})


@pytest.mark.parametrize("name", ["DB_PASSWORD", "API_TOKEN", "VAULT_SECRET", "KRB5CCNAME", "DATAKIT_RUN", "A-B"])
def test_what_may_not_be_in_the_environment_of_a_datakit_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Environment.model_validate({"name": "x", "runtime": "process", "env": {name: "value"}})
