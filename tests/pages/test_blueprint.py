"""Every page: escaping, security headers, size of scripts and styles, error pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

import polyjob
from polyjob.app import create_app
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Project, User
from polyjob.pages import template_folder
from polyjob.settings import Settings
from polyjob.statuses import Status
from tests.pages.helpers import BEGUN, EVIL, make_job, read, sign_in, url, write_log


def test_user_content_is_escaped(client: FlaskClient, project: Project, data_dir: Path) -> None:
    with write("test"):
        Project.update(description=EVIL).where(Project.id == project.id).execute()
    job = make_job(
        project,
        *BEGUN,
        (Status.FAILED, EVIL, {}),
        name=EVIL,
        description=EVIL,
        tags=[EVIL],
        node=EVIL,
        notes=[{"kind": "x", "text": EVIL}],
        config={EVIL: "</pre>" + EVIL},
        exit={"reason": "start", "message": EVIL},
    )
    write_log(data_dir, job, b"</pre>" + EVIL.encode() + b'<img src=x onerror="alert(1)">\xff\x1b[31m red\n')
    for path, count in ((url(job), 8), ("/", 1), ("/ana/demo", 2)):
        page = read(client, path)
        assert page.text.count(EVIL) >= count
        assert "script" not in page.tags
        assert "img" not in page.tags
        assert not [name for name in page.attributes if name.startswith("on") or name == "style"]
    log = read(client, f"{url(job)}/log?frame=1")
    assert '<img src=x onerror="alert(1)">\ufffd red' in log.text
    assert "img" not in log.tags


def test_every_page_has_security_headers(client: FlaskClient, project: Project) -> None:
    job = make_job(project)
    for path in ("/", "/ana/demo", url(job), "/ana/nothing", "/sign-in/nothing"):
        headers = client.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert "no-store" in headers["Cache-Control"]


def test_scripts_and_styles_are_local_and_small(visitor: FlaskClient) -> None:
    html = visitor.get("/").text
    paths = re.findall(r'<(?:link rel="stylesheet" href|script src)="([^"]+)"', html)
    assert {path.rpartition(".")[2] for path in paths} == {"css", "js"}
    weight = 0
    for path in (Path(polyjob.__file__).parent / "static").iterdir():
        with visitor.get(f"/static/{path.name}") as answer:
            assert answer.status_code == 200
            assert (
                answer.mimetype
                == {
                    ".css": "text/css",
                    ".js": "text/javascript",
                    ".svg": "image/svg+xml",
                }[path.suffix]
            )
            assert b"http" not in answer.data.replace(b"http://www.w3.org/2000/svg", b"")
            assert b"url(" not in answer.data
            weight += len(answer.data) if path.suffix in (".css", ".js") else 0
    assert weight < 40_000


def test_private_projects_look_like_missing_ones(client: FlaskClient, project: Project, settings: Settings) -> None:
    job = make_job(project, name="secret")
    with write("test"):
        other = User.create(username="bob", created_at=now())
    stranger = create_app(settings).test_client()
    sign_in(stranger, other)
    assert "secret" not in read(stranger, "/").text
    pages = [read(stranger, path, 404).text for path in (url(job), "/ana/demo", "/ana/nothing", "/nobody/demo/jobs/1")]
    assert not any("secret" in text for text in pages)
    assert len(set(pages)) == 1


def test_public_projects_are_visible_to_all_users(client: FlaskClient, project: Project, settings: Settings) -> None:
    job = make_job(project, name="shared")
    with write("test"):
        Project.update(is_public=True).where(Project.id == project.id).execute()
        other = User.create(username="bob", created_at=now())
    stranger = create_app(settings).test_client()
    sign_in(stranger, other)
    assert "shared" in read(stranger, "/").text
    assert "shared" in read(stranger, url(job)).text


def test_unknown_path_gets_an_error_page(client: FlaskClient) -> None:
    assert "Not found" in read(client, "/no/such/page/at/all", 404).text


@pytest.mark.parametrize("path", ["/ana/demo/", "/ana//demo", "/ana//demo/jobs/{}/", "/sign-in/x/"])
def test_extra_slashes_are_ignored(client: FlaskClient, project: Project, path: str) -> None:
    job = make_job(project)
    assert client.get(path.format(job.id)).status_code == (303 if "sign-in" in path else 200)


def test_templates_are_found(tmp_path: Path) -> None:
    assert (template_folder() / "base.html").is_file()
