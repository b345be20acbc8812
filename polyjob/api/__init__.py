"""The HTTP API: one module per resource, each view three lines; what is not the wire's stands in the layers below."""
