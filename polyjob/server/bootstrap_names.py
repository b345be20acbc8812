"""What the first start makes in a data folder, by name. Pure: commands that only speak HTTP need it, too."""

from __future__ import annotations

USER = "root"
PROJECT = "quick-start"
TOKEN_NAME = "first start"
TOKEN_FILE = "root-token"
ADDRESS_FILE = "address"
"""Where the last server that was started on the folder listened."""
