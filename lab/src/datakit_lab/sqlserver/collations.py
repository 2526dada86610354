"""SQL Server's collations as five bytes on the wire, and the code page that each one means for (var)char."""

from __future__ import annotations

import struct
from dataclasses import dataclass

DEFAULT_COLLATION = "SQL_Latin1_General_CP1_CI_AS"

# The longest prefix wins. LCIDs and code pages: Microsoft's "Collation and Unicode support".
_FAMILIES: dict[str, tuple[int, str]] = {
    "SQL_Latin1_General_CP1": (0x409, "cp1252"),
    "SQL_Latin1_General_CP437": (0x409, "cp437"),
    "SQL_Latin1_General_CP850": (0x409, "cp850"),
    "SQL_Latin1_General_CP1250": (0x409, "cp1250"),
    "SQL_Latin1_General_CP1251": (0x409, "cp1251"),
    "SQL_Latin1_General_CP1253": (0x409, "cp1253"),
    "SQL_Latin1_General_CP1254": (0x409, "cp1254"),
    "SQL_Latin1_General_CP1255": (0x409, "cp1255"),
    "SQL_Latin1_General_CP1256": (0x409, "cp1256"),
    "SQL_Latin1_General_CP1257": (0x409, "cp1257"),
    "Latin1_General": (0x409, "cp1252"),
    "Albanian": (0x41C, "cp1250"),
    "Arabic": (0x401, "cp1256"),
    "Chinese_PRC": (0x804, "gbk"),
    "Chinese_Taiwan_Stroke": (0x404, "cp950"),
    "Croatian": (0x41A, "cp1250"),
    "Cyrillic_General": (0x419, "cp1251"),
    "Czech": (0x405, "cp1250"),
    "Danish_Norwegian": (0x406, "cp1252"),
    "Estonian": (0x425, "cp1257"),
    "Finnish_Swedish": (0x40B, "cp1252"),
    "French": (0x40C, "cp1252"),
    "German_PhoneBook": (0x10407, "cp1252"),
    "Greek": (0x408, "cp1253"),
    "Hebrew": (0x40D, "cp1255"),
    "Hungarian": (0x40E, "cp1250"),
    "Icelandic": (0x40F, "cp1252"),
    "Japanese": (0x411, "cp932"),
    "Japanese_XJIS": (0x411, "cp932"),
    "Korean_Wansung": (0x412, "cp949"),
    "Latvian": (0x426, "cp1257"),
    "Lithuanian": (0x427, "cp1257"),
    "Modern_Spanish": (0xC0A, "cp1252"),
    "Polish": (0x415, "cp1250"),
    "Romanian": (0x418, "cp1250"),
    "Slovak": (0x41B, "cp1250"),
    "Slovenian": (0x424, "cp1250"),
    "Thai": (0x41E, "cp874"),
    "Turkish": (0x41F, "cp1254"),
    "Ukrainian": (0x422, "cp1251"),
    "Vietnamese": (0x42A, "cp1258"),
}
_PREFIXES = sorted(_FAMILIES, key=len, reverse=True)
# sort ids exist for the SQL_* collations only
_SORT_IDS = {
    "SQL_Latin1_General_CP1_CI_AS": 52,
    "SQL_Latin1_General_CP1_CS_AS": 51,
    "SQL_Latin1_General_CP1_CI_AI": 54,
    "SQL_Latin1_General_CP437_CI_AS": 32,
    "SQL_Latin1_General_CP437_CS_AS": 31,
    "SQL_Latin1_General_CP850_CI_AS": 42,
    "SQL_Latin1_General_CP850_CS_AS": 41,
    "SQL_Latin1_General_CP1250_CI_AS": 82,
    "SQL_Latin1_General_CP1251_CI_AS": 106,
    "SQL_Latin1_General_CP1253_CI_AS": 114,
    "SQL_Latin1_General_CP1254_CI_AS": 130,
    "SQL_Latin1_General_CP1255_CI_AS": 138,
    "SQL_Latin1_General_CP1256_CI_AS": 146,
    "SQL_Latin1_General_CP1257_CI_AS": 154,
}
_VERSIONS = {"90": 1, "100": 2, "140": 3, "160": 4}
_MULTI_BYTE = {"cp932", "gbk", "cp950", "cp949"}
_IGNORE_CASE, _IGNORE_ACCENT, _IGNORE_KANA, _IGNORE_WIDTH, _BINARY, _BINARY2, _UTF8 = (1 << bit for bit in range(7))


@dataclass(frozen=True, slots=True)
class Collation:
    """A collation: its name, the five bytes the wire sends, and Python's name of its code page.

    :ivar multi_byte: one character may take more than one byte (other than UTF-8).
    """

    name: str
    wire: bytes
    codec: str
    multi_byte: bool


def _flags(words: list[str]) -> int:
    if "BIN2" in words:
        flags = _BINARY2
    elif "BIN" in words:
        flags = _BINARY
    else:
        flags = (
            (_IGNORE_CASE if "CS" not in words else 0)
            | (_IGNORE_ACCENT if "AI" in words else 0)
            | (_IGNORE_KANA if "KS" not in words else 0)
            | (_IGNORE_WIDTH if "WS" not in words else 0)
        )
    return flags | (_UTF8 if "UTF8" in words else 0)


def collation(name: str | None) -> Collation:
    """Look a collation up by SQL Server's name; None is the server's default.

    :raises ValueError: a name of no known family.
    """
    name = name or DEFAULT_COLLATION
    prefix = next((known for known in _PREFIXES if name == known or name.startswith(known + "_")), None)
    if prefix is None:
        raise ValueError(f"unknown collation {name!r}; known families: {', '.join(sorted(_FAMILIES))}")
    lcid, codec = _FAMILIES[prefix]
    words = name[len(prefix) :].strip("_").split("_")
    flags = _flags(words)
    version = next((_VERSIONS[word] for word in words if word in _VERSIONS), 0)
    wire = struct.pack("<IB", lcid & 0xFFFFF | flags << 20 | version << 28, _SORT_IDS.get(name, 0))
    if flags & _UTF8:
        codec = "utf-8"
    return Collation(name, wire, codec, codec in _MULTI_BYTE)


_BY_LCID = dict(reversed(list(_FAMILIES.values())))
_BY_SORT_ID = {sort_id: collation(name).codec for name, sort_id in _SORT_IDS.items()}


def codec_of(wire: bytes) -> str:
    """Return the code page of five collation bytes that a client sent; cp1252 for those we do not know."""
    (packed, sort_id) = struct.unpack("<IB", wire)
    if packed >> 20 & _UTF8:
        return "utf-8"
    return _BY_SORT_ID.get(sort_id) or _BY_LCID.get(packed & 0xFFFFF, "cp1252")
