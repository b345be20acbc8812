"""A page of a list of jobs, newest first: which rows, and where the pages before and behind it begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    query = _rows().where(where, Job.deleted_at.is_null())
    if after is not None:
        found = list(query.where(Job.id > after).order_by(Job.id).limit(PAGE_SIZE + 1))
        has_newer, has_older = len(found) > PAGE_SIZE, True
        found = found[:PAGE_SIZE][::-1]
    else:
        if before is not None:
            query = query.where(Job.id < before)
        found = list(query.order_by(Job.id.desc()).limit(PAGE_SIZE + 1))
        has_newer, has_older = before is not None, len(found) > PAGE_SIZE
        found = found[:PAGE_SIZE]
    return Page(
        jobs=found,
        newer=found[0].id if found and has_newer else None,
        older=found[-1].id if found and has_older else None,
        is_first=before is None and (after is None or not has_newer),
    )


def _rows() -> ModelSelect:
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
