"""A company's registry: which releases there are, and the blobs and manifests that they are made of.

Every byte that is read is compared with its digest. A tag is only ever a way to find a digest.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

from datakit.errors import ConfigurationError, DriverMissing, ImageCorrupt, RegistryUnavailable
from datakit.release._annotations import Included, Release, is_release, read_release
from datakit.release._login import find_login
from datakit.release._media import ACCEPTED, INDEX, MANIFEST, Json, descriptor, digest_of, encoded
from datakit.release.semver import SemVer

if TYPE_CHECKING:
    from datakit.release._transport import Body, Transport

__all__ = ["Included", "Registry", "Release", "open_registry"]

_REFERENCE: Final = re.compile(r"[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_LARGEST_MANIFEST: Final = 4 * 1024 * 1024
"""The least that a registry has to take (distribution specification, section "Pushing Manifests")."""
_CHUNK: Final = 1024 * 1024
_UPLOAD_TRIES: Final = 3
_AT_ONCE: Final = 8


class Registry:
    """One registry, or a path in it: ``HOST[:PORT][/PATH]``. Thread-safe; a context manager.

    Repositories are named below that path: ``datakits/NAME``, ``platform/NAME``. Every method may raise
    :class:`~datakit.errors.RegistryUnavailable`, :class:`~datakit.errors.RegistryDenied` and
    :class:`~datakit.errors.ConfigurationError`.
    """

    def __init__(self, transport: Transport, path: str = "") -> None:
        self._transport = transport
        self._path = path.strip("/")

    @property
    def address(self) -> str:
        """Where it is, as the names of its images begin."""
        return f"{self._transport.host}/{self._path}" if self._path else self._transport.host

    def image(self, repository: str, digest: str = "") -> str:
        """Return the whole name of a repository, and of one image in it."""
        return f"{self.address}/{repository}{f'@{digest}' if digest else ''}"

    # Releases

    def release(self, name: str, version: str) -> Release | None:
        """Return a release of a datakit; None if that version was never released.

        :raises ImageCorrupt: what its tag names is no release of that datakit and version.
        """
        tag = SemVer.parse(version).tag
        found = self._tagged(f"datakits/{name}", tag)
        return None if found is None else self._release(name, tag, found)

    def release_of_digest(self, name: str, digest: str) -> Release | None:
        """Return a release by its image, whatever its tag names now; None if the registry does not have that.

        :raises ImageCorrupt: it is no release of a datakit.
        """
        repository = f"datakits/{name}"
        if not self.has_manifest(repository, digest):
            return None
        data = self.manifest_bytes(repository, digest)
        where = self.image(repository, digest)
        return read_release(_parsed(data, where), digest, len(data), where)

    def releases(self, name: str) -> tuple[Release, ...]:
        """Return every release of a datakit, the lowest version first; tags that are none are left out.

        :raises ImageCorrupt: a release's content is not what its digest says.
        """
        repository = f"datakits/{name}"
        found = [(version, tag) for tag in self.tags(repository) if (version := SemVer.of_tag(tag)) is not None]

        def read(tag: str) -> Release | None:
            data = self._tagged(repository, tag)
            if data is None or not is_release(_parsed(data, f"{self.image(repository)}:{tag}")):
                return None
            return self._release(name, tag, data)

        with ThreadPoolExecutor(_AT_ONCE) as workers:
            read_ones = workers.map(read, [tag for _, tag in sorted(found)])
            return tuple(release for release in read_ones if release is not None)

    def _release(self, name: str, tag: str, data: bytes) -> Release:
        where = f"{self.image(f'datakits/{name}')}:{tag}"
        release = read_release(_parsed(data, where), digest_of(data), len(data), where)
        if (release.name, f"v{release.version}") != (name, tag):
            raise ImageCorrupt(
                f"the tag names an image that says it is {release.name} {release.version}",
                subject=where,
                cause="somebody moved the tag",
                fix="find the digest that was released in the environments' locks, and restore the tag",
            )
        return release

    def _tagged(self, repository: str, tag: str) -> bytes | None:
        """Return the manifest that a tag names now, in one request; None if there is no such tag."""
        path, full = self._of(repository, f"manifests/{tag}")
        answer = self._transport.send(
            "GET", path, repository=full, headers={"Accept": ACCEPTED}, good=(200, 404), largest=_LARGEST_MANIFEST
        )
        if answer.status == 404:
            return None
        found = digest_of(answer.body)
        _compare(found, answer.headers.get("docker-content-digest", found), f"{self.image(repository)}:{tag}")
        return answer.body

    # Reading

    def resolve(self, repository: str, tag: str) -> str | None:
        """Return the digest that a tag names now; None if there is no such tag or repository."""
        path, full = self._of(repository, f"manifests/{tag}")
        answer = self._transport.send("HEAD", path, repository=full, headers={"Accept": ACCEPTED}, good=(200, 404))
        if answer.status == 404:
            return None
        if _DIGEST.fullmatch(said := answer.headers.get("docker-content-digest", "")):
            return said
        data = self._tagged(repository, tag)
        return None if data is None else digest_of(data)

    def tags(self, repository: str) -> tuple[str, ...]:
        """Return every tag of a repository, sorted; none if there is no such repository."""
        path, full = self._of(repository, "tags/list?n=1000")
        tags: list[str] = []
        while path:
            answer = self._transport.send("GET", path, repository=full, good=(200, 404))
            if answer.status == 404:
                break
            said = answer.json()
            tags += (said.get("tags") if isinstance(said, dict) else None) or []
            path = _next_page(answer.headers.get("link", ""), answer.url)
        return tuple(sorted(tags))

    def manifest(self, repository: str, digest: str) -> Json:
        """Return the manifest or index of that digest.

        :raises ImageCorrupt: there is none, it is not what its digest says, or is no manifest.
        """
        return _parsed(self.manifest_bytes(repository, digest), self.image(repository, digest))

    def manifest_bytes(self, repository: str, digest: str) -> bytes:
        """Return a manifest as it was pushed.

        :raises ImageCorrupt: there is none, or it is not what its digest says.
        """
        path, full = self._of(repository, f"manifests/{digest}")
        answer = self._transport.send(
            "GET", path, repository=full, headers={"Accept": ACCEPTED}, good=(200, 404), largest=_LARGEST_MANIFEST
        )
        if answer.status == 404:
            raise _missing("manifest", self.image(repository, digest))
        _compare(digest_of(answer.body), digest, self.image(repository, digest))
        return answer.body

    def has_manifest(self, repository: str, digest: str) -> bool:
        """Whether a manifest is there."""
        return self.resolve(repository, digest) is not None

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether a blob is there."""
        path, full = self._of(repository, f"blobs/{digest}")
        return self._transport.send("HEAD", path, repository=full, good=(200, 404)).status == 200

    def blob(self, repository: str, digest: str) -> bytes:
        """Return a small blob, whole.

        :raises ImageCorrupt: there is none, or it is not what its digest says.
        """
        return b"".join(self.blob_chunks(repository, digest))

    def blob_chunks(self, repository: str, digest: str) -> Iterator[bytes]:
        """Yield a blob in pieces. Its digest is known to be right only after the last one.

        :raises ImageCorrupt: there is none, or it is not what its digest says.
        """
        path, full = self._of(repository, f"blobs/{digest}")
        answer = self._transport.send("GET", path, repository=full, good=(200, 404), stream=True)
        if answer.stream is None:
            raise _missing("blob", self.image(repository, digest))
        found = hashlib.sha256()
        for chunk in self._transport.chunks(answer, _CHUNK):
            found.update(chunk)
            yield chunk
        _compare(f"sha256:{found.hexdigest()}", digest, self.image(repository, digest))

    def referrers(self, repository: str, digest: str) -> tuple[Json, ...]:
        """Return descriptors of what is attached to a manifest: by the API where there is one, and by the tag schema.

        https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#listing-referrers
        """
        path, full = self._of(repository, f"referrers/{digest}")
        answer = self._transport.send("GET", path, repository=full, good=(200, 400, 404, 405))
        found: list[Json] = []
        # a registry without the API may answer a path that it does not know with 200 and anything
        if answer.status == 200 and answer.headers.get("content-type", "").startswith(INDEX):
            found += _listed(answer.json())
        tagged = self.resolve(repository, _referrers_tag(digest))
        if tagged is not None:
            known = {each["digest"] for each in found}
            found += [each for each in _listed(self.manifest(repository, tagged)) if each["digest"] not in known]
        return tuple(found)

    # Writing

    def push_blob(self, repository: str, digest: str, body: Body, size: int) -> bool:
        """Put a blob there; return False if it was there already. A transfer that broke off starts over."""
        if self.has_blob(repository, digest):
            return False
        path, full = self._of(repository, "blobs/uploads/")
        for number in range(1, _UPLOAD_TRIES + 1):
            try:
                session = self._transport.send("POST", path, repository=full, good=(202,))
                location = urljoin(session.url, session.headers.get("location", ""))
                self._transport.send(
                    "PUT",
                    _with_query(location, digest=digest),
                    repository=full,
                    headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
                    body=body,
                    good=(201,),
                    again=False,
                )
            except RegistryUnavailable:
                if number == _UPLOAD_TRIES:
                    raise
                if self.has_blob(repository, digest):  # only the answer was lost
                    break
            else:
                break
        return True

    def mount_blob(self, repository: str, digest: str, source: str) -> bool:
        """Let a blob of another repository of this registry be in this one too; return whether that went."""
        path, full = self._of(repository, "blobs/uploads/")
        _, other = self._of(source, "")
        query = urlencode({"mount": digest, "from": other})
        answer = self._transport.send("POST", f"{path}?{query}", repository=full, good=(201, 202), also_from=other)
        return answer.status == 201  # 202 began an upload instead, which nobody continues and the registry forgets

    def push_manifest(self, repository: str, data: bytes, *, tag: str | None = None, media_type: str = MANIFEST) -> str:
        """Put a manifest there, by digest, or under a tag; return its digest.

        :raises ImageCorrupt: the registry says that it got something else.
        """
        digest = digest_of(data)
        path, full = self._of(repository, f"manifests/{tag or digest}")
        answer = self._transport.send(
            "PUT", path, repository=full, headers={"Content-Type": media_type}, body=data, good=(201,)
        )
        said = answer.headers.get("docker-content-digest", digest)
        _compare(said, digest, self.image(repository, digest))
        return digest

    def attach(self, repository: str, subject: Json, data: bytes) -> str:
        """Put a manifest there that names ``subject``, and list it where the registry does not do that itself."""
        digest = digest_of(data)
        path, full = self._of(repository, f"manifests/{digest}")
        answer = self._transport.send(
            "PUT", path, repository=full, headers={"Content-Type": MANIFEST}, body=data, good=(201,)
        )
        if "oci-subject" not in answer.headers:
            self._list_by_tag(repository, subject["digest"], data)
        return digest

    def _list_by_tag(self, repository: str, subject: str, attached: bytes) -> None:
        """Keep the index that stands for the referrers API. Whoever writes it meanwhile is not overwritten for long."""
        manifest = _parsed(attached, self.image(repository))
        entry = descriptor(MANIFEST, attached, artifactType=manifest["artifactType"])
        if "annotations" in manifest:
            entry["annotations"] = manifest["annotations"]
        tag = _referrers_tag(subject)
        for _ in range(_UPLOAD_TRIES):
            there = self.resolve(repository, tag)
            listed = list(_listed(self.manifest(repository, there))) if there else []
            if any(each["digest"] == entry["digest"] for each in listed):
                return
            index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*listed, entry]}
            self.push_manifest(repository, encoded(index), tag=tag, media_type=INDEX)
        raise RegistryUnavailable(
            "others attach to the same image all the time",
            subject=self.image(repository, subject),
            fix="run it again when they have finished",
        )

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _of(self, repository: str, rest: str) -> tuple[str, str]:
        """Return a path below ``/v2/`` and the repository as the registry calls it."""
        full = f"{self._path}/{repository}" if self._path else repository
        return f"{full}/{rest}", full


