"""The registry flow, timed as a person meets it: ``datakit`` as a process of its own, a real registry, Git."""
