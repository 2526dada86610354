"""Values and names that no naive path survives, in the database ``Nasty``.

``dbo.AllTypes`` has a column of every type, with its lowest, highest, empty and missing values; the other tables hold
one kind of trap each: names, collations, hidden and computed columns, no rows, 1,024 columns, large texts.
"""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from datakit_lab.data._bulk import create_database
from datakit_lab.sqlserver.tsql import ColumnSpec, TableSpec

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql import DuckBackend

DATABASE: Final = "Nasty"
WIDEST: Final = 1024
"""Columns that a SQL Server table may have."""

LONG_NAME: Final = "N" * 127 + "é"
"""128 characters: the longest name there is."""

ODD_NAMES: Final = (
    "a.b", "a b", "a]b", "a[b", 'a"b', "a'b", " lead", "SELECT", "名前", "naïve", "emoji 🛫", "100%", "a;b--c",
    "tab\tname", LONG_NAME,
)  # fmt: skip

# column, type, then lowest, highest, an ordinary value and an empty or special one, all as T-SQL
_VALUES: Final[tuple[tuple[str, str, str, str, str, str], ...]] = (
    ("BitValue", "bit", "0", "1", "1", "0"),
    ("TinyValue", "tinyint", "0", "255", "7", "0"),
    ("SmallValue", "smallint", "-32768", "32767", "-7", "0"),
    ("IntValue", "int", "-2147483648", "2147483647", "42", "0"),
    ("BigValue", "bigint", "-9223372036854775808", "9223372036854775807", "4200000000", "0"),
    ("RealValue", "real", "-3.4028235E+38", "3.4028235E+38", "1.5E0", "1.17549435E-38"),
    ("FloatValue", "float", "-1.7976931348623157E+308", "1.7976931348623157E+308", "1E-1", "2.2250738585072014E-308"),
    ("WholeDecimal", "decimal(38,0)", f"-{'9' * 38}", "9" * 38, "1", "0"),
    ("FineDecimal", "decimal(38,38)", f"-0.{'9' * 38}", f"0.{'9' * 38}", f"0.{'0' * 37}1", "0"),
    ("MidDecimal", "numeric(28,10)", f"-{'9' * 18}.{'9' * 10}", f"{'9' * 18}.{'9' * 10}", "1.5000000000", "0"),
    ("MoneyValue", "money", "-922337203685477.5808", "922337203685477.5807", "19.9900", "0"),
    ("SmallMoneyValue", "smallmoney", "-214748.3648", "214748.3647", "0.0001", "0"),
    ("DateValue", "date", "'0001-01-01'", "'9999-12-31'", "'2024-02-29'", "'1900-01-01'"),
    ("TimeValue", "time(7)", "'00:00:00.0000000'", "'23:59:59.9999999'", "'12:34:56.1234567'", "'00:00:00.0000001'"),
    ("ShortTime", "time(0)", "'00:00:00'", "'23:59:59'", "'12:34:56'", "'00:00:01'"),
    ("DateTimeValue", "datetime", "'1753-01-01T00:00:00.000'", "'9999-12-31T23:59:59.997'",
    "'2024-02-29T12:34:56.003'", "'1900-01-01'"),
    ("SmallDateTimeValue", "smalldatetime", "'1900-01-01T00:00:00'", "'2079-06-06T23:59:00'", "'2024-02-29T12:35:00'",
    "'1900-01-01'"),
    ("DateTime2Value", "datetime2(7)", "'0001-01-01T00:00:00'", "'9999-12-31T23:59:59.9999999'",
    "'2024-02-29T12:34:56.1234567'", "'1582-10-15'"),
    ("DateTime2Micro", "datetime2(6)", "'0001-01-01T00:00:00'", "'9999-12-31T23:59:59.999999'",
    "'2024-02-29T12:34:56.123456'", "'1582-10-15'"),
    ("OffsetValue", "datetimeoffset(7)", "'0001-01-01T14:00:00 +14:00'", ("'9999-12-31T09:59:59.9999999 "
                                                                         "-14:00'"), ("'2024-02-29T12:34:56.1234567 "
                                                                                    "+05:45'"),
                                                                                    "'2024-01-01T00:00:00 -00:30'"),
    ("CharValue", "char(5)", "''", "'~~~~~'", "'ab'", "''"),
    ("VarCharValue", "varchar(20)", "''", "'~~~~~~~~~~~~~~~~~~~~'", "'trailing  '", "' '"),
    ("VarCharMax", "varchar(max)", "''", "REPLICATE(CAST('x' AS varchar(max)), 10000)", "'text'", "''"),
    ("NCharValue", "nchar(4)", "N''", "N'✈✈✈✈'", "N'ñ'", "N''"),
    ("NVarCharValue", "nvarchar(20)", "N''", "N'🛫🛬👩‍✈️e\u0301'", "N'Zürich'", "N' '"),
    ("NVarCharMax", "nvarchar(max)", "N''", "REPLICATE(CAST(N'é' AS nvarchar(max)), 10000)", "N'text'", "N''"),
    ("TextValue", "text", "''", "'old text'", "'text'", "''"),
    ("NTextValue", "ntext", "N''", "N'old ✈'", "N'text'", "N''"),
    ("BinaryValue", "binary(4)", "0x00000000", "0xFFFFFFFF", "0x01020304", "0x00"),
    ("VarBinaryValue", "varbinary(8)", "0x", "0xFFFFFFFFFFFFFFFF", "0x00FF00", "0x00"),
    ("VarBinaryMax", "varbinary(max)", "0x", "0xDEADBEEF", "0x01", "0x"),
    ("ImageValue", "image", "0x", "0xDEADBEEF", "0x01", "0x"),
    ("GuidValue", "uniqueidentifier", "'00000000-0000-0000-0000-000000000000'",
    "'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF'", "'6F9619FF-8B86-D011-B42D-00C04FC964FF'",
    "'00000000-0000-0000-0000-000000000001'"),
    ("XmlValue", "xml", "N''", "N'<r a=\"1\">é&amp;</r>'", "N'<r/>'", "N''"),
    ("VariantValue", "sql_variant", "CAST(-1 AS int)", "CAST(N'text' AS nvarchar(10))", "CAST('2024-02-29' AS date)",
    "CAST(1.50 AS decimal(5,2))"),
    ("HierarchyValue", "hierarchyid", "'/'", "'/1/2/3/'", "'/1/'", "'/'"),
    ("GeographyValue", "geography", "'POINT (-180 -90)'", "'POINT (180 90)'", "'POINT (-122.34 47.65)'",
    "'POINT (0 0)'"),
    ("GeometryValue", "geometry", "'POINT (-1 -1)'", "'POINT (1 1)'", "'POINT (1.5 2.5)'", "'POINT (0 0)'"),
)  # fmt: skip

