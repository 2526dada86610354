"""A long time in a short one: tickets that live for seconds, faults at random, readers that never stop.

``python -m tests.sidecar.soak``, or ``make soak``.
"""
