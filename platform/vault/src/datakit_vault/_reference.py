"""Which secret is meant: an id or a full path. A bare name could be anybody's secret of that name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from datakit_vault.errors import InvalidReference

_FIX: Final = "write its id (42, or id:42) or its full path (/Folder/Name)"
_MOST_CHARACTERS: Final = 1000
_MOST_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class Reference:
    """A secret by id or by path; exactly one of the two is set.

    :ivar secret_id: the vault's number of the secret, 1 or more.
    :ivar parts: folders and name, from the root.
    """

    secret_id: int | None = None
    parts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str | int) -> Reference:
        r"""Read ``42``, ``id:42``, ``/Folder/Name`` or ``\Folder\Name`` (for names that hold a slash).

        :raises InvalidReference: it is neither an id nor a full path.
        """
        if isinstance(text, int) and not isinstance(text, bool):
            return cls._by_id(str(text), text)
        if not isinstance(text, str):
            raise InvalidReference(f"a secret's reference is text or a number, not {type(text).__name__}", fix=_FIX)
        if text.startswith("id:"):
            return cls._by_id(text.removeprefix("id:"), text)
        if text.startswith(("/", "\\")):
            return cls._by_path(text)
        return cls._by_id(text, text)

    @classmethod
    def _by_id(cls, digits: str, text: object) -> Reference:
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS and int(digits)):
            bare = isinstance(text, str) and text == digits and text.strip()
            raise InvalidReference(
                f"{_shown(text)} is neither a secret's id nor its full path",
                cause="a bare name; two folders may hold secrets of one name" if bare else None,
                fix=_FIX,
            )
        return cls(secret_id=int(digits))

    @classmethod
    def _by_path(cls, text: str) -> Reference:
        parts = tuple(text[1:].split(text[0]))
        if len(text) > _MOST_CHARACTERS or not text.isprintable() or not all(part.strip() for part in parts):
            raise InvalidReference(
                f"{_shown(text)} is no full path of a secret",
                cause="a path has no empty part, no control character, "
                f"no separator at its end and at most {_MOST_CHARACTERS} characters",
                fix=_FIX,
            )
        return cls(parts=parts)

    @property
    def vault_path(self) -> str:
        r"""The path as the vault writes it, ``\Folder\Name``; empty for a reference by id."""
        return "".join(f"\\{part}" for part in self.parts)

    def __str__(self) -> str:
        if self.secret_id is not None:
            return str(self.secret_id)
        return self.vault_path if any("/" in part for part in self.parts) else "/" + "/".join(self.parts)


def _shown(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 100 else f"{shown[:100]}…"
