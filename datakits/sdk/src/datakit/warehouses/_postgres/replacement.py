"""Replacing a table by its staging table: what the old one carries either moves to the new one, or forbids the swap."""

from __future__ import annotations

from datakit.model.load import TableName
from datakit.warehouses._identifiers import qualified, quote
from datakit.warehouses._ledger import Execute

_ATTACHED = """
    SELECT 1 FROM pg_class c WHERE c.oid = $1::bigint::oid AND (c.relkind <> 'r' OR c.relispartition OR c.relrowsecurity
        OR c.relforcerowsecurity OR c.relreplident <> 'd' OR c.reltablespace <> 0
        OR c.relowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user))
    UNION ALL SELECT 1 FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid  -- views and rules
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
          AND d.refobjid = $1::bigint::oid
    UNION ALL SELECT 1 FROM pg_depend  -- functions, publications and whatever else names the table
        WHERE refclassid = 'pg_class'::regclass AND refobjid = $1::bigint::oid AND deptype = 'n'
    UNION ALL SELECT 1 FROM pg_depend d JOIN pg_class c ON c.reltype = d.refobjid  -- or its row type
        WHERE c.oid = $1::bigint::oid AND d.refclassid = 'pg_type'::regclass AND d.deptype = 'n'
    UNION ALL SELECT 1 FROM pg_constraint
        WHERE (conrelid = $1::bigint::oid AND contype NOT IN ('p', 'n')) OR confrelid = $1::bigint::oid
    UNION ALL SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = $1::bigint::oid AND NOT i.indisprimary AND NOT starts_with(c.relname::text, '_dk_key_')
    UNION ALL SELECT 1 FROM pg_trigger WHERE tgrelid = $1::bigint::oid AND NOT tgisinternal
    UNION ALL SELECT 1 FROM pg_policy WHERE polrelid = $1::bigint::oid
    UNION ALL SELECT 1 FROM pg_attrdef WHERE adrelid = $1::bigint::oid
    UNION ALL SELECT 1 FROM pg_attribute WHERE attrelid = $1::bigint::oid AND attidentity <> ''
    UNION ALL SELECT 1 FROM pg_inherits WHERE inhrelid = $1::bigint::oid OR inhparent = $1::bigint::oid
    UNION ALL SELECT 1 FROM pg_publication_rel WHERE prrelid = $1::bigint::oid
    UNION ALL SELECT 1 FROM pg_statistic_ext WHERE stxrelid = $1::bigint::oid
    UNION ALL SELECT 1 FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = $1::bigint::oid
    LIMIT 1
"""

_CARRIED = """
    SELECT format('GRANT %s ON TABLE %s TO %s%s', a.privilege_type, $2::text,
                  CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM pg_class c CROSS JOIN aclexplode(c.relacl) a WHERE c.oid = $1::bigint::oid AND a.grantee <> c.relowner
    UNION ALL
    SELECT format('GRANT %s (%I) ON TABLE %s TO %s%s', a.privilege_type, t.attname, $2::text,
                  CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM pg_attribute t CROSS JOIN aclexplode(t.attacl) a
    WHERE t.attrelid = $1::bigint::oid AND NOT t.attisdropped AND t.attname = ANY ($3::text[])
    UNION ALL
    SELECT format('ALTER TABLE %s SET (%I = %L)', $2::text, split_part(o, '=', 1), substr(o, strpos(o, '=') + 1))
    FROM pg_class c CROSS JOIN unnest(c.reloptions) o WHERE c.oid = $1::bigint::oid
    UNION ALL
    SELECT format('COMMENT ON TABLE %s IS %L', $2::text, description) FROM pg_description
    WHERE classoid = 'pg_class'::regclass AND objoid = $1::bigint::oid AND objsubid = 0
    UNION ALL
    SELECT format('COMMENT ON COLUMN %s.%I IS %L', $2::text, t.attname, d.description)
    FROM pg_description d JOIN pg_attribute t ON t.attrelid = d.objoid AND t.attnum = d.objsubid
    WHERE d.classoid = 'pg_class'::regclass AND d.objoid = $1::bigint::oid AND t.attname = ANY ($3::text[])
"""

_GRANTED_BY_DEFAULT = """
    SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
    FROM pg_class c CROSS JOIN aclexplode(c.relacl) a WHERE c.oid = $1::bigint::oid AND a.grantee <> c.relowner
"""


def must_stay(execute: Execute, oid: int) -> bool:
    """Whether something holds on to this very table, so that it must be emptied and filled instead of swapped.

    Views, foreign keys, triggers, policies, publications, indexes other than the key's, defaults, partitions,
    another owner: a new table of the same name would break or lose them.
    """
    return bool(execute(_ATTACHED, (oid,)))


def carry_over(execute: Execute, old: int, new: TableName, new_oid: int, columns: list[str]) -> None:
    """Give the new table the grants, storage options and comments of the old one, and no grant that it had not."""
    for (grantee,) in execute(_GRANTED_BY_DEFAULT, (new_oid,)):
        execute(f"REVOKE ALL ON TABLE {qualified(new)} FROM {grantee}", ())
    for (statement,) in execute(_CARRIED, (old, qualified(new), columns)):
        execute(statement, ())


def swap(execute: Execute, staging: TableName, target: TableName, *, exists: bool) -> None:
    """Put the staging table in the place of the target. Readers wait for the commit that follows at once."""
    if exists:
        execute(f"DROP TABLE {qualified(target)}", ())
    execute(f"ALTER TABLE {qualified(staging)} RENAME TO {quote(target.table)}", ())
