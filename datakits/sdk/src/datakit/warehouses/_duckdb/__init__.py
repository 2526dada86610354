"""The DuckDB adapter: the database file, its catalog, staging and commit."""
