"""Where datakits run in the demo: as processes, or as containers; and what each of these needs besides the lab."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from importlib.metadata import version
from pathlib import Path
from typing import Final

from datakit_lab.docker import Engine
from datakit_lab.errors import LabError
from datakit_lab.sidecar_container import SidecarContainer
from datakit_lab.state import LabState

_SIDECAR_IMAGE: Final = "datakit.local/platform/sidecar"
_CREDENTIALS: Final = "datakit-credentials"
_MARKETING: Final = "datakit-marketing"


class Place(ABC):
    """A runtime, as the demo knows it.

    :cvar environment: the environment in ``warehouses/environments`` that has it.
    :cvar means: what a task is, for people.
    :cvar credentials: where it has tickets and secrets besides the lab's own: words for people, and a command to look.
    """

    environment: str
    means: str
    credentials: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __init__(self, state: LabState) -> None:
        self.state = state

    @property
    @abstractmethod
    def marketing(self) -> Path:
        """The database of the warehouse marketing, as this machine sees it."""

    @property
    def audit_log(self) -> Path:
        """The audit log of the sidecar that serves the datakits."""
        return self.state.audit

    def start(self) -> None:
        """Start what it needs, once the lab is up; forget what an earlier demo, of any place, left in marketing."""
        shutil.rmtree(self.state.directory / "marketing", ignore_errors=True)
        for leftover in self.state.directory.glob("marketing.duckdb*"):
            leftover.unlink()
        self.marketing.parent.mkdir(exist_ok=True)

    @abstractmethod
    def stop(self) -> None:
        """Remove what :meth:`start` made, but for what a person may look at."""

    def audit_lines(self) -> list[str]:
        """Return the lines of that audit log."""
        return self.audit_log.read_text(encoding="utf-8").splitlines() if self.audit_log.exists() else []


class Processes(Place):
    """Datakits are processes; the lab's own sidecar serves them."""

    environment = "local"
    means = "a process"

    @property
    def marketing(self) -> Path:
        """The database of the warehouse marketing, as this machine sees it."""
        return self.state.directory / "marketing.duckdb"

    def stop(self) -> None:
        """Leave everything: the database may be looked at, the sidecar is the lab's."""


class Containers(Place):
    """Datakits are containers; so is a sidecar, which publishes for them into a volume in memory.

    :raises LabError: no engine answers, or Airflow's tasks would ask another one.
    """

    environment = "local-docker"
    means = "a container"
    credentials = (
        (
            "That is for this shell. Containers share a volume in memory, which a sidecar of their own fills:",
            ("docker", "volume", "inspect", "--format", "{{json .Options}}", _CREDENTIALS),
        ),
    )

    def __init__(self, state: LabState) -> None:
        super().__init__(state)
        self._engine = Engine()
        theirs = _socket_of(state.directory.parent / f"warehouses/environments/{self.environment}.yaml")
        if self._engine.address.resolve() != theirs.resolve():
            raise LabError(
                f"DOCKER_HOST names the engine at {self._engine.address}, and tasks would ask the one at {theirs}",
                fix=f"unset DOCKER_HOST, or write docker.url in warehouses/environments/{self.environment}.yaml",
            )
        image = f"{_SIDECAR_IMAGE}:v{version('datakit-sidecar')}"
        self._sidecar = SidecarContainer(self._engine, state, image=image, volume=_CREDENTIALS)

    @property
    def marketing(self) -> Path:
        """The database of the warehouse marketing, as this machine sees it."""
        return self.state.directory / "marketing" / "marketing.duckdb"

    @property
    def audit_log(self) -> Path:
        """The audit log of the sidecar that serves the datakits."""
        return self.state.logs / "audit-container.jsonl"

    def start(self) -> None:
        """Start the sidecar's container, and make the volume that leads to the folder of the database."""
        super().start()
        self._sidecar.start()  # refuses where another lab's would be disturbed
        self._engine.remove_volume(_MARKETING)
        self.marketing.parent.chmod(0o777)  # datakits write there as the user of their image
        options = {"type": "none", "o": "bind", "device": str(self.marketing.parent)}
        self._engine.create_volume(_MARKETING, options)

    def stop(self) -> None:
        """Remove both, and datakits that outlived their Airflow; the sidecar's audit log and the database stay.

        What another lab has made is left alone.
        """
        if self._sidecar.is_anothers:
            return
        self._sidecar.stop()
        self.audit_lines()
        users = {"all": True, "filters": json.dumps({"volume": [_CREDENTIALS]})}
        for container in self._engine.json("GET", "/containers/json", query=users):
            self._engine.remove_container(container["Id"])
        self._sidecar.close()
        self._engine.remove_volume(_MARKETING)

    def audit_lines(self) -> list[str]:
        """Return the lines of that audit log, and keep them where :attr:`audit_log` says."""
        if lines := self._sidecar.audit():
            self.audit_log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return lines


def _socket_of(environment: Path) -> Path:
    """Return the socket of the engine that an environment names, or the usual one."""
    import yaml

    place = yaml.safe_load(environment.read_text(encoding="utf-8")).get("docker") or {}
    return Path(str(place.get("url", "unix:///var/run/docker.sock")).removeprefix("unix://"))
