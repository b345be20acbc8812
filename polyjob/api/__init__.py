"""The HTTP API: one module for each resource. Views are short; the logic is in the layers below."""
