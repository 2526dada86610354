"""Self-hosted Astronomer (Software, Private Cloud), told which image a deployment has: by its API, or by its command.

The API is GraphQL, and ``updateDeploymentImage`` its documented mutation for images in a company's own registry
(https://www.astronomer.io/docs/astro-private-cloud/houston-update-deployment-image); ``astro deploy --image-name
--remote`` sends the same. Setting the same image again changes nothing, so that both may be repeated.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, SSLError

from datakit.credentials.secrets import Secret, read_secret
from datakit.errors import AccessDenied, ConfigurationError, DatakitError, LoginRefused, TemporaryError
from datakit.model.environment import AirflowDeployment
from datakit.release._transport import is_loopback
from datakit.release.deploying import Deployable

MUTATION: Final = """\
mutation updateDeploymentImage($releaseName: String!, $image: String!, $runtimeVersion: String) {
  updateDeploymentImage(releaseName: $releaseName, image: $image, runtimeVersion: $runtimeVersion) {
    releaseName
    runtimeVersion
  }
}
"""
_TIMEOUT: Final = urllib3.Timeout(connect=10, read=60)
_TRIES: Final = 3
_FIRST_PAUSE: Final = 1.0
_LARGEST: Final = 1024 * 1024
_REFUSALS: Final = ("appropriate permissions", "AUTH_TOKEN_REFRESH_FAILED", "UNAUTHENTICATED", "FORBIDDEN")
"""In an answer with status 200: how Astronomer says that the key is no good, or may not do that."""
_COMMAND_SECONDS: Final = 900
_LAST_WORDS: Final = 600


def request_of(way: AirflowDeployment, image: Deployable) -> dict[str, Any]:
    """Return the body of the call, which holds no secret.

    :raises ConfigurationError: the image stands on no Astronomer runtime.
    """
    variables = {"releaseName": way.release, "image": image.image, "runtimeVersion": _runtime_version(image)}
    return {"query": MUTATION, "variables": variables}


def update_image(
    root: Path, way: AirflowDeployment, image: Deployable, *, pause: Callable[[float], None] = time.sleep
) -> Mapping[str, Any]:
    """Tell Astronomer's API which image a deployment has; return what it says of the deployment.

    :param root: of the tree, where the path of ``ca_file`` starts.
    :param pause: sleeps between tries.
    :raises AccessDenied: the key is missing, refused, or may not do that.
    :raises TemporaryError: it cannot be reached, or fails, at every try.
    :raises ConfigurationError: it refuses the request, its certificate is not trusted, or it is no Astronomer.
    """
    url, body = way.url or "", request_of(way, image)
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.netloc):
        raise ConfigurationError(
            "a key is sent to Astronomer's API, so it has to have TLS",
            subject=url,
            fix="write https:// in airflow.url of the environment",
        )
    secret = read_secret(way.token or "")
    with _pool(root, way) as pool:
        for number in range(1, _TRIES + 1):
            try:
                return _told(_post(pool, url, body, secret), way)
            except TemporaryError:
                if number == _TRIES:
                    raise
                pause(_FIRST_PAUSE * 4 ** (number - 1))
    raise AssertionError("the last try returns or raises")


def command_of(way: AirflowDeployment, image: Deployable) -> list[str]:
    """Return the command that deploys the image; who runs it is logged in already (``astro login``).

    :raises ConfigurationError: the image stands on no Astronomer runtime.
    """
    command = ["astro", "deploy", way.deployment or "", "--image-name", image.image, "--remote"]
    command += ["--runtime-version", _runtime_version(image), "--force"]
    return [*command, "--workspace-id", way.workspace] if way.workspace else command


def run_command(way: AirflowDeployment, image: Deployable) -> str:
    """Run Astronomer's command; return what it printed.

    It runs in a folder of its own, because it would upload the DAGs of the folder that it is called in.

    :raises ConfigurationError: it is not installed, or says no.
    :raises TemporaryError: it does not end.
    """
    command = command_of(way, image)
    shown = " ".join(command)
    with tempfile.TemporaryDirectory(prefix="datakit-deploy-") as folder:
        settings = Path(folder, ".astro", "config.yaml")  # without it, astro 1 takes the folder for no project
        settings.parent.mkdir()
        settings.write_text("project:\n  name: datakit\n", encoding="utf-8")
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | {"NO_COLOR": "1"},
                stdin=subprocess.DEVNULL,  # nobody is there to answer a question
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise ConfigurationError(
                "astro, Astronomer's command, is not installed here",
                subject=shown,
                fix="install it, or deploy by the API: deploy: astronomer in the environment's section airflow",
            ) from None
        except subprocess.TimeoutExpired:
            raise TemporaryError(
                f"astro did not end within {_COMMAND_SECONDS} seconds, and was killed",
                subject=shown,
                fix="see in Astronomer which image the deployment has, then run it again",
            ) from None
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode:
        words = " ".join(said.split())[-_LAST_WORDS:] or "it said nothing"
        raise ConfigurationError(
            f"astro ended with {done.returncode}: {words}",
            subject=shown,
            cause="this astro is too old to deploy an image of a company's registry"
            if "unknown flag" in said
            else None,
            fix="put right what it says; who runs it has to be logged in: astro login BASEDOMAIN",
        )
    return said


def _runtime_version(image: Deployable) -> str:
    if image.runtime_version is None:
        raise ConfigurationError(
            "the image does not say which Astronomer runtime it holds, and Astronomer wants to be told",
            subject=image.image,
            cause="it stands on another Airflow: it has no label io.astronomer.docker.runtime.version",
            fix="build platform/airflow on your Astronomer runtime: RUNTIME=… scripts/images build airflow",
        )
    return image.runtime_version


def _pool(root: Path, way: AirflowDeployment) -> urllib3.PoolManager:
    chosen = root / way.ca_file if way.ca_file else None
    try:
        context = ssl.create_default_context(cafile=str(chosen) if chosen else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the authority's certificate cannot be read: {getattr(error, 'strerror', None) or 'it holds none'}",
            subject=str(chosen),
            fix="name a file with the authority's certificate in PEM: airflow.ca_file of the environment",
        ) from None
    return urllib3.PoolManager(ssl_context=context, timeout=_TIMEOUT, retries=False)


def _post(
    pool: urllib3.PoolManager, url: str, body: Mapping[str, Any], secret: Secret[str]
) -> urllib3.BaseHTTPResponse:
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Authorization": secret.reveal()}
    try:
        return pool.request(
            "POST", url, body=json.dumps(body).encode(), headers=headers, redirect=False, preload_content=False
        )
    except SSLError as error:
        raise ConfigurationError(
            f"the certificate of Astronomer's API is not trusted: {error.args[0] if error.args else error}",
            subject=url,
            fix="name its authority: airflow.ca_file of the environment",
        ) from None
    except (HTTPError, OSError) as error:
        raise TemporaryError(
            f"Astronomer's API cannot be reached: {type(error).__name__}",
            subject=url,
            fix="check airflow.url of the environment, and whether it runs; then run it again",
        ) from None


def _told(response: urllib3.BaseHTTPResponse, way: AirflowDeployment) -> Mapping[str, Any]:
    """Return what the answer says of the deployment."""
    subject, status = f"{way.url}: {way.release}", response.status
    try:
        data = response.read(_LARGEST)
    except (HTTPError, OSError):
        raise TemporaryError(
            "Astronomer's API broke off in the middle", subject=subject, fix="run it again; that is safe"
        ) from None
    finally:
        response.release_conn()
    if status in (401, 403):
        raise _refused(way, f"status {status}")
    if status == 429 or status >= 500:
        raise TemporaryError(f"Astronomer's API answered {status}", subject=subject, fix="run it again; that is safe")
    try:
        answer = json.loads(data)
        errors = [str(each.get("message", each)) for each in answer.get("errors") or []]
        done = (answer.get("data") or {}).get("updateDeploymentImage")
    except (ValueError, AttributeError):
        raise ConfigurationError(
            f"what answered {status} is not Astronomer's API",
            subject=subject,
            cause="a proxy or a login page is in between, or the path is another one",
            fix="correct airflow.url of the environment: https://houston.BASEDOMAIN/v1",
        ) from None
    if errors:
        raise _graphql_error(way, data.decode(errors="replace"), errors, subject)
    if status != 200 or not isinstance(done, dict):
        raise ConfigurationError(
            f"Astronomer's API answered {status} and did not say that the image was set",
            subject=subject,
            fix="see in Astronomer which image the deployment has",
        )
    return done


def _graphql_error(way: AirflowDeployment, text: str, errors: list[str], subject: str) -> DatakitError:
    words = "; ".join(errors)[:_LAST_WORDS]
    if any(word in text for word in _REFUSALS):
        return _refused(way, words)
    return ConfigurationError(
        f"Astronomer's API refused it: {words}",
        subject=subject,
        cause="the platform does not let images be set by its API"
        if "Cannot query field" in words or "enableUpdateDeploymentImageEndpoint" in words
        else None,
        fix="put right what it says; release is the name under which Helm installed the deployment, and the platform "
        "has to have deployments.enableUpdateDeploymentImageEndpoint",
    )


def _refused(way: AirflowDeployment, words: str) -> AccessDenied:
    return LoginRefused(
        f"Astronomer does not take the key, or does not let it deploy here ({words})",
        subject=f"{way.url}: {way.release}",
        cause=f"the secret {way.token} is another deployment's, was revoked, or is only a viewer's",
        fix="make a service account that may deploy there (DEPLOYMENT_EDITOR), and put its key in the vault",
    )
