"""Access of users to projects."""

from __future__ import annotations

import pytest

from polyjob.auth import identity, users
from polyjob.auth.roles import Role
from polyjob.db.database import write
from polyjob.db.models import Project
from polyjob.errors import Forbidden, NotFound

NOT_THERE, ONLY_READ, WRITE = "not there", "only read", "write"


@pytest.mark.parametrize(
    ("role", "is_public", "rights"),
    [
        ("owner", False, WRITE),
        ("owner", True, WRITE),
        ("admin", False, WRITE),
        ("admin", True, WRITE),
        ("other", False, NOT_THERE),
        ("other", True, ONLY_READ),
        ("nobody", False, None),
        ("nobody", True, None),
    ],
)
def test_access_depends_on_ownership_and_visibility(user, project, role, is_public, rights):
    with write("test"):
        Project.update(is_public=is_public).execute()
    viewer = {
        "owner": lambda: user,
        "admin": lambda: users.create("eva", is_admin=True),
        "other": lambda: users.create("bob"),
        "nobody": lambda: None,
    }[role]()

    def find(needed):
        return identity.find_project(viewer, "ana", "demo", role=needed)

    if rights is None:
        for needed in Role:
            with pytest.raises(identity.Unauthenticated):
                find(needed)
        return
    assert Project.select().where(identity.readable_projects(viewer)).exists() is (rights is not NOT_THERE)
    if rights is NOT_THERE:
        for needed in Role:
            with pytest.raises(NotFound):
                find(needed)
        return
    assert find(Role.READ) == project
    if rights is ONLY_READ:
        with pytest.raises(Forbidden):
            find(Role.SUBMIT)
    else:
        assert find(Role.MANAGE) == project


def test_missing_project_is_not_found(user, project):
    for username, name in [("ana", "other"), ("bob", "demo")]:
        with pytest.raises(NotFound):
            identity.find_project(user, username, name)
