"""The ``sys`` views and INFORMATION_SCHEMA as DuckDB views on the ``lab`` tables (:mod:`._catalog`).

Columns have SQL Server's names and order as far as they go; what the double does not have is left out, not made up.
``IS_…`` are the views of INFORMATION_SCHEMA, a name that DuckDB keeps for itself.
"""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

from typing import Final

_OBJECT: Final = """
    o.name, o.object_id, CAST(NULL AS INTEGER) AS principal_id, o.schema_id, o.parent_object_id,
    o.type, CASE o.type WHEN 'U' THEN 'USER_TABLE' WHEN 'V' THEN 'VIEW' WHEN 'PK' THEN 'PRIMARY_KEY_CONSTRAINT'
        ELSE 'UNIQUE_CONSTRAINT' END AS type_desc,
    o.create_date, o.modify_date, FALSE AS is_ms_shipped, FALSE AS is_published, FALSE AS is_schema_published
"""

_COLUMN: Final = """
    c.object_id, c.name, c.column_id, c.system_type_id, c.user_type_id, c.max_length, c.precision, c.scale,
    c.collation_name, c.is_nullable, FALSE AS is_ansi_padded, FALSE AS is_rowguidcol, c.is_identity, c.is_computed,
    FALSE AS is_filestream, FALSE AS is_replicated, FALSE AS is_xml_document, CAST(0 AS INTEGER) AS xml_collection_id,
    CAST(CASE WHEN c.default_definition IS NULL THEN 0 ELSE c.object_id + c.column_id END AS INTEGER) AS
    default_object_id,
    CAST(0 AS INTEGER) AS rule_object_id, c.is_sparse, FALSE AS is_column_set, c.generated_always_type,
    CASE c.generated_always_type WHEN 1 THEN 'AS_ROW_START' WHEN 2 THEN 'AS_ROW_END' ELSE 'NOT_APPLICABLE' END
        AS generated_always_type_desc,
    CAST(NULL AS INTEGER) AS encryption_type, c.is_hidden, FALSE AS is_masked
"""

