"""A corporate network in a box, for laptops and tests: KDC, SQL Server double, PostgreSQL."""
