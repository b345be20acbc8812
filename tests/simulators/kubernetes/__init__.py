"""A stand-in for a Kubernetes cluster, for tests alone: real HTTP, and pods that are real processes.

`Cluster` is one in this process, `start` one in a process of its own. Needs root, for pods have namespaces and a root
folder of their own. What it does not show: the network of pods, limits of memory and cores, TLS.
"""
