"""Browsers without JavaScript that fill in the forms of the application."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from flask import Flask

from polyjob.auth import users
from polyjob.auth.sign_in_links import create_sign_in_link
from polyjob.db.database import write
from polyjob.db.models import Job, Project, User
from polyjob.services.transitions import transition

ORIGIN = "http://localhost"
HTML = "text/html,application/xhtml+xml,*/*;q=0.8"
PASSWORD = "a long password"
EVIL = "</textarea><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class HtmlForm:
    """A form of a page with the values of its fields."""

    def __init__(self, attributes: dict[str, str | None]) -> None:
        self.method = (attributes.get("method") or "get").lower()
        self.action = attributes.get("action")
        self.fields: dict[str, str] = {}
        self.label = ""


class Html(HTMLParser):
    """The parsed page: its forms, links, elements and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.forms: list[HtmlForm] = []
        self.tags: list[str] = []
        """Without the scripts from the server's static files."""
        self.links: list[str] = []
        self.elements: dict[str, dict[str, str | None]] = {}
        """By id."""
        self.attributes: set[str] = set()
        self.text = ""
        self._area: str | None = None
        self._select: str | None = None
        self._in_form = self._in_button = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if not (tag == "script" and str(attributes.get("src")).startswith("/static/")):
            self.tags.append(tag)
        self.attributes |= attributes.keys()
        if attributes.get("id"):
            self.elements[str(attributes["id"])] = attributes
        if tag == "a" and attributes.get("href"):
            self.links.append(str(attributes["href"]))
        if tag == "form":
            self.forms.append(HtmlForm(attributes))
            self._in_form = True
        name = attributes.get("name")
        if tag == "button":
            self._in_button = self._in_form
        if not self._in_form:
            return
        fields = self.forms[-1].fields
        if tag == "option" and self._select and ("selected" in attributes or self._select not in fields):
            fields[self._select] = str(attributes.get("value"))
        if not name:
            return
        if tag == "textarea":
            self._area, fields[name] = name, ""
        elif tag == "input" and attributes.get("type") in ("radio", "checkbox"):
            if "checked" in attributes:
                fields[name] = str(attributes.get("value"))
        elif tag == "input" and attributes.get("type") != "file":
            fields[name] = str(attributes.get("value") or "")
        elif tag == "select":
            self._select = name

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._in_form = False
        elif tag == "textarea" and self._area:
            fields = self.forms[-1].fields
            fields[self._area] = fields[self._area].removeprefix("\n")
            self._area = None
        elif tag == "button":
            self._in_button = False
        elif tag == "select":
            self._select = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._area:
            self.forms[-1].fields[self._area] += data
        if self._in_button:
            self.forms[-1].label += data


class Browser:
    """Gets pages and submits their forms."""

    def __init__(self, app: Flask) -> None:
        self.http = app.test_client()

    def get(self, path: str, status: int = 200, **headers: str) -> Html:
        answer = self.http.get(path, headers={"Accept": HTML} | headers)
        assert answer.status_code == status, answer.text
        self.status, self.location = answer.status_code, answer.headers.get("Location")
        return Html(answer.text)

    def post(self, path: str, fields: dict[str, Any], status: int | None = 303, **headers: str) -> Html:
        """Post fields, by default with the headers of a form on this server."""
        sent = {name: text for name, text in ({"Accept": HTML, "Origin": ORIGIN} | headers).items() if text}
        answer = self.http.post(path, data=fields, headers=sent)
        assert status is None or answer.status_code == status, (answer.status_code, answer.text)
        self.status, self.location = answer.status_code, answer.headers.get("Location")
        return Html(answer.text)

    def csrf(self, path: str = "/keys") -> str:
        page = self.http.get(path, headers={"Accept": HTML})
        return next(form.fields["csrf_token"] for form in Html(page.text).forms if "csrf_token" in form.fields)

    def form(self, path: str, action: str | None = None) -> HtmlForm:
        """Return the form that posts to `action`, by default to the page itself."""
        forms = [form for form in self.get(path).forms if (form.action or path).partition("?")[0] == (action or path)]
        assert forms, (path, action)
        return forms[0]

    def fill(self, path: str, status: int | None = 303, *, at: str | None = None, **typed: Any) -> Html:
        """Get the page, fill in its form that posts to `at`, and submit it."""
        form = self.form(path, at)
        return self.post(form.action or path, form.fields | typed, status)

    def press(self, path: str, label: str, status: int | None = 303) -> Html:
        """Get the page, and press one of its buttons."""
        forms = [form for form in self.get(path).forms if form.label.strip() == label]
        assert forms, f"no button `{label}` on {path}"
        return self.post(forms[0].action or path, forms[0].fields, status)

    def sign_in(self, user: User) -> Browser:
        assert self.http.get(f"/sign-in/{create_sign_in_link(user)}").status_code == 303
        return self


@pytest.fixture
def visitor(app: Flask) -> Browser:
    """A browser that is not signed in."""
    return Browser(app)


@pytest.fixture
def ana(app: Flask, user: User, project: Project) -> Browser:
    """A browser with ana signed in. She owns the project `demo`."""
    return Browser(app).sign_in(user)


@pytest.fixture
def bob(app: Flask, project: Project) -> Browser:
    """A browser with bob signed in. He owns nothing."""
    return Browser(app).sign_in(users.create("bob"))


@pytest.fixture
def eva(project: Project, login_limits: None) -> User:
    """A user with a password."""
    return users.create("eva", PASSWORD)


def publish() -> None:
    with write("test"):
        Project.update(is_public=True).execute()


def bring(number: int, *statuses: Any, **columns: Any) -> Job:
    """Take the job through these statuses, as the engine does."""
    job = Job.get_by_id(number)
    with write("test"):
        for status in statuses:
            assert transition(job, status)
        if columns:
            Job.update(**columns).where(Job.id == number).execute()
    return Job.get_by_id(number)


def job_fields(page: Html) -> dict[str, str]:
    """Return the fields of the form for a new job."""
    return next(form.fields for form in page.forms if "cmd" in form.fields)