_OTHERS: Final = """
CREATE TABLE dbo.Collations (
    ID int NOT NULL PRIMARY KEY, Latin varchar(40), Cyrillic varchar(40) COLLATE Cyrillic_General_CI_AS,
    Greek varchar(40) COLLATE Greek_CI_AS, Japanese varchar(40) COLLATE Japanese_CI_AS,
    Sensitive nvarchar(40) COLLATE Latin1_General_CS_AS, Utf8 varchar(40) COLLATE Latin1_General_100_CI_AS_SC_UTF8
);
INSERT INTO dbo.Collations VALUES
    (1, 'café', N'Привет', N'Καλημέρα', N'日本語', N'abc', N'日本語 ✈'),
    (2, '', '', '', '', N'ABC', ''), (3, NULL, NULL,
    NULL, NULL, NULL, NULL);
CREATE TABLE dbo.Kinds (
    ID bigint IDENTITY(10, 5) NOT NULL PRIMARY KEY, Price decimal(10,2) NOT NULL, Amount int NOT NULL,
    Total AS (Price * Amount), Note nvarchar(50) SPARSE NULL, Version rowversion NOT NULL
);
INSERT INTO dbo.Kinds (Price, Amount, Note) VALUES (1.50, 3, NULL), (2.25, 4, N'noted');
CREATE TABLE dbo.Temporal (
    ID int NOT NULL PRIMARY KEY, Name nvarchar(20),
    ValidFrom datetime2(7) GENERATED ALWAYS AS ROW START HIDDEN NOT NULL,
    ValidTo datetime2(7) GENERATED ALWAYS AS ROW END HIDDEN NOT NULL
);
INSERT INTO dbo.Temporal (ID, Name) VALUES (1, N'now');
CREATE TABLE dbo.NoRows (ID int NOT NULL PRIMARY KEY, Name nvarchar(20), At datetime2(3));
CREATE TABLE dbo.NoKey (Name nvarchar(20), Amount int);
INSERT INTO dbo.NoKey VALUES (N'twice', 1), (N'twice', 1), (NULL, NULL);
"""


