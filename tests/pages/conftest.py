"""A client that nobody has signed in, and one that ana has."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from polyjob.app import create_app
from polyjob.models import User
from polyjob.settings import Settings
from tests.pages.helpers import sign_in


@pytest.fixture
def visitor(settings: Settings) -> FlaskClient:
    """Nobody is signed in."""
    return create_app(settings).test_client()


@pytest.fixture
def client(visitor: FlaskClient, user: User) -> FlaskClient:
    sign_in(visitor, user)
    return visitor