def open_registry(
    reference: str,
    *,
    user: str | None = None,
    password_file: Path | None = None,
    ca_file: Path | None = None,
    pause: Callable[[float], None] | None = None,
) -> Registry:
    """Return the registry ``HOST[:PORT][/PATH]``; nothing is sent yet.

    Plain HTTP is spoken only to a registry on this machine. See :func:`datakit.release._login.find_login` for the
    login; a private authority is ``ca_file``, else ``DATAKIT_REGISTRY_CA``, else what Docker has for that host.

    :param pause: sleeps between tries; for tests.
    :raises ConfigurationError: the reference is no registry's, or the authority's file cannot be read.
    :raises DriverMissing: the extra ``release`` is not installed.
    """
    if not _REFERENCE.fullmatch(reference):
        raise ConfigurationError(
            f"{reference!r} is not a registry",
            cause="it has a scheme" if "://" in reference else None,
            fix="write it without a scheme, such as registry.corp.example/data",
        )
    try:
        from datakit.release._transport import Transport
    except ImportError as error:
        raise DriverMissing.of("registries", "release", error) from None
    host, _, path = reference.partition("/")
    named = os.environ.get("DATAKIT_REGISTRY_CA")
    more: dict[str, Any] = {} if pause is None else {"pause": pause}
    transport = Transport(
        host,
        find_login=lambda: find_login(host, user=user, password_file=password_file),
        ca_file=ca_file or (Path(named) if named else None),
        **more,
    )
    return Registry(transport, path)


