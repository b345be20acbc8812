"""Marshmallow schemas of request bodies and responses."""
