"""What a pod's containers share: volumes of the Docker engine, and a network.

An ``emptyDir`` of medium Memory, and everything that holds a configuration or a secret, is a tmpfs: nothing of it
reaches a disk. A plain ``emptyDir`` is a folder of the engine's.
"""

from __future__ import annotations

import io
import re
import secrets
import socket
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from datakit_lab.docker import Engine, EngineRefused
from datakit_lab.kubernetes._claims import Claims
from datakit_lab.kubernetes._errors import ApiError
from datakit_lab.kubernetes._fields import pod_field
from datakit_lab.kubernetes._network import Loopback
from datakit_lab.kubernetes._pause import PAUSE_IMAGE
from datakit_lab.kubernetes._quantities import quantity
from datakit_lab.kubernetes._store import Store, object_data
from datakit_lab.network import LOOPBACK

Json = dict[str, Any]
File = tuple[bytes, int]

_DEFAULT_MODE: Final = 0o644
_EVERYBODY: Final = 0o777
_SET_GROUP: Final = 0o2000
_GROUP_READS: Final = 0o440
_HOLDER: Final = "/volumes"
_FOLDERS: Final = frozenset({"hostPath", "persistentVolumeClaim"})
"""Volumes that are folders of this machine, and outlive a pod."""


class MountFailed(Exception):
    """A volume cannot be set up yet; the kubelet tries again for as long as the pod lives.

    :param reason: of the event: FailedMount, FailedScheduling.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Sandbox:
    """The volumes and the network of one pod, and the pause container that holds them.

    :param labels: put on the container and the volumes, so that leftovers can be found.
    :param own_network: whether the pod has a network of its own, or this machine's.
    """

    def __init__(
        self, engine: Engine, store: Store, claims: Claims, pod: Json, labels: dict[str, str], *, own_network: bool
    ) -> None:
        self._engine = engine
        self._store = store
        self._claims = claims
        self._pod = pod
        self._labels = labels
        self._own_network = own_network
        self._loopback: Loopback | None = None
        self._group: int | None = pod["spec"].get("securityContext", {}).get("fsGroup")
        self._names: dict[str, str] = {}
        self._holder: str | None = None
        self.ready = False

    def set_up(self) -> None:
        """Make the volumes and fill them, and open the network.

        :raises MountFailed: an object that a volume is made of is not there.
        :raises EngineRefused: the engine cannot make them.
        """
        volumes = self._pod["spec"].get("volumes") or []
        files = {volume["name"]: self._files(volume) for volume in volumes}  # all of them before anything is made
        for volume in volumes:
            if not _FOLDERS & volume.keys():
                self._names[volume["name"]] = self._make(volume)
        self._hold()
        for name, content in files.items():
            if name in self._names:
                self._fill(name, content)
        self.ready = True

    @property
    def network(self) -> str:
        """The containers' network, in Docker's words."""
        return f"container:{self._holder}" if self._own_network else "host"

    def connect(self, host: str, port: int, seconds: float) -> socket.socket:
        """Connect to a server in the pod.

        :raises OSError: nobody answers.
        """
        if self._loopback is not None:
            return self._loopback.connect(host, port, seconds)
        return socket.create_connection((host, port), timeout=seconds)

    def mounts(self, container: Json) -> list[Json]:
        """Return a container's mounts, in Docker's words."""
        sources = {volume["name"]: volume for volume in self._pod["spec"].get("volumes") or []}
        found = []
        for mount in container.get("volumeMounts") or []:
            volume = sources[mount["name"]]
            read_only = bool(mount.get("readOnly")) or not {"emptyDir", *_FOLDERS} & volume.keys()
            rendered = {"Target": mount["mountPath"], "ReadOnly": read_only}
            if "hostPath" in volume:
                rendered |= {"Type": "bind", "Source": volume["hostPath"]["path"]}
            elif (used := volume.get("persistentVolumeClaim")) is not None:
                folder = self._claims.folder(self._claim(used["claimName"]))
                rendered |= {"Type": "bind", "Source": str(folder), "ReadOnly": read_only or bool(used.get("readOnly"))}
            else:
                rendered |= {"Type": "volume", "Source": self._names[volume["name"]], "VolumeOptions": {"NoCopy": True}}
            found.append(rendered)
        return found

    def release(self) -> None:
        """Remove the pause container; what the volumes held in memory is gone, and so is the network."""
        if self._loopback is not None:
            self._loopback.close()
            self._loopback = None
        if self._holder is not None:
            _ignoring_absence(lambda: self._engine.json("DELETE", f"/containers/{self._holder}", query={"force": True}))
            self._holder = None

    def remove(self) -> None:
        """Remove the volumes, after the containers that mount them."""
        self.release()
        for name in self._names.values():
            _ignoring_absence(lambda name=name: self._engine.json("DELETE", f"/volumes/{name}"))  # type: ignore[misc]
        self._names.clear()

    def _make(self, volume: Json) -> str:
        source = volume.get("emptyDir")
        options = {}
        if source is None or source.get("medium") == "Memory":
            size = (source or {}).get("sizeLimit")
            wanted = [f"mode={self._folder_mode:o}", *([f"size={int(quantity(size))}"] if size else [])]
            wanted += [f"gid={self._group}"] if self._group is not None else []
            wanted += ["noswap"] if _never_swaps(self._engine.kernel) else []
            options = {"type": "tmpfs", "device": "tmpfs", "o": ",".join(wanted)}
        name = f"k8s_{self._pod['metadata']['uid']}_{volume['name']}"
        self._engine.json(
            "POST", "/volumes/create", {"Name": name, "Driver": "local", "DriverOpts": options, "Labels": self._labels}
        )
        return name

    def _hold(self) -> None:
        mounts = [
            {"Type": "volume", "Source": name, "Target": f"{_HOLDER}/{volume}", "VolumeOptions": {"NoCopy": True}}
            for volume, name in self._names.items()
        ]
        body: Json = {
            "Image": PAUSE_IMAGE,
            "Labels": self._labels,
            "HostConfig": {"Mounts": mounts, "NetworkMode": "host", "LogConfig": {"Type": "none"}},
        }
        if self._own_network:
            own_name = socket.gethostname()  # clients make localhost canonical before they ask for its ticket
            body["Hostname"] = own_name
            body["HostConfig"] |= {"NetworkMode": "none", "ExtraHosts": [f"{own_name}:{LOOPBACK}"]}
        metadata = self._pod["metadata"]
        name = f"k8s_POD_{metadata['name']}_{metadata['namespace']}_{metadata['uid']}_0"
        self._holder = self._engine.json("POST", "/containers/create", body, query={"name": name[:250]})["Id"]
        self._engine.json("POST", f"/containers/{self._holder}/start")
        if self._own_network:
            self._loopback = Loopback(self._engine.json("GET", f"/containers/{self._holder}/json")["State"]["Pid"])

    @property
    def _folder_mode(self) -> int:
        return _EVERYBODY if self._group is None else _EVERYBODY | _SET_GROUP

    def _fill(self, name: str, content: dict[str, File] | None) -> None:
        """Put files into a volume, through the container that holds it; without files, set its folder's mode."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            _add(archive, name, mode=self._folder_mode, group=self._group, kind=tarfile.DIRTYPE)
            if content is not None:
                self._add_files(archive, name, content)
        self._engine.stream(
            "PUT",
            f"/containers/{self._holder}/archive",
            packed.getvalue(),
            query={"path": _HOLDER},
            headers={"Content-Type": "application/x-tar"},
        ).close()

    def _add_files(self, archive: tarfile.TarFile, folder: str, content: dict[str, File]) -> None:
        """Lay files out as the kubelet does: in a dated folder, reached by ``..data``, reached by a link for each."""
        dated = f"..{datetime.now(UTC):%Y_%m_%d_%H_%M_%S}.{secrets.randbelow(2**31)}"
        folders = {dated}
        for path, (data, mode) in content.items():
            *parents, _ = path.split("/")
            folders |= {"/".join([dated, *parents[: depth + 1]]) for depth in range(len(parents))}
            mode = mode if self._group is None else mode | _GROUP_READS
            _add(archive, f"{folder}/{dated}/{path}", mode=mode, group=self._group, data=data)
        for each in sorted(folders):
            _add(archive, f"{folder}/{each}", mode=0o755, group=self._group, kind=tarfile.DIRTYPE)
        _add(archive, f"{folder}/..data", mode=0o777, group=None, kind=tarfile.SYMTYPE, target=dated)
        for first in sorted({path.split("/")[0] for path in content}):
            _add(archive, f"{folder}/{first}", mode=0o777, group=None, kind=tarfile.SYMTYPE, target=f"..data/{first}")

    def _files(self, volume: Json) -> dict[str, File] | None:
        """Return what a volume is filled with, None if with nothing."""
        if "persistentVolumeClaim" in volume:
            self._claim(volume["persistentVolumeClaim"]["claimName"])
            return None
        if "projected" in volume:
            mode = volume["projected"].get("defaultMode", _DEFAULT_MODE)
            found: dict[str, File] = {}
            for source in volume["projected"].get("sources") or []:
                ((kind, options),) = source.items()
                found |= self._source_files(volume["name"], kind, options, options.get("name"), mode)
            return found
        for kind in ("secret", "configMap", "downwardAPI"):
            if kind in volume:
                options = volume[kind] or {}
                name = options.get("secretName" if kind == "secret" else "name")
                mode = options.get("defaultMode", _DEFAULT_MODE)
                return self._source_files(volume["name"], kind, options, name, mode)
        return None

    def _claim(self, name: str) -> Json:
        try:
            return self._store.get("persistentvolumeclaims", self._pod["metadata"]["namespace"], name)
        except ApiError:
            said = f'0/1 nodes are available: persistentvolumeclaim "{name}" not found.'
            raise MountFailed("FailedScheduling", said) from None

    def _source_files(self, volume: str, kind: str, options: Json, name: str | None, mode: int) -> dict[str, File]:
        if kind == "serviceAccountToken":
            return {options["path"]: (secrets.token_urlsafe(48).encode(), mode)}
        if kind == "downwardAPI":
            return self._own_fields(volume, options.get("items") or [], mode)
        try:
            data = self._data(kind, name or "")
        except ApiError:
            if options.get("optional"):
                return {}
            raise MountFailed(
                "FailedMount", f'MountVolume.SetUp failed for volume "{volume}" : {kind.lower()} "{name}" not found'
            ) from None
        if options.get("items") is None:
            return {key: (value, mode) for key, value in data.items()}
        chosen = {}
        for item in options["items"]:
            if item["key"] not in data:
                what = f"references non-existent {kind} key: {item['key']}"
                raise MountFailed("FailedMount", f'MountVolume.SetUp failed for volume "{volume}" : {what}')
            chosen[item["path"]] = (data[item["key"]], item.get("mode", mode))
        return chosen

    def _own_fields(self, volume: str, items: list[Json], mode: int) -> dict[str, File]:
        try:
            return {
                item["path"]: (pod_field(self._pod, item["fieldRef"]["fieldPath"]).encode(), item.get("mode", mode))
                for item in items
            }
        except ValueError as error:
            raise MountFailed("FailedMount", f'MountVolume.SetUp failed for volume "{volume}" : {error}') from None

    def _data(self, kind: str, name: str) -> dict[str, bytes]:
        resource = "secrets" if kind == "secret" else "configmaps"
        return object_data(self._store.get(resource, self._pod["metadata"]["namespace"], name))


def _add(
    archive: tarfile.TarFile,
    path: str,
    *,
    mode: int,
    group: int | None,
    data: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    target: str = "",
) -> None:
    entry = tarfile.TarInfo(path)
    entry.type = kind
    entry.mode = mode
    entry.gid = group or 0
    entry.size = len(data)
    entry.linkname = target
    archive.addfile(entry, io.BytesIO(data))


def _never_swaps(kernel: str) -> bool:
    """Whether a tmpfs knows ``noswap``: since Linux 6.4, as https://docs.kernel.org/filesystems/tmpfs.html says."""
    match = re.match(r"(\d+)\.(\d+)", kernel)
    return match is not None and (int(match[1]), int(match[2])) >= (6, 4)


def _ignoring_absence(act: Callable[[], Any]) -> None:
    try:
        act()
    except EngineRefused as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
