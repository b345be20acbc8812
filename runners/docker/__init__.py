"""The Docker runner: jobs are containers of a Docker Engine."""
