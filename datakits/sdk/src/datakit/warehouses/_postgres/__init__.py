"""The PostgreSQL adapter: connections, catalog, staging by binary COPY, and commit."""