def _parsed(data: bytes, where: str) -> Json:
    import json

    try:
        document = json.loads(data)
        if isinstance(document, dict) and document.get("schemaVersion") == 2:
            return document
    except ValueError:
        pass
    raise ImageCorrupt("it is no manifest of an image", subject=where, fix="look at it with another tool")


def _listed(index: Any) -> Iterable[Json]:
    manifests = index.get("manifests") if isinstance(index, dict) else None
    return [each for each in manifests or [] if isinstance(each, dict) and "digest" in each]


def _compare(found: str, wanted: str, where: str) -> None:
    if found != wanted:
        raise ImageCorrupt(
            f"the content is not what its digest says: it is {found}",
            subject=where,
            cause="the registry's storage is damaged, or something on the way changed it",
            fix="do not use it; have the registry's storage checked, and release a new version",
        )


def _missing(what: str, where: str) -> ImageCorrupt:
    return ImageCorrupt(
        f"the registry does not have this {what}",
        subject=where,
        cause="it was deleted there, by hand or by a clean-up of untagged images",
        fix="restore it from a backup, or release the same commit again",
    )


def _referrers_tag(digest: str) -> str:
    return digest.replace(":", "-")


def _with_query(url: str, **more: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, urlencode(more))))))


def _next_page(link: str, url: str) -> str:
    match = re.match(r'<([^>]+)>;\s*rel="?next"?', link)
    return urljoin(url, match[1]) if match else ""
