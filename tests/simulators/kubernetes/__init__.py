"""A simulator of a Kubernetes cluster for tests: real HTTP, and pods that are real processes.

`Cluster` runs in this process, `remote.start` runs one in a process of its own. It needs root, because pods have
namespaces and root folders of their own. It does not simulate the network of pods, limits of memory and cores, or TLS.
"""
