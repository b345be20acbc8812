"""The pages for people: lists of jobs and one job, read-only, without script, everything escaped."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, redirect, render_template, request, url_for
from peewee import Expression
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from polyjob import auth, jobs
from polyjob.errors import Forbidden, NotFound, PolyjobError, Unavailable
from polyjob.models import Job, Project, User
from polyjob.pages import words
from polyjob.pages.lists import read_page
from polyjob.pages.parts import about, duration

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HOW_TO_SIGN_IN = "Start the server again, or use the newest start's: each start prints a link that signs you in once."


def template_folder() -> Path:
    """The installed package's own folder, else the checkout's."""
    packaged = Path(__file__).parent.parent / "templates"
    return packaged if packaged.is_dir() else packaged.parent.parent / "templates"


blp = Blueprint(
    "pages",
    __name__,
    template_folder=str(template_folder()),
    static_folder=str(Path(__file__).parent.parent / "static"),
    static_url_path="/static",
)
blp.add_app_template_filter(words.lasting)
blp.add_app_template_filter(words.size)
