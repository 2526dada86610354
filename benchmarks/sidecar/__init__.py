"""The sidecar beside others that keep a ticket fresh: ``scripts/bench sidecar``."""
