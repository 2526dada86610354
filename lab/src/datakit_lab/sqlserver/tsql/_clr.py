"""Serialised forms of the CLR types' values, as far as the lab makes them itself.

hierarchyid: https://learn.microsoft.com/openspecs/sql_server_protocols/ms-ssclrt (OrdPath, MS-SSCLRT 2.2);
points of geography and geometry: MS-SSCLRT 2.1.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from datakit_lab.sqlserver.backend import SqlError

_GEOGRAPHY_SRID: Final = 4326
_POINT = re.compile(r"POINT\s*\(\s*(\S+)\s+(\S+)\s*\)", re.IGNORECASE)
# ordinal below the limit -> prefix, bits, first ordinal of the range
_ORDINALS: Final = ((4, "01", 2, 0), (8, "100", 2, 4), (16, "101", 3, 8))


def serialise(type_name: str, text: str) -> bytes:
    """Return the bytes of a value.

    :raises SqlError: 24001 for a path, 24100 for a shape that the lab cannot serialise.
    """
    return _hierarchy(text) if type_name == "hierarchyid" else _point(type_name, text)


def _hierarchy(path: str) -> bytes:
    if not re.fullmatch(r"/(\d+/)*", path):
        raise SqlError(
            24001, f"The input string '{path}' is not a valid string representation of a SqlHierarchyId node."
        )
    bits = ""
    for part in path.strip("/").split("/") if path != "/" else []:
        ordinal = int(part)
        found = next((row for row in _ORDINALS if ordinal < row[0]), None)
        if found is None:
            raise SqlError(
                24001, f"The lab's SQL Server double has no hierarchyid ordinals above 15, and '{path}' does."
            )
        _, prefix, width, first = found
        bits += f"{prefix}{ordinal - first:0{width}b}1"
    padded = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return bytes(int(padded[at : at + 8], 2) for at in range(0, len(padded), 8))


def _point(type_name: str, text: str) -> bytes:
    match = _POINT.fullmatch(text.strip())
    if match is None:
        raise SqlError(24100, f"The lab's SQL Server double serialises points only, not '{text[:60]}'.")
    x, y = float(match[1]), float(match[2])
    geography = type_name == "geography"
    # version 1, properties: valid, single point; geography writes the latitude first
    return struct.pack("<iBB", _GEOGRAPHY_SRID if geography else 0, 1, 0x0C) + struct.pack(
        "<dd", *((y, x) if geography else (x, y))
    )
