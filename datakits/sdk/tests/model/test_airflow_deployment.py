"""How an environment's Airflow is deployed: each way has its own keys, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from datakit.errors import InvalidFile
from datakit.model.environment import AirflowDeployment, Environment
from datakit.model.yaml import Document

FILE = "name: int\nruntime: kubernetes\nairflow: {section}\nsources: {{}}\nwarehouses: {{}}\n"


def read(section: str) -> AirflowDeployment:
    found = Document(FILE.format(section=section), "int.yaml").into(Environment).airflow
    assert found is not None
    return found


def refused(section: str) -> InvalidFile:
    with pytest.raises(InvalidFile) as caught:
        read(section)
    return caught.value


@pytest.mark.parametrize(
    "section",
    [
        "{deploy: gitops, overlay: deploy/airflow/int}",
        "{deploy: gitops, overlay: ../gitops/int, replaces: airflow}",
        "{deploy: gitops, values: deploy/airflow/int.yaml}",
        "{deploy: astronomer, url: 'https://houston.corp.example/v1', release: a-1, token: astronomer/key}",
        "{deploy: astro-cli, deployment: ckwqkz36200140ror6axh8p19}",
        "{deploy: astro-cli, deployment: a, workspace: b}",
    ],
)
def test_each_way_has_its_keys(section: str) -> None:
    assert section.split()[1].rstrip(",") == read(section).deploy


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{deploy: gitops}", "needs either overlay"),
        ("{deploy: gitops, overlay: a, values: b}", "needs either overlay"),
        ("{deploy: gitops, overlay: a, token: a/b}", "takes no token, but overlay, replaces, values"),
        ("{deploy: astronomer, url: 'https://a/v1', release: a-1}", "needs token"),
        ("{deploy: astro-cli}", "needs deployment"),
        ("{deploy: astro-cli, deployment: a, url: 'https://a/v1'}", "takes no url"),
        ("{deploy: helm}", "choose one of: gitops, astronomer, astro-cli"),
        ("{deploy: gitops, overlays: a}", "unknown key 'airflow.overlays'"),
        ("{deploy: astronomer, url: 'https://u:p@a/v1', release: a-1, token: a/b}", "a URL without a login"),
    ],
)
def test_a_key_of_another_way_and_one_that_is_missing_are_refused_with_their_line(section: str, words: str) -> None:
    error = refused(section)
    said = " ".join(str(part) for part in (error, *error.others))
    assert words in said
    assert "int.yaml:3:" in said


def test_a_token_that_stands_there_itself_is_refused_and_not_repeated() -> None:
    error = refused("{deploy: astronomer, url: 'https://a/v1', release: a-1, token: eyJhbGciOi}")
    assert "names a secret and never holds one" in str(error)
    assert "eyJhbGciOi" not in str(error)


def test_an_environment_needs_no_such_section() -> None:
    without: dict[str, Any] = {"name": "local", "runtime": "process"}
    assert Environment.model_validate(without).airflow is None
