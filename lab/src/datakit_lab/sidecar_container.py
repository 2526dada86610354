"""The real sidecar's image, as a container beside those of datakits: it publishes into a volume in memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final, Self

from datakit_lab.docker import Engine, EngineRefused
from datakit_lab.errors import LabError, LabUnavailable
from datakit_lab.network import free_port
from datakit_lab.processes import wait_for
from datakit_lab.sidecar import readiness
from datakit_lab.state import LabState

_SHARED: Final = "/run/datakit/shared"
_BOOTSTRAP: Final = "/run/datakit/bootstrap"
_CONFIGURATION: Final = "/etc/datakit"
_LAB: Final = "datakit.lab"  # a label
_IMAGE_USER: Final = 10001
_GROUP: Final = 10000
"""The group of every datakit's image, for which the sidecar publishes."""


def container_configuration(state: LabState, port: int) -> str:
    """Return the configuration of a lab's sidecar, changed for one that runs in a container of the host's network.

    :param port: loopback port of its health.
    """
    import yaml

    config = yaml.safe_load(state.sidecar_configuration.read_text(encoding="utf-8"))
    config["vault"] |= {"credentials": _BOOTSTRAP, "ca_file": f"{_CONFIGURATION}/authority.pem"}
    config["publish"] = {
        "tickets": f"{_SHARED}/tickets",
        "secrets": f"{_SHARED}/secrets",
        "mode": "0640",
        "gid": _GROUP,
    }
    config["health"]["port"] = port
    config["audit"] = {"stdout": True}
    return str(yaml.safe_dump(config))


class SidecarContainer:
    """One sidecar of a running lab, as a container; its credential for the vault stays in memory.

    :param state: the lab that it belongs to.
    :param image: the sidecar's image, which the engine has.
    :param volume: the volume to make and publish into; one of that name is replaced, unless another lab uses it.
    """

    def __init__(self, engine: Engine, state: LabState, *, image: str, volume: str) -> None:
        self._engine = engine
        self._state = state
        self._image = image
        self.volume = volume
        self.port = 0
        # root inside the container would be root outside: then the image's own user, else whoever owns the credential
        self._user = os.getuid() or _IMAGE_USER

    @property
    def name(self) -> str:
        """The container's name."""
        return f"{self.volume}-sidecar"

    @property
    def _files(self) -> Path:
        """What is mounted: in the lab's own memory, so that what is left there goes when the lab does."""
        return self._state.tickets.resolve().parent / self.volume

    @property
    def owner(self) -> str | None:
        """The state directory of the lab that made the container of this name, None if there is none."""
        try:
            found = self._engine.json("GET", f"/containers/{self.name}/json")
        except EngineRefused:
            return None
        return str((found["Config"]["Labels"] or {}).get(_LAB, "unknown"))

    @property
    def is_anothers(self) -> bool:
        """Whether another lab has a container of this name: names are for the whole engine."""
        return self.owner not in {None, str(self._state.directory)}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, *, seconds: float = 60) -> None:
        """Start it and wait until everything is published.

        :raises LabUnavailable: it ended, or did not become ready in time.
        :raises LabError: another lab's runs.
        :raises EngineRefused: the engine has no such image, or a container uses the volume.
        """
        if self.is_anothers and self._runs():
            raise LabError(
                f"the container {self.name} is in use by another lab ({self.owner})",
                fix=f"end that lab, or only this: docker rm --force {self.name}",
            )
        self.close()
        self.port = free_port()
        self._lay_out()
        options = f"size=16m,uid={self._user},gid={_GROUP},mode=0750"
        self._engine.create_volume(self.volume, {"type": "tmpfs", "device": "tmpfs", "o": options})
        self._engine.json("POST", "/containers/create", self._container(), query={"name": self.name})
        self._engine.json("POST", f"/containers/{self.name}/start")
        wait_for(lambda: readiness(self.port) is not None or not self._runs(), seconds=seconds)
        if readiness(self.port) is None:
            last = " ".join(self.log().splitlines()[-3:])
            raise LabUnavailable(
                f"the sidecar's container did not become ready: {last}", fix=f"docker logs {self.name}"
            )

    def log(self) -> str:
        """Return what it wrote: its audit log, and its complaints. Empty if it is gone."""
        query = {"stdout": True, "stderr": True}
        with (
            contextlib.suppress(EngineRefused),
            self._engine.stream("GET", f"/containers/{self.name}/logs", query=query) as answer,
        ):
            return b"".join(data for _, data in self._engine.demultiplexed(answer)).decode(errors="replace")
        return ""

    def audit(self) -> list[str]:
        """Return the lines of its audit log."""
        return [line for line in self.log().splitlines() if _is_audit(line)]

    def stop(self) -> None:
        """Stop it; it removes what it published. Its log stays."""
        with contextlib.suppress(EngineRefused):  # there is none
            self._engine.json("POST", f"/containers/{self.name}/stop", query={"t": 5})

    def close(self) -> None:
        """Remove container and volume; with them, what was published is gone."""
        self.stop()
        self._engine.remove_container(self.name)
        self._engine.remove_volume(self.volume)
        shutil.rmtree(self._files, ignore_errors=True)

    def _lay_out(self) -> None:
        """Write what is mounted: the configuration for all, the credential for its user alone."""
        configuration, bootstrap = self._files / "configuration", self._files / "bootstrap"
        configuration.mkdir(mode=0o755, parents=True)
        (configuration / "sidecar.yaml").write_text(container_configuration(self._state, self.port), encoding="utf-8")
        shutil.copy(self._state.certificates / "authority.pem", configuration / "authority.pem")
        for path in configuration.iterdir():
            path.chmod(0o644)
        shutil.copytree(self._state.bootstrap, bootstrap)
        if os.getuid() == 0:
            for path in (bootstrap, *bootstrap.iterdir()):
                os.chown(path, self._user, _GROUP)

    def _container(self) -> dict[str, Any]:
        return {
            "Image": self._image,
            "Labels": {_LAB: str(self._state.directory)},
            "User": f"{self._user}:{_GROUP}",
            "HostConfig": {
                "NetworkMode": "host",  # the lab listens on loopback only
                "ReadonlyRootfs": True,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "Mounts": [
                    {"Type": "volume", "Source": self.volume, "Target": _SHARED},
                    *(
                        {"Type": "bind", "Source": str(self._files / name), "Target": target, "ReadOnly": True}
                        for name, target in (("configuration", _CONFIGURATION), ("bootstrap", _BOOTSTRAP))
                    ),
                ],
            },
        }

    def _runs(self) -> bool:
        return bool(self._engine.json("GET", f"/containers/{self.name}/json")["State"]["Running"])


def _is_audit(line: str) -> bool:
    try:
        return "previous" in json.loads(line)
    except (ValueError, TypeError):
        return False
