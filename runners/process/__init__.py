"""The process runner: jobs are processes of this machine, each under a keeper."""
