"""Sign-in links: each signs one user in, once, within an hour. Only the digest of a link's token is stored."""

from __future__ import annotations

import datetime

from polyjob.auth.tokens import digest, new_token
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import SignInLink, User

SIGN_IN_LINK_LIFETIME = datetime.timedelta(hours=1)


def create_sign_in_link(user: User) -> str:
    """Return the token of a new link for the user. Expired links are deleted."""
    token, moment = new_token(), now()
    with write("sign-in-link"):
        SignInLink.delete().where(SignInLink.expires_at <= moment).execute()
        SignInLink.insert(digest=digest(token), user=user, expires_at=moment + SIGN_IN_LINK_LIFETIME).execute()
    return token


def user_of_sign_in_link(token: str) -> User | None:
    """Return the user of a valid link, without using the link up; None if it is unknown, used or expired."""
    link = SignInLink.get_or_none(SignInLink.digest == digest(token), SignInLink.expires_at > now())
    return link.user if link is not None and link.user.is_active else None


def use_sign_in_link(token: str) -> User | None:
    """Use the link up and return its user; None if it is unknown, used or expired.

    Of several concurrent calls, only one returns the user.
    """
    with write("sign-in"):
        link = SignInLink.get_or_none(SignInLink.digest == digest(token))
        if link is None:
            return None
        SignInLink.delete().where(SignInLink.digest == link.digest).execute()
        return link.user if link.expires_at > now() and link.user.is_active else None
