"""A double of Kubernetes for laptops and tests: the API of pods over HTTPS, and the pods on the local Docker engine.

It is not Kubernetes: there is one node, which takes every pod, and no controller. What a pod is made of runs for real:
init containers in order, native sidecars, probes, volumes, logs, exec, exit codes.
"""

from datakit_lab.kubernetes.double import KubernetesDouble

__all__ = ["KubernetesDouble"]
