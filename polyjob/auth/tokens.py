"""Create tokens, and the digests that are stored of them. `polyjob.auth.identity` checks the token of a request."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import secrets

from polyjob.clock import now

JOB_TOKEN_PREFIX = "job-"
LOGIN_TOKEN_NAME = "login"
"""The name of tokens that a login with a password creates."""


def new_token() -> str:
    """Return a random token of 40 hex digits."""
    return secrets.token_hex(20)


def digest(token: str) -> str:
    """Return what the database stores of a token. A token has 160 random bits, so one plain SHA-256 is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_expired(expires_at: datetime.datetime | None) -> bool:
    """Return whether a token with this expiry, None for no expiry, is expired."""
    return expires_at is not None and expires_at <= now()


def job_token(job_uuid: str, secret: str) -> str:
    """Return a job's own token, `job-<uuid>-<hex>`. It is valid for that job alone, until the job is done."""
    signature = hmac.new(bytes.fromhex(secret), job_uuid.encode(), hashlib.sha256).hexdigest()
    return f"{JOB_TOKEN_PREFIX}{job_uuid}-{signature}"


def job_uuid_of_token(token: str, secret: str) -> str | None:
    """Return the uuid of the job that the token belongs to; None for any other text."""
    uuid, _, _ = token.removeprefix(JOB_TOKEN_PREFIX).partition("-")
    is_valid = token.startswith(JOB_TOKEN_PREFIX) and hmac.compare_digest(token, job_token(uuid, secret))
    return uuid if is_valid else None
