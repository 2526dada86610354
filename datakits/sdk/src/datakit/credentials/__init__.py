"""Credentials as the sidecar leaves them: secret files and Kerberos tickets. Nothing here keeps one."""

from datakit.credentials._waiting import resume_waiting, stop_waiting
from datakit.credentials.secrets import Login, Secret, read_secret, secrets_folder

__all__ = ["Login", "Secret", "read_secret", "resume_waiting", "secrets_folder", "stop_waiting"]
