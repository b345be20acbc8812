"""Names of what the first start creates. Imports nothing, because commands that only use HTTP need them."""

from __future__ import annotations

USER = "root"
PROJECT = "quick-start"
TOKEN_NAME = "first start"
TOKEN_FILE = "root-token"
ADDRESS_FILE = "address"
"""File with the address of the running server."""
