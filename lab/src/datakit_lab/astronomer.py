"""A double of self-hosted Astronomer, as far as it deploys images: the mutation of its API, and its command ``astro``.

The mutation is ``updateDeploymentImage`` as Astronomer documents it
(https://www.astronomer.io/docs/astro-private-cloud/houston-update-deployment-image), with the words in which the real
one refuses. The command is a script that takes the options of ``astro deploy --image-name … --remote`` and calls the
same API. What else Astronomer does, pulling the image before all, neither does.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from datakit_lab.network import LOOPBACK

if TYPE_CHECKING:
    from datakit_lab.certificates import ServerCertificate

KEY: Final = "lab-service-account-key"
"""What the double takes in ``Authorization``."""
_PATH: Final = "/v1"
_NO_PERMISSION: Final = "You do not have the appropriate permissions for that"
_COMMAND: Final = '''\
#!{python} -IS
"""Takes what ``astro deploy`` of version 1 and 2 takes, as a person who is logged in."""
import argparse, json, os, sys, urllib.request

with open({log!r}, "a", encoding="utf-8") as log:
    log.write(json.dumps({{"argv": sys.argv[1:], "folder": os.getcwd(), "files": sorted(os.listdir())}}) + "\\n")

class Parser(argparse.ArgumentParser):
    def error(self, message):
        unknown = message.partition("unrecognized arguments: ")[2].split()
        sys.exit(f"Error: unknown flag: {{unknown[0]}}" if unknown else f"Error: {{message}}")

parser = Parser(prog="astro", add_help=False, allow_abbrev=False)
parser.add_argument("command", choices=["deploy"])
parser.add_argument("deployment")
parser.add_argument("--image-name")
parser.add_argument("--remote", action="store_true")
parser.add_argument("--runtime-version")
parser.add_argument("--workspace-id")
parser.add_argument("--force", "-f", action="store_true")
given = parser.parse_args()
if not os.path.isfile(".astro/config.yaml"):
    sys.exit("Error: this is not an Astro project directory. Change to another directory")
if given.remote and not given.runtime_version:
    sys.exit("Error: if --image-name and --remote is passed, it's mandatory to pass --runtime-version")
if not given.remote:
    sys.exit("Error: the image " + str(given.image_name) + " is not present on the local machine")
known = json.loads({ids!r})
if given.deployment not in known:
    sys.exit("Error: please specify a valid deployment ID")
print("Skipping building the image since --image-name flag is used...")
release, image, runtime = known[given.deployment], given.image_name, given.runtime_version
variables = {{"releaseName": release, "image": image, "runtimeVersion": runtime}}
body = json.dumps({{"query": "mutation updateDeploymentImage", "variables": variables}}).encode()
headers = {{"Content-Type": "application/json", "Authorization": {key!r}}}
with urllib.request.urlopen(urllib.request.Request({url!r}, body, headers)) as answer:
    said = json.load(answer)
if said.get("errors"):
    sys.exit("Error: " + said["errors"][0]["message"])
print("Image successfully updated")
'''


@dataclass
class Deployment:
    """One Airflow of the double.

    :ivar id: what ``astro deploy`` calls it.
    :ivar image: what it was told to run; None at first.
    """

    id: str
    image: str | None = None
    runtime_version: str | None = None


@dataclass
class Astronomer:
    """``with Astronomer() as astronomer``: ``astronomer.url`` is its API.

    :ivar deployments: by release name.
    :ivar certificate: switches TLS on.
    :ivar answer: replaces the answer of the API, for tests of faults: gets the number of the request, beginning at 1,
        and returns status and body, or None for its own answer.
    :ivar requests: the bodies that came, without what was in their headers.
    """

    deployments: dict[str, Deployment] = field(default_factory=lambda: {"stellar-quark-1234": Deployment("clx0int")})
    certificate: ServerCertificate | None = None
    answer: Callable[[int], tuple[int, bytes] | None] = lambda _: None
    requests: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._server.daemon_threads = True
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate.certificate, self.certificate.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where its API is."""
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://{LOOPBACK}:{self._server.server_port}{_PATH}"

    def install_command(self, folder: Path) -> Path:
        """Write the command ``astro`` into a folder, which then belongs on PATH; return the log of its calls."""
        log = folder / "astro.log"
        ids = json.dumps({deployment.id: release for release, deployment in self.deployments.items()})
        script = _COMMAND.format(python=sys.executable, log=str(log), ids=ids, key=KEY, url=self.url)
        program = folder / "astro"
        program.write_text(script, encoding="utf-8")
        program.chmod(0o755)
        return log

    def respond(self, key: str | None, body: Any) -> tuple[int, bytes]:
        """Answer one request as the real API does: refusals have status 200."""
        self.requests.append(body)
        if (replaced := self.answer(len(self.requests))) is not None:
            return replaced
        said = body.get("variables") or {} if isinstance(body, dict) else {}
        if not isinstance(body, dict) or "updateDeploymentImage" not in str(body.get("query")):
            return 400, _errors("Cannot query field")
        deployment = self.deployments.get(str(said.get("releaseName")))
        if key != KEY or deployment is None:  # what an account may not see is not told apart from what is not there
            return 200, _errors(_NO_PERMISSION)
        if not said.get("image"):
            return 400, _errors('Variable "$image" of required type "String!" was not provided.')
        deployment.image, deployment.runtime_version = said["image"], said.get("runtimeVersion")
        done = {"releaseName": said["releaseName"], "runtimeVersion": deployment.runtime_version}
        return 200, json.dumps({"data": {"updateDeploymentImage": done}}).encode()


def _errors(message: str) -> bytes:
    return json.dumps({"errors": [{"message": message}], "data": {"updateDeploymentImage": None}}).encode()


def _handler(double: Astronomer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != _PATH:
                status, body = 404, b"<html>not here</html>"
            else:
                try:
                    parsed: Any = json.loads(data)
                except ValueError:
                    parsed = None
                status, body = double.respond(self.headers.get("Authorization"), parsed)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name of the method that it replaces
            """Write no access log: it would be on the test's own stderr."""

    return Handler
