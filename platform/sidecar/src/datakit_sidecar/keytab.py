"""A keytab's bytes: what is in them, and a key in libkrb5's memory made of them.

The file's structure is checked here, and not by libkrb5, because a keytab that is empty, an HTML page or somebody
else's should say so in those words before a KDC counts it as a wrong try.

The format is MIT's, "Keytab file format": https://web.mit.edu/kerberos/krb5-latest/doc/formats/keytab_file_format.html
"""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import krb5
from datakit_vault import Secret

from datakit_sidecar.errors import EnctypeRefused, KeytabInvalid

ENCTYPES: Final = {
    1: "des-cbc-crc",
    3: "des-cbc-md5",
    16: "des3-cbc-sha1",
    17: "aes128-cts-hmac-sha1-96",
    18: "aes256-cts-hmac-sha1-96",
    19: "aes128-cts-hmac-sha256-128",
    20: "aes256-cts-hmac-sha384-192",
    23: "arcfour-hmac",
    25: "camellia128-cts-cmac",
    26: "camellia256-cts-cmac",
}
"""Number of an encryption type (RFC 3961 and IANA) → the name that krb5.conf takes."""

_numbers = itertools.count(1)
_FINGERPRINT_KEY: Final = secrets.token_bytes(32)
"""Fingerprints mean something in this process only."""
_LARGEST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a keytab.

    :ivar key: a view of the bytes it was read from.
    """

    principal: str
    kvno: int
    enctype: int
    key: memoryview


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A principal's key in libkrb5's memory, freed and zeroed by libkrb5 when nobody refers to it any more.

    :ivar kvno: the key version; None if it was derived from a password, which does not tell.
    :ivar enctypes: names of its encryption types.
    :ivar fingerprint: equal for equal keys, in this process only.
    :ivar name: the ``MEMORY:`` keytab.
    """

    principal: str
    kvno: int | None
    enctypes: tuple[str, ...]
    fingerprint: bytes
    name: bytes
    _handle: krb5.KeyTab
    _context: krb5.Context

    def __repr__(self) -> str:
        return f"Key({self.principal}, kvno {self.kvno})"


def entries(data: memoryview | bytes) -> list[Entry]:
    """Return the keys of a keytab.

    :raises KeytabInvalid: it is no keytab, is cut off, or holds no key.
    """
    view = memoryview(data)
    if not view:
        raise KeytabInvalid("the keytab is empty", fix="upload the keytab file to the secret again")
    if bytes(view[:2]) != b"\x05\x02":
        raise KeytabInvalid(
            f"this is no keytab: it begins with {bytes(view[:4]).hex(' ')}, not with 05 02",
            cause=_other_format(bytes(view[:16])),
            fix="upload the file that ktpass, msktutil or ktutil wrote, as a file and not as text",
        )
    if len(view) > _LARGEST_BYTES:
        raise KeytabInvalid(f"the keytab has {len(view)} bytes; none is that large", fix="upload the right file")
    try:
        found = list(_entries(view))
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise KeytabInvalid(
            f"the keytab is damaged: {error}",
            cause="it was cut off, or converted as if it were text",
            fix="upload the keytab file to the secret again; klist -kte FILE shows a good one",
        ) from None
    if not found:
        raise KeytabInvalid("the keytab holds no key", fix="export it again: ktpass, msktutil, or ktutil")
    return found


def _other_format(start: bytes) -> str | None:
    if start.lstrip()[:1] in (b"<", b"{"):
        return "a web page or JSON was stored instead of the file"
    if start[:2] in (b"\x05\x03", b"\x05\x04"):
        return "it is a credential cache"
    if start[:2] == b"\x05\x01":
        return "it is a keytab of the old version 1"
    if start[:4] in (b"BQIA", b"BQI="):
        return "it is a keytab in base64; the vault wants the file itself"
    return None


def _entries(view: memoryview) -> Iterator[Entry]:
    offset = 2
    while offset < len(view):
        (size,) = struct.unpack_from(">i", view, offset)
        offset += 4
        if size == 0:
            return  # MIT's library takes it as the end, and so do others
        length = abs(size)
        if offset + length > len(view):
            raise ValueError(f"an entry at byte {offset} has {length} bytes, of which {len(view) - offset} are there")
        if size > 0:  # a negative size is a hole that a removed entry left
            yield _entry(view[offset : offset + length])
        offset += length


def _entry(view: memoryview) -> Entry:
    count, offset = struct.unpack_from(">H", view)[0], 2
    names = []
    for _ in range(count + 1):
        text, offset = _counted(view, offset)
        names.append(str(text, "utf-8"))
    _name_type, _timestamp, kvno = struct.unpack_from(">IIB", view, offset)
    offset += 9
    (enctype,) = struct.unpack_from(">H", view, offset)
    key, offset = _counted(view, offset + 2)
    if not key:
        raise ValueError("a key has no bytes")
    if len(view) - offset >= 4:
        kvno = struct.unpack_from(">I", view, offset)[0] or kvno
    realm, *components = names
    if not components or not realm:
        raise ValueError("a key has no principal")
    return Entry(f"{'/'.join(components)}@{realm}", kvno, enctype, key)


def _counted(view: memoryview, offset: int) -> tuple[memoryview, int]:
    (length,) = struct.unpack_from(">H", view, offset)
    end = offset + 2 + length
    if end > len(view):
        raise ValueError("a field is longer than its entry")
    return view[offset + 2 : end], end


