"""A SQL Server double that speaks TDS 7.4 to real drivers. For laptops and tests; it is not SQL Server."""