def load_nasty(backend: DuckBackend, *, text_bytes: int = 1 << 16, texts: int = 4) -> list[str]:
    """Create the database ``Nasty``.

    :param text_bytes: bytes of each value in ``dbo.BigText``; the traps ask for up to 1 GB.
    :param texts: how many rows ``dbo.BigText`` has.
    :returns: what was made.
    :raises ValueError: the database is there already.
    """
    create_database(backend, DATABASE)
    for statement in (*_all_types(), _OTHERS, *_odd_names()):
        backend.run(statement, DATABASE)
    _lone_surrogates(backend)
    _wide(backend)
    _big_text(backend, text_bytes, texts)
    tables = backend.run("SELECT COUNT(*) FROM sys.tables", DATABASE)[0][0]
    return [f"{DATABASE}: {tables} tables of values and names that no naive path survives"]


def _all_types() -> list[str]:
    columns = ", ".join(f"{name} {type_} NULL" for name, type_, *_ in _VALUES)
    statements = [
        f"CREATE TABLE dbo.AllTypes (ID int NOT NULL PRIMARY KEY, {columns}, RowVersionValue rowversion NOT NULL)"
    ]
    names = ", ".join(name for name, *_ in _VALUES)
    for place in range(4):
        values = ", ".join(row[place + 2] for row in _VALUES)
        statements.append(f"INSERT INTO dbo.AllTypes (ID, {names}) VALUES ({place + 1}, {values})")
    statements.append(f"INSERT INTO dbo.AllTypes (ID, {names}) VALUES (5, {', '.join(['NULL'] * len(_VALUES))})")
    return statements


def _bracketed(name: str) -> str:
    return "[" + name.replace("]", "]]") + "]"


def _odd_names() -> list[str]:
    columns = ", ".join(f"{_bracketed(name)} nvarchar(20) NULL" for name in ODD_NAMES)
    values = ", ".join(f"N'{place}'" for place in range(len(ODD_NAMES)))
    table = f"{_bracketed('odd.schema [x]')}.{_bracketed(chr(39) + 'tab le' + chr(34) + '].' + '表')}"
    long = f"dbo.{_bracketed('T' * 127 + 'ß')}"
    return [
        f"CREATE SCHEMA {_bracketed('odd.schema [x]')}",
        f"CREATE TABLE {table} (ID int NOT NULL PRIMARY KEY, {columns})",
        f"INSERT INTO {table} VALUES (1, {values})",
        f"CREATE TABLE {long} ({_bracketed(LONG_NAME)} int NOT NULL PRIMARY KEY)",
        f"INSERT INTO {long} VALUES (1)",
    ]


def _lone_surrogates(backend: DuckBackend) -> None:
    """Half a pair in nvarchar, which SQL Server stores without a word, and a whole pair beside it."""
    columns = (ColumnSpec("ID", "int", nullable=False), ColumnSpec("Name", "nvarchar(20)", utf16=True))
    backend.create_table(DATABASE, TableSpec("dbo", "LoneSurrogates", columns, key=("ID",)))
    for row in ("1, N'whole 🛫'", "2, NCHAR(55357)", "3, NCHAR(57343)", "4, N''", "5, NULL"):
        backend.run(f"INSERT INTO dbo.LoneSurrogates (ID, Name) VALUES ({row})", DATABASE)


def _wide(backend: DuckBackend) -> None:
    columns = tuple(
        ColumnSpec(f"C{place:04d}", "int" if place % 2 else "nvarchar(20)") for place in range(2, WIDEST + 1)
    )
    backend.create_table(
        DATABASE, TableSpec("dbo", "Wide", (ColumnSpec("ID", "int", nullable=False), *columns), key=("ID",))
    )
    with backend.cursor() as cursor:
        values = ", ".join(
            f"range + {place}" if place % 2 else f"'v' || (range + {place})" for place in range(2, WIDEST + 1)
        )
        cursor.execute(f'INSERT INTO "{DATABASE}".dbo."Wide" SELECT range + 1, {values} FROM range(3)')


def _big_text(backend: DuckBackend, text_bytes: int, texts: int) -> None:
    columns = (
        ColumnSpec("ID", "int", nullable=False),
        ColumnSpec("Body", "nvarchar(max)"),
        ColumnSpec("Plain", "varchar(max)"),
        ColumnSpec("Raw", "varbinary(max)"),
    )
    backend.create_table(DATABASE, TableSpec("dbo", "BigText", columns, key=("ID",)))
    with backend.cursor() as cursor:
        sql = f"""INSERT INTO "{DATABASE}".dbo."BigText" SELECT range + 1, repeat('é', {text_bytes // 2}),
            repeat('abcdefgh', {text_bytes // 8}), encode(repeat('rawbytes', {text_bytes // 8})) FROM range({texts})"""
        cursor.execute(sql)
