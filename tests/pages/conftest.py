"""Clients without a sign-in, and with ana signed in."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from polyjob.db.models import User
from tests.pages.helpers import sign_in


@pytest.fixture
def visitor(app: Flask) -> FlaskClient:
    """A client that is not signed in."""
    return app.test_client()


@pytest.fixture
def client(visitor: FlaskClient, user: User) -> FlaskClient:
    sign_in(visitor, user)
    return visitor
