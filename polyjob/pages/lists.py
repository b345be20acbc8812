"""A page of a list of jobs, newest first: which rows, and where the pages before and behind it begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peewee import Expression, ModelSelect

from polyjob.models import Job, Project, User

PAGE_SIZE = 50
_LONGEST = 18
"""Digits of the largest number that SQLite surely takes."""


@dataclass(frozen=True)
class Page:
    jobs: list[Job]
    newer: int | None
    """Jobs with a greater id stand on the newer page; None where there is none."""
    older: int | None
    is_first: bool


def read_page(where: Expression, arguments: Mapping[str, str]) -> Page:
    """The page that `before=ID` or `after=ID` asks for, else the first. Any page costs what the first costs.

    A number that cannot be an id counts as not given.
    """
    before, after = _number(arguments.get("before")), _number(arguments.get("after"))
    query = Job.select(Job.id).where(where, Job.deleted_at.is_null(), Job.archived_at.is_null()).limit(PAGE_SIZE + 1)
    if after is not None:
        query = query.where(Job.id > after).order_by(Job.id)
    elif before is not None:
        query = query.where(Job.id < before).order_by(Job.id.desc())
    else:
        query = query.order_by(Job.id.desc())
    found = [row.id for row in query]
    has_more, found = len(found) > PAGE_SIZE, found[:PAGE_SIZE]
    has_newer = has_more if after is not None else before is not None
    has_older = has_more if after is None else True
    jobs = list(_rows().where(Job.id.in_(found)).order_by(Job.id.desc()))
    return Page(
        jobs=jobs,
        newer=jobs[0].id if jobs and has_newer else None,
        older=jobs[-1].id if jobs and has_older else None,
        is_first=before is None and not has_newer,
    )


def of_projects(projects: Any) -> Expression:
    """The condition that a job belongs to one of them (a project or a query of ids). Written so that SQLite walks the
    jobs from the newest on and stops, instead of sorting all that match."""
    number = Job.project + 0
    return number == projects.id if isinstance(projects, Project) else number.in_(projects)


def _rows() -> ModelSelect[Job]:
    """What a list shows of a job, and never its config."""
    owner = User.alias()
    columns = (Job.id, Job.name, Job.status, Job.created_at, Job.started_at, Job.finished_at, Job.project, Job.user)
    return (
        Job.select(*columns, User.id, User.username, Project.id, Project.name, Project.user, owner.id, owner.username)
        .join(User, on=Job.user)
        .switch(Job)
        .join(Project, on=Job.project)
        .join(owner, on=(Project.user == owner.id))
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) <= _LONGEST else None
