"""A real registry of images in a private folder, on loopback: Debian's ``docker-registry``, with passwords and TLS."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from datakit_lab.errors import LabUnavailable, ProgramMissing
from datakit_lab.network import LOOPBACK, own_names
from datakit_lab.processes import ChildProcess, Server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datakit_lab.certificates import ServerCertificate

_LISTENS: Final = re.compile(rb"listening on [0-9.]+:([0-9]+)")


class Registry(Server):
    """One registry with its own storage. It stores what clients push, and answers as a company's registry does.

    :param directory: where its files live; if None, a new private one, removed by :meth:`close`.
    :param port: loopback port; 0 chooses a free one, which is kept from then on.
    :param users: name → password of who may read and write; None lets everybody.
    :param certificate: switches TLS on.
    :param token: where clients get a bearer token, as the registry's configuration ``auth.token`` has it (``realm``,
        ``service``, ``issuer``, ``rootcertbundle``); instead of ``users``.
    :param largest_file: bytes after which its disk is full; None sets no bound.
    :param log: the registry's log; ``registry.log`` in ``directory`` if None.
    :raises ProgramMissing: this machine has no ``docker-registry``, or no ``htpasswd`` for the users.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int = 0,
        users: Mapping[str, str] | None = None,
        certificate: ServerCertificate | None = None,
        token: Mapping[str, str] | None = None,
        largest_file: int | None = None,
        log: Path | None = None,
    ) -> None:
        self._program = _program("docker-registry", "docker-registry")
        self._temporary = directory is None
        made = tempfile.mkdtemp(prefix="datakit-lab-registry-") if directory is None else directory
        self.directory = Path(made).resolve()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log = log or self.directory / "registry.log"
        self.port = port
        self._certificate = certificate
        self._token = token
        self._users = users
        self._largest_file = largest_file
        self._log_begins = 0

    @staticmethod
    def names() -> tuple[str, ...]:
        """Return the names that a certificate of it needs: every one that it is called by on this machine."""
        return ("registry.localhost", *own_names(), LOOPBACK)

    @property
    def name(self) -> str:
        """What people call it: ``registry.localhost:PORT``.

        Names below localhost are this machine (RFC 6761), and the ``datakit`` command takes them so. Debian's resolver,
        which a Docker engine asks, does only with ``libnss-myhostname`` or a line in ``/etc/hosts``.
        """
        return f"registry.localhost:{self.port}"

    def name_resolves(self) -> bool:
        """Whether this machine's resolver knows :attr:`name`."""
        try:
            socket.getaddrinfo(self.name.partition(":")[0], self.port)
        except socket.gaierror:
            return False
        return True

    @property
    def host(self) -> str:
        """What comes first in the name of an image that it holds: ``127.0.0.1:PORT``."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def storage(self) -> Path:
        """The folder of everything that was pushed."""
        return self.directory / "storage"

    def start(self) -> None:
        """Start it; after :meth:`stop` or :meth:`kill`, with the same port and content.

        :raises LabUnavailable: it does not start, or somebody has the port.
        """
        if self.running:
            return
        self._log_begins = self.log.stat().st_size if self.log.exists() else 0
        configuration = self.directory / "registry.yml"
        configuration.write_text(yaml.safe_dump(self._configuration(), sort_keys=False), encoding="utf-8")
        self._process = ChildProcess(
            "the registry",
            [*self._bounds(), self._program, "serve", configuration],
            log=self.log,
            env=_environment(),
            directory=self.directory,
        )
        try:
            self._process.wait_until(self._listens)
        except LabUnavailable:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop it, as an administrator does; its content stays."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """SIGKILL it; its content stays as it was at that moment."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def close(self) -> None:
        """Stop it for good and, if its directory is its own, remove that."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.directory)

    def _listens(self) -> bool:
        """Whether it says that it listens, and where: it may have chosen the port itself."""
        with self.log.open("rb") as log:
            log.seek(self._log_begins)
            found = _LISTENS.search(log.read())
        if found is None:
            return False
        self.port = int(found[1])
        return True

    def _bounds(self) -> list[str]:
        """Return what makes writes fail as on a full disk; the registry, written in Go, ignores the signal of it."""
        return [] if self._largest_file is None else ["prlimit", f"--fsize={self._largest_file}"]

    def _configuration(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": self.host, "secret": "of one process, so it need not be one"}
        if self._certificate is not None:
            http["tls"] = {"certificate": str(self._certificate.certificate), "key": str(self._certificate.key)}
        made: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": http,
        }
        if self._token is not None:
            made["auth"] = {"token": dict(self._token)}
        elif self._users is not None:
            made["auth"] = {"htpasswd": {"realm": "datakit-lab", "path": str(self._password_file())}}
        return made

    def _password_file(self) -> Path:
        path = self.directory / "htpasswd"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        program = _program("htpasswd", "apache2-utils")
        for name, password in (self._users or {}).items():
            # bcrypt at its least cost, which is all the registry reads; the password comes on stdin, not as an argument
            command = [program, "-i", "-B", "-C", "4", str(path), name]
            subprocess.run(command, input=password.encode(), check=True, capture_output=True)
        return path


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ProgramMissing.of(name, package)
    return found


def _environment() -> dict[str, str]:
    """Leave out ``REGISTRY_…``, which would overrule the configuration, and exporters of traces."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"OTEL_TRACES_EXPORTER": "none"}
