"""The query engine of the SQL Server double: T-SQL parsed by sqlglot, compiled with T-SQL's types, run by DuckDB.

:class:`DuckBackend` is the server. It is a double for laptops and tests: it answers what clients and people ask most,
and refuses by error 40517 what it does not know, rather than answer something else.
"""

from datakit_lab.sqlserver.tsql._backend import DuckBackend
from datakit_lab.sqlserver.tsql._catalog import ColumnSpec, TableSpec
from datakit_lab.sqlserver.tsql._principals import Principal
from datakit_lab.sqlserver.tsql._session import DuckSession

__all__ = ["ColumnSpec", "DuckBackend", "DuckSession", "Principal", "TableSpec"]
