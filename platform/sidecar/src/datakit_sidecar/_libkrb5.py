"""Two calls of libkrb5 that its Python packages make badly, through ctypes.

- ``krb5_get_renewed_creds``: the package krb5 (0.10) holds Python's lock while it waits. With a silent KDC, probes,
  signals and the other principals would stand still for 27 s. ctypes lets go of the lock, and so do krb5's other calls.
- ``krb5_get_credentials``, which gets a service's ticket: krb5 does not have it. A GSSAPI context would do it on the
  way, at the price of a package of 4 MB, in the process that should have as few as it can.

Both work from one ``MEMORY:`` cache to another, which all users of the library in a process share. Of ``krb5_creds``
only the first fields are touched, as krb5.h has defined them since MIT's 1.0.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Final, Self

_Pointer = ctypes.c_void_p
_Address = ctypes.POINTER(ctypes.c_void_p)


class _Creds(ctypes.Structure):
    """``krb5_creds``, with more room behind than it has on any machine."""

    _fields_ = (
        ("magic", ctypes.c_int32),
        ("client", _Pointer),
        ("server", _Pointer),
        ("rest", ctypes.c_char * 2048),
    )


_CredsAddress = ctypes.POINTER(_Creds)
_SIGNATURES: Final = {
    "krb5_init_context": (_Address,),
    "krb5_free_context": (_Pointer,),
    "krb5_parse_name": (_Pointer, ctypes.c_char_p, _Address),
    "krb5_free_principal": (_Pointer, _Pointer),
    "krb5_cc_resolve": (_Pointer, ctypes.c_char_p, _Address),
    "krb5_cc_get_principal": (_Pointer, _Pointer, _Address),
    "krb5_cc_initialize": (_Pointer, _Pointer, _Pointer),
    "krb5_cc_store_cred": (_Pointer, _Pointer, _CredsAddress),
    "krb5_cc_close": (_Pointer, _Pointer),
    "krb5_get_renewed_creds": (_Pointer, _CredsAddress, _Pointer, _Pointer, ctypes.c_char_p),
    "krb5_get_credentials": (_Pointer, ctypes.c_int32, _Pointer, _CredsAddress, ctypes.POINTER(_CredsAddress)),
    "krb5_free_cred_contents": (_Pointer, _CredsAddress),
    "krb5_free_creds": (_Pointer, _CredsAddress),
    "krb5_get_error_message": (_Pointer, ctypes.c_int32),
    "krb5_free_error_message": (_Pointer, _Pointer),
}


class CallFailed(Exception):
    """libkrb5's error.

    :ivar code: its number, as in ``krb5.Krb5Error.err_code``.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def renew(source: bytes, target: bytes) -> None:
    """Renew the ticket-granting ticket in one cache, and store the new one in another.

    :raises CallFailed: the KDC refuses or does not answer.
    """
    with _Call() as call:
        old = call.cache(source)
        client = call.principal_of(old)
        creds = call.creds()
        call.check(call.library.krb5_get_renewed_creds(call.context, creds, client, old, None))
        new = call.cache(target)
        call.check(call.library.krb5_cc_initialize(call.context, new, client))
        call.check(call.library.krb5_cc_store_cred(call.context, new, creds))


def add_service_ticket(cache: bytes, service: bytes) -> None:
    """Get a ticket for a service with the ticket-granting ticket in a cache, and store it there.

    :param service: with its realm; an empty realm (``HTTP/web01@``) lets the KDC refer to the right one.
    :raises CallFailed: the KDC refuses or does not answer.
    """
    with _Call() as call:
        opened = call.cache(cache)
        wanted = _Creds(client=call.principal_of(opened), server=call.principal(service))
        got = _CredsAddress()
        call.check(call.library.krb5_get_credentials(call.context, 0, opened, wanted, ctypes.byref(got)))
        call.library.krb5_free_creds(call.context, got)


class _Call:
    """A context of its own for one call, and whatever has to be freed after it."""

    def __init__(self) -> None:
        self.library = _library()
        self.context = _Pointer()
        self._after = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.check(self.library.krb5_init_context(ctypes.byref(self.context)))
        self._after.callback(self.library.krb5_free_context, self.context)
        return self

    def __exit__(self, *_: object) -> None:
        self._after.close()

    def cache(self, name: bytes) -> _Pointer:
        opened = _Pointer()
        self.check(self.library.krb5_cc_resolve(self.context, name, ctypes.byref(opened)))
        self._after.callback(self.library.krb5_cc_close, self.context, opened)
        return opened

    def principal_of(self, cache: _Pointer) -> _Pointer:
        with self._freed_principal() as found:
            self.check(self.library.krb5_cc_get_principal(self.context, cache, ctypes.byref(found)))
        return found

    def principal(self, name: bytes) -> _Pointer:
        with self._freed_principal() as found:
            self.check(self.library.krb5_parse_name(self.context, name, ctypes.byref(found)))
        return found

    def creds(self) -> _Creds:
        creds = _Creds()
        self._after.callback(self.library.krb5_free_cred_contents, self.context, creds)
        return creds

    def check(self, code: int) -> None:
        """Raise libkrb5's error, if there is one."""
        if not code:
            return
        text = self.library.krb5_get_error_message(self.context, code)
        try:
            words = ctypes.string_at(text).decode("utf-8", "replace")
        finally:
            self.library.krb5_free_error_message(self.context, text)
        raise CallFailed(code, words)

    @contextlib.contextmanager
    def _freed_principal(self) -> Iterator[_Pointer]:
        found = _Pointer()
        yield found
        self._after.callback(self.library.krb5_free_principal, self.context, found)


@functools.cache
def _library() -> ctypes.CDLL:
    """Return the library that the package krb5 has loaded."""
    library = ctypes.CDLL("libkrb5.so.3")
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = _Pointer if name == "krb5_get_error_message" else ctypes.c_int32
    return library
