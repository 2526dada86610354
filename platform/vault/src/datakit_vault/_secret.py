"""A value that no accident shows: not ``repr``, ``format``, ``pickle`` or ``copy``, not a traceback, not a log."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, NoReturn, TypeVar, cast

T = TypeVar("T", bytes, str)

_SHOWN = "<secret>"


class Secret(Generic[T]):
    """A secret of bytes or text, readable only by :meth:`reveal` and :meth:`exposed`.

    It is held once, as bytes that :meth:`wipe` fills with zeros; so does Python when nobody refers to it any more.
    Copies made by :meth:`reveal` are the caller's, and Python never wipes those: prefer :meth:`exposed` for bytes.

    :param value: the secret; UTF-8 is how text is held.
    """

    __slots__ = ("_held", "_is_text", "_wiped")

    def __init__(self, value: T) -> None:
        self._wiped = False
        self._is_text = isinstance(value, str)
        self._held = bytearray(value.encode() if isinstance(value, str) else value)

    @classmethod
    def adopt(cls, held: bytearray) -> Secret[bytes]:
        """Make a secret of ``held`` without a copy; it is the secret's own from here on."""
        secret = Secret(b"")
        secret._held = held
        return secret

    def reveal(self) -> T:
        """Return the value itself.

        :raises ValueError: it was wiped.
        """
        self._refuse_if_wiped()
        return cast("T", self._held.decode() if self._is_text else bytes(self._held))

    @contextmanager
    def exposed(self) -> Iterator[memoryview]:
        """Within, look at the bytes (of text: its UTF-8) without a copy.

        :raises ValueError: it was wiped.
        """
        self._refuse_if_wiped()
        with memoryview(self._held).toreadonly() as view:
            yield view

    def wipe(self) -> None:
        """Fill the memory with zeros; the secret cannot be read from here on. Twice does no harm."""
        self._wiped = True
        self._held[:] = bytes(len(self._held))

    def _refuse_if_wiped(self) -> None:
        if self._wiped:
            raise ValueError("the secret was wiped")

    def __bool__(self) -> bool:
        """Whether it is not empty."""
        return bool(self._held)

    def __eq__(self, other: object) -> bool:
        """Compare two secrets in constant time; a secret equals nothing that is none."""
        if not isinstance(other, Secret):
            return NotImplemented
        both = not self._wiped and not other._wiped and self._is_text == other._is_text
        return both and hmac.compare_digest(self._held, other._held)

    __hash__ = None  # type: ignore[assignment]  # it may be wiped, and a hash says something of the value

    def __repr__(self) -> str:
        return _SHOWN

    def __format__(self, specification: str) -> str:
        return _SHOWN

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied")

    def __copy__(self) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied")

    def __del__(self) -> None:
        if hasattr(self, "_held"):
            self.wipe()
