"""A SQL Server double that speaks TDS 7.4 to real drivers. For laptops and tests; it is not SQL Server.

``backend`` is the seam: this package speaks the wire, a ``Backend`` answers queries. ``server.SqlServer`` joins them;
``prepared`` serves ready-made results, ``faults`` breaks things on request, ``tls`` makes certificates.
"""
