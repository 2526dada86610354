"""Releases: datakits as images in a registry, with what belongs to them. Only this package talks to registries."""
