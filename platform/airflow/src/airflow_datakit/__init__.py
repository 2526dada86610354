"""Datakits in Airflow."""
