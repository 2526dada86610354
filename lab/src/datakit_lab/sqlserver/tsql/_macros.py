"""DuckDB macros for what T-SQL computes on UTF-16 and on bytes; every database has them in its schema ``sys``."""

from __future__ import annotations

from typing import Final

_BMP = "printf('%02X%02X', u & 255, u >> 8)"
_HIGH = "(55296 + ((u - 65536) >> 10))"
_LOW = "(56320 + ((u - 65536) & 1023))"
_UNIT = "('0x' || substr(t, {0} + 2, 2) || substr(t, {0}, 2))::INTEGER"

MACROS: Final[tuple[str, ...]] = (
    "utf16_length(s) AS length(s) + length(regexp_replace(s, '[\\x{0}-\\x{FFFF}]', '', 'g'))",
    (
        "encode_utf16(s) AS unhex(array_to_string([CASE WHEN u < 65536 THEN "
        f"{_BMP} ELSE printf('%02X%02X%02X%02X', {_HIGH} & 255, {_HIGH} >> 8, {_LOW} & 255, {_LOW} >> 8) END "
        "for u in [unicode(c) for c in string_split(s, '') if c <> '']], ''))"
    ),
    (
        "decode_utf16(b) AS array_to_string([CASE WHEN length(t) = 8 THEN "
        f"chr(65536 + (({_UNIT.format(1)} - 55296) << 10) + ({_UNIT.format(5)} - 56320)) "
        f"WHEN {_UNIT.format(1)} BETWEEN 55296 AND 57343 THEN chr(65533) ELSE chr({_UNIT.format(1)}) END "
        "for t in regexp_extract_all(hex(b), '..D[89AB]..D[C-F].|....')], '')"
    ),
    (
        "offset_minutes(s) AS coalesce(TRY_CAST(regexp_extract(s, '([+-]\\d\\d):\\d\\d$', 1) AS INTEGER) * 60 "
        "+ TRY_CAST(regexp_extract(s, '([+-])\\d\\d:\\d\\d$', 1) || regexp_extract(s, ':(\\d\\d)$', 1) AS INTEGER), 0)"
    ),
    "blob_left(b, n) AS unhex(left(hex(b), 2 * n))",
    "blob_pad(b, n) AS unhex(rpad(hex(b), 2 * n, '0'))",
    (
        "guid_bytes(g) AS unhex(regexp_replace(replace(CAST(g AS VARCHAR), '-', ''), "
        "'^(..)(..)(..)(..)(..)(..)(..)(..)', '\\4\\3\\2\\1\\6\\5\\8\\7'))"
    ),
    (
        "guid_from_bytes(b) AS CAST(regexp_replace(hex(b), "
        "'^(..)(..)(..)(..)(..)(..)(..)(..)', '\\4\\3\\2\\1\\6\\5\\8\\7') AS UUID)"
    ),
)
