"""Credentials as the sidecar leaves them: secret files and Kerberos tickets. Nothing here keeps one."""

from datakit.credentials.secrets import Login, Secret, read_secret, secrets_folder

__all__ = ["Login", "Secret", "read_secret", "secrets_folder"]
