"""Bookmarks of jobs, builds and projects."""

from __future__ import annotations

import pytest

from polyjob.db.models import Bookmark, Job, Project
from polyjob.errors import NotFound
from polyjob.services import bookmarks, submission


@pytest.fixture
def job(project, user, settings):
    return submission.create(project, user, {"config": {"run": {"cmd": "true"}}}, settings)


def test_bookmark_is_added_and_removed(job, user):
    with pytest.raises(NotFound):
        bookmarks.remove(job, user)
    for _ in range(2):
        bookmarks.add(job, user)
    assert bookmarks.is_bookmarked(job, user)
    assert Bookmark.select().count() == 1
    for _ in range(2):
        bookmarks.remove(job, user)
    assert not bookmarks.is_bookmarked(job, user)


def test_bookmark_raises_the_version(job, user):
    bookmarks.add(job, user)
    assert Job.get_by_id(job.id).version == job.version + 1


def test_bookmark_is_deleted_with_its_target(job, user):
    bookmarks.add(job, user)
    job.delete_instance()
    assert Bookmark.select().count() == 0
    with pytest.raises(NotFound):
        bookmarks.add(job, user)


def test_kinds_with_the_same_id_are_separate(job, project, user):
    assert job.id == project.id
    bookmarks.add(job, user)
    assert bookmarks.bookmarked_ids(user, Job, [job.id, 7]) == {job.id}
    assert bookmarks.bookmarked_ids(user, Project, [project.id]) == set()
    bookmarks.add(project, user)
    assert [row.target_id for row in bookmarks.list_bookmarks(user, Project)] == [project.id]
