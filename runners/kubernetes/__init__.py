"""The Kubernetes runner: jobs are pods of a cluster."""
