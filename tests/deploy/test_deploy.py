"""What is deployed is what Kubernetes takes, gives nobody more than they need, and fits what the environments say.

Overlays are rendered by kustomize, as ``kubectl kustomize`` has it. Argo CD and the two CI systems are not here: what
they read is compared with the keys that they document.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from datakit.model.project import Project
from datakit.release.overlay import Overlay
from datakit_sidecar.configuration import parse

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
ENVIRONMENTS = ("int", "qa", "prod")
VALIDATE = """
import json, sys, kubernetes_validate
for document in json.load(sys.stdin):
    for version in ("1.29.0", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(document, version, strict=True)
"""
APPLICATION = {
    "project": {},
    "source": {"repoURL": {}, "targetRevision": {}, "path": {}},
    "destination": {"server": {}, "namespace": {}},
    "syncPolicy": {
        "automated": {"prune": {}, "selfHeal": {}},
        "syncOptions": {},
        "retry": {"limit": {}, "backoff": {"duration": {}, "factor": {}, "maxDuration": {}}},
    },
}
"""Keys of https://argo-cd.readthedocs.io/en/stable/operator-manual/application.yaml that are used."""

needs_kustomize = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders overlays")
environments = pytest.mark.parametrize("environment", ENVIRONMENTS)


@lru_cache
def rendered(environment: str) -> tuple[dict[str, Any], ...]:
    done = subprocess.run(
        ["kubectl", "kustomize", DEPLOY / "overlays" / environment], capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)
    return tuple(yaml.safe_load_all(done.stdout))


def one(environment: str, kind: str, name: str | None = None) -> dict[str, Any]:
    (found,) = [
        each for each in rendered(environment) if each["kind"] == kind and name in (None, each["metadata"]["name"])
    ]
    return found


def documents() -> list[tuple[Path, dict[str, Any]]]:
    return [(path, each) for path in sorted(DEPLOY.rglob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]


def validator() -> str | None:
    """Return a Python that has kubernetes-validate: this one, or that of the Airflow provider's tests."""
    for python in (sys.executable, str(ROOT / ".venv-airflow/bin/python")):
        if Path(python).exists():
            done = subprocess.run([python, "-c", "import kubernetes_validate"], capture_output=True, check=False)
            if done.returncode == 0:
                return python
    return None


def validated(found: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    python = validator()
    if python is None:
        pytest.skip("kubernetes-validate is not installed: scripts/setup --airflow")
    return subprocess.run(
        [python, "-c", VALIDATE], input=json.dumps(found), capture_output=True, text=True, check=False
    )


def test_kubernetes_takes_every_object_strictly() -> None:
    files = [(path, each) for path, each in documents() if {"base", "overlays"} & set(path.parts)]
    found = [each for path, each in files if path.name not in ("kustomization.yaml", "sidecar.yaml")]
    assert len(found) > 8
    done = validated(found)
    assert 0 == done.returncode, done.stderr
    found[0]["spec"] = {"nothing": "of the kind"}
    assert 0 != validated(found).returncode


@needs_kustomize
@environments
def test_kubernetes_takes_each_overlay_strictly(environment: str) -> None:
    done = validated(list(rendered(environment)))
    assert 0 == done.returncode, done.stderr


@needs_kustomize
@environments
def test_everything_of_an_environment_is_in_its_namespace(environment: str) -> None:
    assert f"datakit-{environment}" == one(environment, "Namespace")["metadata"]["name"]
    places = {each["metadata"].get("namespace") for each in rendered(environment) if each["kind"] != "Namespace"}
    assert {f"datakit-{environment}"} == places
    assert {environment} == {each["metadata"]["labels"]["datakit.environment"] for each in rendered(environment)}


@needs_kustomize
@environments
def test_airflow_may_run_pods_and_read_no_secret(environment: str) -> None:
    kinds = {each["kind"] for each in rendered(environment)}
    assert not kinds & {"Secret", "ClusterRole", "ClusterRoleBinding"}
    rules = one(environment, "Role")["rules"]
    verbs = {resource: set(rule["verbs"]) for rule in rules for resource in rule["resources"]}
    assert {"pods", "pods/log", "pods/exec", "events"} == set(verbs)
    assert {"create", "get", "list", "watch", "patch", "delete"} == verbs["pods"]
    assert {"get"} == verbs["pods/log"]
    subjects = one(environment, "RoleBinding")["subjects"]
    assert {"airflow"} == {each["namespace"] for each in subjects}  # another namespace's, which is not ours to rename


@needs_kustomize
@environments
def test_a_datakit_reaches_what_is_listed_and_nothing_else(environment: str) -> None:
    nothing = one(environment, "NetworkPolicy", "nothing")["spec"]
    assert ({}, {"Ingress", "Egress"}) == (nothing["podSelector"], set(nothing["policyTypes"]))
    assert not nothing.keys() & {"ingress", "egress"}
    policy = one(environment, "NetworkPolicy", "datakits")["spec"]
    assert ["datakit.name"] == [each["key"] for each in policy["podSelector"]["matchExpressions"]]
    for rule in policy["egress"]:
        assert rule["to"]
        assert rule["ports"]
        assert all(int(to["ipBlock"]["cidr"].partition("/")[2]) >= 24 for to in rule["to"])
    assert [88, 88, 443, 1433, 5432] == sorted(port["port"] for rule in policy["egress"] for port in rule["ports"])


@needs_kustomize
@environments
def test_a_pod_without_limits_of_its_own_is_not_refused_by_the_quota(environment: str) -> None:
    hard = one(environment, "ResourceQuota")["spec"]["hard"]
    (limit,) = one(environment, "LimitRange")["spec"]["limits"]
    for part, defaults in (("requests", limit["defaultRequest"]), ("limits", limit["default"])):
        bounded = {name.partition(".")[2] for name in hard if name.startswith(f"{part}.")}
        assert bounded <= defaults.keys()


@needs_kustomize
@environments
def test_what_the_environment_names_is_there(environment: str) -> None:
    place = Project(ROOT).environment(environment)
    assert place.sidecar is not None
    assert place.kubernetes.namespace == one(environment, "Namespace")["metadata"]["name"]
    account = one(environment, "ServiceAccount")
    assert place.kubernetes.service_account == account["metadata"]["name"]
    assert account["automountServiceAccountToken"] is False
    assert list(place.kubernetes.pull_secrets) == [each["name"] for each in account["imagePullSecrets"]]
    configuration = one(environment, "ConfigMap")
    assert place.sidecar.config_map == configuration["metadata"]["name"]
    assert {"sidecar.yaml", "krb5.conf"} == set(configuration["data"])
    settings = parse(configuration["data"]["sidecar.yaml"])
    assert {each.principal for each in place.sources.values()} == {each.name for each in settings.principals}
    references = {section["password"] for section in place.warehouses.values() if "password" in section}
    assert references == {f"{each.folder}/{name}" for each in settings.secrets for name in each.fields}
    claims = [each["metadata"]["name"] for each in rendered(environment) if each["kind"] == "PersistentVolumeClaim"]
    assert list(place.kubernetes.volumes) == claims
    assert one(environment, "ResourceQuota")["spec"]["hard"]["persistentvolumeclaims"] == str(len(claims))
    files = {section["path"] for section in place.warehouses.values() if "path" in section}
    assert {str(Path(file).parent) for file in files} == set(place.kubernetes.volumes.values())
    services = {service for each in settings.principals for service in each.services}
    assert {f"MSSQLSvc/{each.host}:{each.port}" for each in place.sources.values()} == services


@environments
def test_a_sidecar_is_configured_without_a_secret_and_finds_its_realm(environment: str) -> None:
    folder = DEPLOY / "overlays" / environment
    settings = parse((folder / "sidecar.yaml").read_text())
    assert settings.vault is not None
    assert Path("/run/datakit/bootstrap") == settings.vault.credentials
    assert 0o640 == settings.publish.mode
    pod = runpy.run_path(str(DEPLOY.parent / "platform/airflow/src/airflow_datakit/runtimes/_places.py"))
    assert (Path(pod["TICKETS"]), Path(pod["SECRETS"])) == (settings.publish.tickets, settings.publish.secrets)
    assert f"{settings.kerberos.realm} = {{" in (folder / "krb5.conf").read_text()  # type: ignore[union-attr]
    assert settings.kerberos.krb5_conf == Path("/etc/datakit/krb5.conf")  # type: ignore[union-attr]


def unknown(found: dict[str, Any], known: dict[str, Any], path: str = "spec") -> list[str]:
    wrong = [f"{path}.{key}" for key in found.keys() - known.keys()]
    inner = [(key, value) for key, value in found.items() if isinstance(value, dict) and known.get(key)]
    return wrong + [each for key, value in inner for each in unknown(value, known[key], f"{path}.{key}")]


@environments
def test_argo_cd_is_told_what_it_knows_and_may_do_no_more_than_its_project_says(environment: str) -> None:
    found = yaml.safe_load((DEPLOY / f"argocd/{environment}.yaml").read_text())
    assert ("argoproj.io/v1alpha1", "Application") == (found["apiVersion"], found["kind"])
    assert [] == unknown(found["spec"], APPLICATION)
    assert (ROOT / found["spec"]["source"]["path"] / "kustomization.yaml").is_file()
    project = yaml.safe_load((DEPLOY / "argocd/project.yaml").read_text())
    assert found["spec"]["project"] == project["metadata"]["name"]
    assert found["spec"]["destination"] in project["spec"]["destinations"]
    assert found["spec"]["source"]["repoURL"] in project["spec"]["sourceRepos"]
    assert (environment != "prod") == ("automated" in found["spec"]["syncPolicy"])


@needs_kustomize
@environments
def test_argo_cds_project_lets_every_kind_of_the_overlay_in_and_no_other(environment: str) -> None:
    project = yaml.safe_load((DEPLOY / "argocd/project.yaml").read_text())["spec"]
    allowed = [*project["clusterResourceWhitelist"], *project["namespaceResourceWhitelist"]]
    groups = [(each["apiVersion"].rpartition("/")[0] or "", each["kind"]) for each in rendered(environment)]
    groups = [("" if group == "v1" else group, kind) for group, kind in groups]
    assert {(each["group"], each["kind"]) for each in allowed} == set(groups)


@environments
def test_airflows_values_name_their_environment_and_take_the_image(environment: str) -> None:
    way = Project(ROOT).environment(environment).airflow
    assert way is not None
    overlay = Overlay.read(ROOT, way)
    values = yaml.safe_load(overlay.text)
    assert [{"name": "DATAKIT_ENVIRONMENT", "value": environment}] == values["env"]
    assert overlay.image is None
    digest = f"sha256:{'7' * 64}"
    written = yaml.safe_load(overlay.with_image("registry.corp.example/data/platform/airflow-deployment", digest))
    assert (digest, False) == (written["images"]["airflow"]["digest"], written["images"]["useDefaultImageForMigration"])


def scripts() -> list[tuple[str, str]]:
    github = yaml.safe_load((DEPLOY / "ci/github-actions.yaml").read_text())
    found = [
        (f"github {name}", step["run"])
        for name, job in github["jobs"].items()
        for step in job["steps"]
        if "run" in step
    ]
    gitlab = yaml.safe_load((DEPLOY / "ci/gitlab-ci.yaml").read_text())
    for name, job in gitlab.items():
        lines = job.get("script", []) if isinstance(job, dict) else []
        found += [
            (
                f"gitlab {name}",
                "\n".join(line if isinstance(line, list) is False else "\n".join(line) for line in lines),
            )
        ]
    return [(where, text) for where, text in found if text]


@pytest.mark.parametrize(("where", "text"), scripts())
def test_a_script_of_ci_is_shell_that_calls_what_exists(where: str, text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    for command, rest in re.findall(r"^\s*datakit ([a-z]+)(.*)$", text, re.MULTILINE):
        shown = subprocess.run(
            [sys.executable, "-m", "datakit", command, "--help"], capture_output=True, text=True, check=False
        )
        assert 0 == shown.returncode, command
        for option in re.findall(r"--[a-z-]+", rest.partition("#")[0]):
            assert option in shown.stdout, f"{where}: {command} {option}"


@pytest.mark.parametrize(("where", "text"), scripts())
def test_no_script_of_ci_pushes_to_the_main_branch_or_shows_a_password(where: str, text: str) -> None:
    for line in text.splitlines():
        if "git push" in line:
            assert re.search(r'"\$branch"$|refs/heads/\$BRANCH"$', line.strip()), where
        assert "${{" not in line, f"{where}: an expression in a script runs what somebody typed"
        assert not re.search(r"--password[ =]", line)
