"""Keys: how they are made, and what is kept of them. No key itself is ever stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets

JOB_TOKEN_PREFIX = "job-"
LOGIN = "login"
"""The name of keys that are got for a password."""


def new_token() -> str:
    """40 hex digits."""
    return secrets.token_hex(20)


def digest(key: str) -> str:
    """What the database keeps of a key. A key has 160 random bits, so one plain SHA-256 is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


def job_token(job_uuid: str, secret: str) -> str:
    """The one key that a job gets: `job-<uuid>-<hex>`. It is good for that job alone, and until the job is done."""
    signature = hmac.new(bytes.fromhex(secret), job_uuid.encode(), hashlib.sha256).hexdigest()
    return f"{JOB_TOKEN_PREFIX}{job_uuid}-{signature}"


def job_uuid_of_token(key: str, secret: str) -> str | None:
    """The uuid of the job whose key this is; None for any other text."""
    uuid, _, _ = key.removeprefix(JOB_TOKEN_PREFIX).partition("-")
    return uuid if key.startswith(JOB_TOKEN_PREFIX) and hmac.compare_digest(key, job_token(uuid, secret)) else None