SYSTEM_VIEWS: Final[dict[str, str]] = {
    "schemas": "SELECT name, schema_id, principal_id FROM lab.schemas",
    "objects": f"SELECT {_OBJECT} FROM lab.objects AS o",
    "all_objects": f"SELECT {_OBJECT} FROM lab.objects AS o",
    "tables": f"""SELECT {_OBJECT}, CAST(0 AS INTEGER) AS lob_data_space_id, FALSE AS is_replicated,
        FALSE AS is_memory_optimized,
        CAST(0 AS UTINYINT) AS durability, o.temporal_type, CASE o.temporal_type WHEN 2 THEN
        'SYSTEM_VERSIONED_TEMPORAL_TABLE'
        WHEN 1 THEN 'HISTORY_TABLE' ELSE 'NON_TEMPORAL_TABLE' END AS temporal_type_desc,
        CAST(NULL AS INTEGER) AS history_table_id, FALSE AS is_external, FALSE AS is_filetable, FALSE AS
        is_tracked_by_cdc
        FROM lab.objects AS o WHERE o.type = 'U'""",
    "views": f"SELECT {_OBJECT}, FALSE AS with_check_option FROM lab.objects AS o WHERE o.type = 'V'",
    "columns": f"SELECT {_COLUMN} FROM lab.columns AS c",
    "all_columns": f"SELECT {_COLUMN} FROM lab.columns AS c",
    "computed_columns": f"""SELECT {_COLUMN}, c.definition, TRUE AS uses_database_collation, FALSE AS is_persisted
        FROM lab.columns AS c WHERE c.is_computed""",
    "identity_columns": f"""SELECT {_COLUMN}, c.seed AS seed_value, c.increment AS increment_value
        FROM lab.columns AS c WHERE c.is_identity""",
    "default_constraints": """SELECT 'DF_' || o.name || '_' || c.name AS name,
        CAST(c.object_id + c.column_id AS INTEGER)
        AS object_id, o.schema_id, c.object_id AS parent_object_id, c.column_id AS parent_column_id,
        '(' || c.default_definition || ')' AS definition
        FROM lab.columns AS c JOIN lab.objects AS o ON o.object_id = c.object_id WHERE c.default_definition IS NOT
        NULL""",
    "types": """SELECT name, system_type_id, user_type_id, CAST(4 AS INTEGER) AS schema_id, max_length,
        "precision", scale, collation_name, TRUE AS is_nullable, FALSE AS is_user_defined, system_type_id = 240 AS
        is_assembly_type,
        FALSE AS is_table_type FROM lab.types""",
    "indexes": """SELECT object_id, name, index_id, type, CASE type WHEN 0 THEN 'HEAP' WHEN 1 THEN 'CLUSTERED'
        ELSE 'NONCLUSTERED' END AS type_desc, is_unique, CAST(1 AS INTEGER) AS data_space_id, FALSE AS ignore_dup_key,
        is_primary_key, is_unique_constraint, CAST(0 AS UTINYINT) AS fill_factor, FALSE AS is_padded, FALSE AS
        is_disabled,
        FALSE AS is_hypothetical, FALSE AS has_filter, CAST(NULL AS VARCHAR) AS filter_definition FROM lab.indexes
        UNION ALL SELECT object_id, NULL, 0, 0, 'HEAP', FALSE, 1, FALSE, FALSE, FALSE, 0, FALSE, FALSE, FALSE, FALSE,
        NULL
        FROM lab.objects AS o WHERE type = 'U' AND NOT EXISTS
        (SELECT 1 FROM lab.indexes AS i WHERE i.object_id = o.object_id AND i.index_id = 1)""",
    "index_columns": """SELECT object_id, index_id, index_column_id, column_id, key_ordinal, CAST(0 AS UTINYINT) AS
        partition_ordinal, is_descending_key, is_included_column FROM lab.index_columns""",
    "key_constraints": f"""SELECT {_OBJECT}, i.index_id AS unique_index_id, FALSE AS is_system_named
        FROM lab.objects AS o JOIN lab.indexes AS i ON i.constraint_id = o.object_id""",
    "sql_modules": "SELECT object_id, definition FROM lab.objects WHERE definition IS NOT NULL",
    "foreign_keys": f"SELECT {_OBJECT} FROM lab.objects AS o WHERE o.type = 'F'",
    "extended_properties": """SELECT CAST(1 AS UTINYINT) AS class, CAST(0 AS INTEGER) AS major_id,
        CAST(0 AS INTEGER) AS minor_id, '' AS name, '' AS value WHERE FALSE""",
    "IS_SCHEMATA": """SELECT current_catalog() AS CATALOG_NAME, name AS SCHEMA_NAME, 'dbo' AS SCHEMA_OWNER
        FROM lab.schemas""",
    "IS_TABLES": """SELECT current_catalog() AS TABLE_CATALOG, s.name AS TABLE_SCHEMA, o.name AS TABLE_NAME,
        CASE o.type WHEN 'U' THEN 'BASE TABLE' ELSE 'VIEW' END AS TABLE_TYPE
        FROM lab.objects AS o JOIN lab.schemas AS s ON s.schema_id = o.schema_id WHERE o.type IN ('U', 'V')""",
    "IS_COLUMNS": """SELECT current_catalog() AS TABLE_CATALOG, s.name AS TABLE_SCHEMA, o.name AS TABLE_NAME,
        c.name AS COLUMN_NAME, c.column_id AS ORDINAL_POSITION, c.default_definition AS COLUMN_DEFAULT,
        CASE WHEN c.is_nullable THEN 'YES' ELSE 'NO' END AS IS_NULLABLE, c.type_name AS DATA_TYPE,
        CASE WHEN c.collation_name IS NOT NULL THEN c.length END AS CHARACTER_MAXIMUM_LENGTH,
        CAST(CASE WHEN c.type_name IN ('char','varchar','nchar','nvarchar','binary','varbinary') THEN c.max_length
        END AS INTEGER)
            AS CHARACTER_OCTET_LENGTH,
        CASE WHEN c.type_name IN
        ('tinyint','smallint','int','bigint','decimal','numeric','money','smallmoney','real','float')
            THEN c.precision END AS NUMERIC_PRECISION,
        CAST(CASE WHEN c.type_name IN ('tinyint','smallint','int','bigint','decimal','numeric','money','smallmoney')
            THEN c.scale END AS INTEGER) AS NUMERIC_SCALE,
        CAST(CASE WHEN c.type_name IN ('time','datetime','datetime2','datetimeoffset') THEN c.scale
            WHEN c.type_name IN ('date','smalldatetime') THEN 0 END AS SMALLINT) AS DATETIME_PRECISION,
        CASE WHEN c.system_type_id IN (231, 239, 99) THEN 'UNICODE' WHEN c.collation_name IS NOT NULL THEN 'iso_1' END
            AS CHARACTER_SET_NAME, c.collation_name AS COLLATION_NAME
        FROM lab.columns AS c JOIN lab.objects AS o ON o.object_id = c.object_id
        JOIN lab.schemas AS s ON s.schema_id = o.schema_id WHERE NOT c.is_hidden""",
    "IS_TABLE_CONSTRAINTS": """SELECT current_catalog() AS CONSTRAINT_CATALOG, s.name AS CONSTRAINT_SCHEMA,
        k.name AS CONSTRAINT_NAME, s.name AS TABLE_SCHEMA, o.name AS TABLE_NAME, CASE WHEN k.is_primary_key THEN
        'PRIMARY KEY'
        ELSE 'UNIQUE' END AS CONSTRAINT_TYPE FROM lab.indexes AS k JOIN lab.objects AS o ON o.object_id = k.object_id
        JOIN lab.schemas AS s ON s.schema_id = o.schema_id WHERE k.constraint_id IS NOT NULL""",
    "IS_KEY_COLUMN_USAGE": """SELECT s.name AS CONSTRAINT_SCHEMA, k.name AS CONSTRAINT_NAME, s.name AS TABLE_SCHEMA,
        o.name AS TABLE_NAME, c.name AS COLUMN_NAME, CAST(x.key_ordinal AS INTEGER) AS ORDINAL_POSITION
        FROM lab.indexes AS k JOIN lab.index_columns AS x ON x.object_id = k.object_id AND x.index_id = k.index_id
        JOIN lab.columns AS c ON c.object_id = x.object_id AND c.column_id = x.column_id
        JOIN lab.objects AS o ON o.object_id = k.object_id JOIN lab.schemas AS s ON s.schema_id = o.schema_id""",
    # the double has no foreign keys, and clients that look for them (SQLAlchemy) take an empty view for "none"
    "IS_REFERENTIAL_CONSTRAINTS": """SELECT CONSTRAINT_CATALOG, CONSTRAINT_SCHEMA, CONSTRAINT_NAME,
        CONSTRAINT_CATALOG AS UNIQUE_CONSTRAINT_CATALOG, CONSTRAINT_SCHEMA AS UNIQUE_CONSTRAINT_SCHEMA,
        CONSTRAINT_NAME AS UNIQUE_CONSTRAINT_NAME, 'SIMPLE' AS MATCH_OPTION, 'NO ACTION' AS UPDATE_RULE,
        'NO ACTION' AS DELETE_RULE
        FROM (SELECT '' AS CONSTRAINT_CATALOG, '' AS CONSTRAINT_SCHEMA, '' AS CONSTRAINT_NAME) WHERE FALSE""",
}
