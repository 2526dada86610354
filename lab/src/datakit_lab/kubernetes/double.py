"""The double as a whole: an API server, a node, and a kubeconfig for clients."""

from __future__ import annotations

import base64
import contextlib
import logging
import secrets
import ssl
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import psutil
import yaml

from datakit_lab.certificates import ServerCertificate, issue_certificate
from datakit_lab.docker import Engine, EngineRefused
from datakit_lab.errors import LabError, LabUnavailable
from datakit_lab.kubernetes._api import Api, Target
from datakit_lab.kubernetes._claims import Claims
from datakit_lab.kubernetes._http import ApiServer
from datakit_lab.kubernetes._images import Images
from datakit_lab.kubernetes._network import may_join
from datakit_lab.kubernetes._node import LABEL, OWNER_LABEL, Node
from datakit_lab.kubernetes._pause import ensure_pause_image
from datakit_lab.kubernetes._store import Store
from datakit_lab.network import LOOPBACK

Json = dict[str, Any]

_log = logging.getLogger(__name__)
_BACKOFF_SECONDS: Final = 10.0


class KubernetesDouble:
    """A double of a Kubernetes cluster. Use it as a context manager; with the end of it, every pod is gone.

    :param directory: where the kubeconfig and the certificates are put, mode 0700; a passing folder if None.
    :param port: loopback port of the API, 0 for a free one.
    :param namespaces: those that are there from the start, besides ``default``.
    :param backoff: seconds before the second try of a pull or a restart; a real node's are 10, doubled each time.
    :param own_network: each pod has a network of its own, as on a real cluster, with the servers of this machine's
        loopback on its own loopback; else pods share this machine's. Only root may.
    :param engine: the Docker engine; the one of this machine if None.
    :raises LabUnavailable: no engine answers, or the port is taken.
    :raises LabError: this user may not give pods a network of their own.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int = 0,
        namespaces: tuple[str, ...] = (),
        backoff: float = _BACKOFF_SECONDS,
        own_network: bool = False,
        engine: Engine | None = None,
    ) -> None:
        if own_network and not may_join():
            raise LabError("only root may give pods a network of their own", fix="leave it out, or run it as root")
        self._wanted_directory = directory
        self._wanted_port = port
        self._namespaces = ("default", *namespaces)
        self._engine = engine or Engine()
        self._store = Store()
        images = Images(self._engine, self._store)
        self._claims = Claims()
        node = Node(self._engine, self._store, images, self._claims, backoff=backoff, own_network=own_network)
        self._api = Api(node)
        self._token = secrets.token_urlsafe(32)
        self._stack = contextlib.ExitStack()
        self._server: ApiServer | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            sweep(self._engine)
            ensure_pause_image(self._engine)
            self.directory = self._wanted_directory or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="datakit-lab-kubernetes-"))
            )
            stack.enter_context(self._claims)
            certificate = issue_certificate(self.directory)
            for name in self._namespaces:
                self.create("namespaces", {"metadata": {"name": name}})
            self._server = stack.enter_context(self._listen(certificate))
            stack.callback(self._remove_leftovers)
            stack.callback(self._api.end_all)
            thread = threading.Thread(target=self._server.serve_forever, name="kubernetes", daemon=True)
            thread.start()
            stack.callback(self._server.shutdown)
            self._write_kubeconfig(certificate)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """The address of the API."""
        if self._server is None:
            raise RuntimeError("the double was not started")
        return f"https://{LOOPBACK}:{self._server.server_address[1]}"

    @property
    def kubeconfig(self) -> Path:
        """The file for clients: address, authority and token; mode 0600."""
        return self.directory / "kubeconfig"

    def create(self, resource: str, given: Mapping[str, Any], *, namespace: str = "default") -> Json:
        """Create an object as a client would: ``create("secrets", {"metadata": …, "stringData": …})``.

        :raises ApiError: the API refuses it.
        """
        path = f"/api/v1/{resource}" if resource == "namespaces" else f"/api/v1/namespaces/{namespace}/{resource}"
        return self._api.create(Target.of(path), dict(given))

    def pods(self, namespace: str | None = None) -> list[Json]:
        """Return the pods of a namespace, or of all."""
        return self._store.select("pods", namespace)[0]

    def claim_folder(self, name: str, *, namespace: str = "default") -> Path:
        """Return the folder of this machine that a PersistentVolumeClaim's data is in.

        :raises ApiError: there is no such claim.
        """
        return self._claims.folder(self._store.get("persistentvolumeclaims", namespace, name))

    def forbid(self, verb: str, resource: str) -> None:
        """From now on refuse ``verb`` (create, get, list, watch, patch, delete) on ``resource`` (pods, pods/log …)."""
        self._api.forbid(verb, resource)

    def permit_all(self) -> None:
        """Forget what was forbidden."""
        self._api.permit_all()

    def _remove_leftovers(self) -> None:
        """Remove what no pod owns any more, should one have come to grief."""
        name = self._api.node.name
        if left := _remove(self._engine, f"{LABEL}={name}", lambda _: True):
            _log.warning("%s containers of pods that came to grief were removed", left)

    def _listen(self, certificate: ServerCertificate) -> ApiServer:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate.certificate, certificate.key)
        try:
            return ApiServer((LOOPBACK, self._wanted_port), self._api, tls, self._token)
        except OSError as error:
            what = f"the Kubernetes double cannot listen on port {self._wanted_port}: {error.strerror}"
            raise LabUnavailable(what, fix="end who uses it, or choose another --port") from None

    def _write_kubeconfig(self, certificate: ServerCertificate) -> None:
        name = "datakit-lab"
        authority = base64.b64encode(certificate.authority.read_bytes()).decode()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": name, "user": {"token": self._token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
            "current-context": name,
        }
        self.kubeconfig.unlink(missing_ok=True)
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(yaml.safe_dump(config), encoding="utf-8")


def sweep(engine: Engine) -> int:
    """Remove what doubles left behind that were killed, and return how many containers that were."""
    return _remove(engine, LABEL, lambda labels: not psutil.pid_exists(int(labels[OWNER_LABEL])))


def _remove(engine: Engine, label: str, doomed: Callable[[Mapping[str, str]], bool]) -> int:
    """Remove the containers and volumes of a label that are ``doomed``; somebody else may be doing the same."""
    wanted = {"label": [label]}
    left = engine.json("GET", "/containers/json", query={"all": True, "filters": wanted})
    left = [found for found in left if doomed(found["Labels"])]
    for found in left:
        with contextlib.suppress(EngineRefused):
            engine.json("DELETE", f"/containers/{found['Id']}", query={"force": True})
    for volume in engine.json("GET", "/volumes", query={"filters": wanted})["Volumes"] or []:
        if doomed(volume["Labels"]):
            with contextlib.suppress(EngineRefused):
                engine.json("DELETE", f"/volumes/{volume['Name']}")
    return len(left)
