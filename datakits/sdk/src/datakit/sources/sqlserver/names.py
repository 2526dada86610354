"""Names of SQL Server objects: read from the manifest, and quoted into SQL."""

from __future__ import annotations

import re
from typing import NamedTuple

from datakit.errors import ConfigurationError

_PART = re.compile(r"\s*(?:\[((?:[^\]]|\]\])+)\]|\"((?:[^\"]|\"\")+)\"|([^.\[\]\"\s][^.\[\]\"]*?))\s*(\.|$)")
_LONGEST = 128


def quote(name: str) -> str:
    """Quote an identifier, as QUOTENAME does.

    :raises ConfigurationError: SQL Server has no identifier like this.
    """
    if not 0 < len(name) <= _LONGEST or "\0" in name:
        raise ConfigurationError(
            f"{name!r} is no identifier of SQL Server", fix="an identifier has 1 to 128 characters, and none is NUL"
        )
    return "[" + name.replace("]", "]]") + "]"


def text(value: str) -> str:
    """Quote a string literal."""
    return "N'" + value.replace("'", "''") + "'"


class ObjectName(NamedTuple):
    """A table or view."""

    schema: str
    name: str

    @property
    def quoted(self) -> str:
        """The name as SQL."""
        return f"{quote(self.schema)}.{quote(self.name)}"

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @classmethod
    def parse(cls, written: str) -> ObjectName:
        """Read ``TABLE``, ``SCHEMA.TABLE``, or the same with brackets or double quotes; no schema means ``dbo``.

        :raises ConfigurationError: the text is none of these.
        """
        parts, end = [], 0
        while match := _PART.match(written, end):
            bracketed, quoted, plain, separator = match.groups()
            parts.append(bracketed.replace("]]", "]") if bracketed else quoted.replace('""', '"') if quoted else plain)
            end = match.end()
            if not separator:
                break
        if end != len(written) or not 1 <= len(parts) <= 2 or written.rstrip().endswith("."):
            raise ConfigurationError(
                f"{written!r} is no name of a table",
                fix="write SCHEMA.TABLE, and bracket a name that holds a dot or a bracket: [my.schema].[my]]table]. "
                "A table of another database needs its own source system",
            )
        return cls(*(["dbo", *parts] if len(parts) == 1 else parts))
