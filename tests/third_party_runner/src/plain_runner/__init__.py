"""A runner for polyjob in a distribution of its own: each job is a plain process of the machine."""