def key_of_keytab(principal: str, data: Secret[bytes], enctypes: Sequence[str] | None) -> Key:
    """Put the newest key of ``principal`` into libkrb5's memory. ``data`` is not wiped.

    :param enctypes: names of those that may be used; None leaves it to krb5.conf.
    :raises KeytabInvalid: it is no keytab, or another principal's.
    :raises EnctypeRefused: no key has a permitted encryption type.
    """
    with data.exposed() as view:
        found = entries(view)
        try:
            chosen = _newest(found, principal, enctypes)
            fingerprint = _fingerprint(principal, [(entry.enctype, entry.key) for entry in chosen])
            kvno, names = chosen[0].kvno, tuple(_name(entry.enctype) for entry in chosen)
            wanted = {(entry.kvno, entry.enctype) for entry in chosen}
            del chosen
        finally:
            for entry in found:
                entry.key.release()
        context, name, handle = _new_keytab()
        owner = krb5.parse_name_flags(context, principal.encode())
        # libkrb5 copies the keys from file to memory, so that no Python object, which cannot be zeroed, ever holds one
        descriptor = os.memfd_create("keytab", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, view)
            _copy(context, descriptor, owner, wanted, handle)
        finally:
            os.pwrite(descriptor, bytes(len(view)), 0)
            os.close(descriptor)
    return Key(principal, kvno, names, fingerprint, name, handle, context)


def _copy(
    context: krb5.Context,
    descriptor: int,
    owner: krb5.Principal,
    wanted: set[tuple[int, int]],
    target: krb5.KeyTab,
) -> None:
    file = krb5.kt_resolve(context, f"FILE:/proc/self/fd/{descriptor}".encode())
    name, wanted = krb5.unparse_name_flags(context, owner, 0), set(wanted)
    # not krb5.kt_get_entry: what it returns is never freed (krb5 0.10), and each look would leave a copy of the key
    for entry in file:
        if krb5.unparse_name_flags(context, entry.principal, 0) == name and (entry.kvno, entry.key.enctype) in wanted:
            wanted.discard((entry.kvno, entry.key.enctype))
            kvno, timestamp = entry.kvno, entry.timestamp & 0xFFFFFFFF  # unsigned after 2038
            krb5.kt_add_entry(context, target, owner, kvno, timestamp, entry.key)


def _newest(found: list[Entry], principal: str, enctypes: Sequence[str] | None) -> list[Entry]:
    own = [entry for entry in found if entry.principal == principal]
    if not own:
        others = sorted({entry.principal for entry in found})
        same = [name for name in others if name.lower() == principal.lower()]
        raise KeytabInvalid(
            f"the keytab holds keys of {', '.join(others)}, and none of {principal}",
            subject=principal,
            cause="upper and lower case count" if same else "the secret is another account's, or the name is not right",
            fix=f"write name: {same[0]}" if same else "upload the right keytab, or correct the principal's name",
        )
    kvno = max(entry.kvno for entry in own)
    newest = {entry.enctype: entry for entry in own if entry.kvno == kvno}
    usable = [entry for entry in newest.values() if enctypes is None or _name(entry.enctype) in enctypes]
    if not usable:
        raise EnctypeRefused(
            f"key version {kvno} is only there as {', '.join(_name(number) for number in newest)}",
            subject=principal,
            cause=f"the configuration permits {', '.join(enctypes or ())}",
            fix="export the keytab with AES keys (ktpass -crypto All), or name its type in kerberos.enctypes",
        )
    return usable


@dataclass(frozen=True, slots=True, eq=False)
class Password:
    """A password from which a key is still to be derived: only the KDC knows the salt.

    :ivar fingerprint: equal for equal passwords, in this process only, and for the keys derived from them.
    """

    principal: str
    secret: Secret[bytes]
    fingerprint: bytes

    @classmethod
    def of(cls, principal: str, secret: Secret[bytes]) -> Password:
        """Take a password; it is wiped when the key has been derived."""
        with secret.exposed() as view:
            return cls(principal, secret, _fingerprint(principal, [(0, view)]))

    def derive(self, enctype: int, salt: bytes, parameters: bytes | None) -> Key:
        """Put the key into libkrb5's memory.

        :raises krb5.Krb5Error: libkrb5 does not know the encryption type.
        """
        context, name, handle = _new_keytab()
        block = krb5.c_string_to_key(context, enctype, self.secret.reveal(), salt, parameters)
        krb5.kt_add_entry(context, handle, krb5.parse_name_flags(context, self.principal.encode()), 1, 0, block)
        return Key(self.principal, None, (_name(enctype),), self.fingerprint, name, handle, context)


def _new_keytab() -> tuple[krb5.Context, bytes, krb5.KeyTab]:
    """Return an empty keytab in memory, with a context of its own: whichever thread drops the key last closes both."""
    context = krb5.init_context()
    name = f"MEMORY:datakit-{next(_numbers)}".encode()
    return context, name, krb5.kt_resolve(context, name)


def _fingerprint(principal: str, keys: list[tuple[int, memoryview]]) -> bytes:
    digest = hashlib.blake2b(principal.encode(), key=_FINGERPRINT_KEY, digest_size=16)
    for enctype, key in sorted(keys, key=lambda pair: pair[0]):
        digest.update(struct.pack(">BI", enctype & 0xFF, len(key)))
        digest.update(key)
    return digest.digest()


def _name(enctype: int) -> str:
    return ENCTYPES.get(enctype, f"type {enctype}")
