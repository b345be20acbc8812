"""Modules that several runners share."""
