"""The whole application, and browsers without script that fill in its forms."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from flask import Flask

from polyjob.auth import login, users
from polyjob.auth.sign_in_links import create_sign_in_link
from polyjob.auth.throttle import FailureLimit
from polyjob.db.database import write
from polyjob.db.models import Job, Project, User
from polyjob.services.transitions import transition

ORIGIN = "http://localhost"
HTML = "text/html,application/xhtml+xml,*/*;q=0.8"
PASSWORD = "a long password"
EVIL = "</textarea><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class HtmlForm:
    """A form of a page, with what its fields hold."""

    def __init__(self, attributes: dict[str, str | None]) -> None:
        self.method = (attributes.get("method") or "get").lower()
        self.action = attributes.get("action")
        self.fields: dict[str, str] = {}
        self.label = ""


class Html(HTMLParser):
    """What a browser makes of a page: its forms, links, ids, and the text that people read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.forms: list[HtmlForm] = []
        self.tags: list[str] = []
        """But for the scripts that are the server's own files."""
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
        found = dict(attrs)
        if not (tag == "script" and str(found.get("src")).startswith("/static/")):
            self.tags.append(tag)
        self.attributes |= found.keys()
        if found.get("id"):
            self.elements[str(found["id"])] = found
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if tag == "form":
            self.forms.append(HtmlForm(found))
            self._in_form = True
        name = found.get("name")
        if tag == "button":
            self._in_button = self._in_form
        if not self._in_form or not name:
            return
        fields = self.forms[-1].fields
        if tag == "textarea":
            self._area, fields[name] = name, ""
        elif tag == "input" and found.get("type") in ("radio", "checkbox"):
            if "checked" in found:
                fields[name] = str(found.get("value"))
        elif tag == "input" and found.get("type") != "file":
            fields[name] = str(found.get("value") or "")
        elif tag == "select":
            self._select = name
        if tag == "option" and self._select and ("selected" in found or self._select not in fields):
            fields[self._select] = str(found.get("value"))

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
    """Gets pages and sends their forms, as one without script does."""

    def __init__(self, app: Flask) -> None:
        self.http = app.test_client()

    def get(self, path: str, status: int = 200, **headers: str) -> Html:
        answer = self.http.get(path, headers={"Accept": HTML} | headers)
        assert answer.status_code == status, answer.text
        self.status, self.location = answer.status_code, answer.headers.get("Location")
        return Html(answer.text)

    def post(self, path: str, fields: dict[str, Any], status: int | None = 303, **headers: str) -> Html:
        """As a page of this server sends it, if not said otherwise."""
        sent = {name: text for name, text in ({"Accept": HTML, "Origin": ORIGIN} | headers).items() if text}
        answer = self.http.post(path, data=fields, headers=sent)
        assert status is None or answer.status_code == status, (answer.status_code, answer.text)
        self.status, self.location = answer.status_code, answer.headers.get("Location")
        return Html(answer.text)

    def csrf(self, path: str = "/keys") -> str:
        page = self.http.get(path, headers={"Accept": HTML})
        return next(form.fields["csrf_token"] for form in Html(page.text).forms if "csrf_token" in form.fields)

    def form(self, path: str, action: str | None = None) -> HtmlForm:
        """The page's form that posts to `action` (the page itself)."""
        found = [form for form in self.get(path).forms if (form.action or path).partition("?")[0] == (action or path)]
        assert found, (path, action)
        return found[0]

    def fill(self, path: str, status: int | None = 303, *, at: str | None = None, **typed: Any) -> Html:
        """Get the page, fill its form (that posts to `at`) in, and send it."""
        form = self.form(path, at)
        return self.post(form.action or path, form.fields | typed, status)

    def press(self, path: str, label: str, status: int | None = 303) -> Html:
        """Get the page, and press a button that is a form of its own."""
        found = [form for form in self.get(path).forms if form.label.strip() == label]
        assert found, f"no button `{label}` on {path}"
        return self.post(found[0].action or path, found[0].fields, status)

    def sign_in(self, user: User) -> Browser:
        assert self.http.get(f"/sign-in/{create_sign_in_link(user)}").status_code == 303
        return self


@pytest.fixture
def visitor(app: Flask) -> Browser:
    """Nobody is signed in."""
    return Browser(app)


@pytest.fixture
def ana(app: Flask, user: User, project: Project) -> Browser:
    """Ana, who owns the project `demo`, is signed in."""
    return Browser(app).sign_in(user)


@pytest.fixture
def bob(app: Flask, project: Project) -> Browser:
    """Bob owns nothing."""
    return Browser(app).sign_in(users.create("bob"))


@pytest.fixture
def eva(project: Project, monkeypatch: pytest.MonkeyPatch) -> User:
    """A user with a password. No failed logins are recorded yet."""
    monkeypatch.setattr(login, "_by_account", FailureLimit())
    monkeypatch.setattr(login, "_by_address", FailureLimit(login.MAX_FAILURES_OF_ADDRESS))
    return users.create("eva", PASSWORD)


def publish() -> None:
    with write("test"):
        Project.update(is_public=True).execute()


def bring(number: int, *statuses: Any, **columns: Any) -> Job:
    """Have the job go through these statuses, as the engine would."""
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
