"""The sidecar: a keytab in Delinea becomes tickets and secrets in a memory volume."""
