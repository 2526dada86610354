"""``make demo``: SQL Server tables, by Kerberos, into two warehouses; the source lives on, and both follow.

Airflow runs the DAGs that an engineer would write, as processes or as containers. Every credential comes from the
vault, through the sidecar, and is rotated while the first load runs. The demo does what a person would, with the
commands and the REST API that a person would use, and shows them. Then it proves that source and warehouses are equal,
without using the product to do so (:mod:`datakit_lab.compare`).
"""
