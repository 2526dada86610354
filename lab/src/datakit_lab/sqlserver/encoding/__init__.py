"""Arrow batches to TDS rows, a block at a time and without a Python loop over rows."""

from datakit_lab.sqlserver.encoding.rows import RowEncoder

__all__ = ["RowEncoder"]
