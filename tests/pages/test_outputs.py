"""Outputs on pages: the tree, folders, and looks into files, none of which is ever executed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from polyjob.db.models import Job, Project
from polyjob.pages import outputs
from polyjob.statuses import Status
from polyjob.storage.store import Store
from tests.pages.helpers import BEGUN, EVIL, make_job, read, seal, url

DONE = (*BEGUN, (Status.SUCCEEDED, "Completed", {}))
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


@pytest.fixture
def job(project: Project) -> Job:
    return make_job(project, *DONE, exit={"reason": "exited", "code": 0})


def test_a_job_page_has_them_as_a_tree_with_sizes(client: FlaskClient, job: Job, data_dir: Path) -> None:
    seal(data_dir, job, {"a.txt": b"x" * 1536, "deep/er/b.bin": b"\0", "deep/c": b""})
    page = read(client, url(job))
    order = [page.text.index(text) for text in ("deep/", "er/", "b.bin", "1 B", "0 B", "a.txt", "1.5 KiB")]
    assert order == sorted(order)
    for path in ("a.txt", "deep/er/b.bin", "deep/c"):
        assert f"{url(job)}/outputs/{path}" in page.links


def test_a_tree_ends_somewhere_and_says_so(
    client: FlaskClient, job: Job, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "MAX_TREE_ENTRIES", 5)
    seal(data_dir, job, {f"f{number}": b"" for number in range(9)})
    page = read(client, url(job))
    assert "More files" in page.text
    assert "f4" in page.text
    assert "f5" not in page.text
    assert "f8" in read(client, f"{url(job)}/outputs").text


@pytest.mark.parametrize("is_done", [True, False])
def test_a_link_is_shown_and_leads_nowhere(
    client: FlaskClient, project: Project, data_dir: Path, is_done: bool
) -> None:
    job = make_job(project, *(DONE if is_done else BEGUN))
    folder = Store(data_dir).live_outputs(job.uuid).folder
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "latest").symlink_to("checkpoints/<b>")
    (folder / "two\nlines").write_text("x")
    seal(data_dir, job, {})
    for path in (url(job), f"{url(job)}/outputs"):
        page = read(client, path)
        assert "latest → checkpoints/<b>" in page.text
        assert not [link for link in page.links if "latest" in link]
        assert "two%0Alines" in page.text


def test_a_folder_lists_what_is_in_it(client: FlaskClient, job: Job, data_dir: Path) -> None:
    seal(data_dir, job, {"plots/one/a.txt": b"a", "plots/b.txt": b"b"})
    page = read(client, f"{url(job)}/outputs/plots")
    assert f"{url(job)}/outputs/plots/one" in page.links
    assert f"{url(job)}/outputs/plots/b.txt" in page.links
    assert "a.txt" not in page.text
    read(client, f"{url(job)}/outputs/plots/none", 404)


def test_text_is_shown_as_it_is_and_only_its_beginning(
    client: FlaskClient, job: Job, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "MAX_PREVIEW_BYTES", 20)
    seal(
        data_dir, job, {"page.html": EVIL.encode()[:20], "long.txt": "ä".encode() * 11, "zero": b"", "odd": b"\xff\xfe"}
    )
    page = read(client, f"{url(job)}/outputs/page.html")
    assert EVIL[:20] in page.text
    assert "script" not in page.tags
    page = read(client, f"{url(job)}/outputs/long.txt")
    assert "ä" * 10 in page.text
    assert "Only the start of the file is shown." in page.text
    assert "The file is empty." in read(client, f"{url(job)}/outputs/zero").text
    assert "not a text, table or image" in read(client, f"{url(job)}/outputs/odd").text


def test_a_cut_between_the_bytes_of_a_character_is_still_text(client: FlaskClient) -> None:
    assert outputs._decode("aä".encode()[:2], True) == "a"
    assert outputs._decode("aä".encode()[:2], False) is None
    assert outputs._decode(b"a\0", False) is None


def test_tables_are_tables(client: FlaskClient, job: Job, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MAX_TABLE_ROWS", 3)
    rows = "".join(f"{number},{EVIL}\n" for number in range(9))
    files = {"t.csv": f'epoch,"the, loss"\n{rows}'.encode(), "t.tsv": b"a\tb\n1\t2\n"}
    seal(data_dir, job, files | {"none.csv": b"", "odd.csv": b"a,b\rc\n"})
    page = read(client, f"{url(job)}/outputs/t.csv")
    assert page.tags.count("td") == 4
    assert "the, loss" in page.text
    assert EVIL in page.text
    assert "script" not in page.tags
    assert "Only the start of the file is shown." in page.text
    assert read(client, f"{url(job)}/outputs/t.tsv").tags.count("th") == 2
    assert "The file is empty." in read(client, f"{url(job)}/outputs/none.csv").text
    assert "td" not in read(client, f"{url(job)}/outputs/odd.csv").tags


def test_pictures_are_shown_and_can_do_nothing(client: FlaskClient, job: Job, data_dir: Path) -> None:
    seal(data_dir, job, {"a b.png": PNG, "x.svg": b"<svg onload='alert(1)'/>", "x.html": EVIL.encode()})
    page = read(client, f"{url(job)}/outputs/a%20b.png")
    assert "img" in page.tags
    for name, kind in (("a%20b.png", "image/png"), ("x.svg", "image/svg+xml")):
        answer = client.get(f"{url(job)}/raw/{name}")
        assert (answer.status_code, answer.mimetype) == (200, kind)
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"].startswith("attachment")
    read(client, f"{url(job)}/raw/x.html", 404)
    read(client, f"{url(job)}/raw/none.png", 404)


def test_hostile_names_are_text_and_lead_where_they_say(client: FlaskClient, job: Job, data_dir: Path) -> None:
    names = ['"><img src=x onerror=alert(1)>', "a?b#c%2e", "{{ 7 * 7 }}", "..txt", " blank "]
    seal(data_dir, job, dict.fromkeys(names, b"here"))
    for path in (url(job), f"{url(job)}/outputs"):
        page = read(client, path)
        assert "img" not in page.tags
        assert "49" not in [word.strip("}/") for word in page.text.split()]
        for name in names:
            assert name in page.text
        inner = [link for link in page.links if link.startswith(f"{url(job)}/outputs/")]
        assert len(inner) == len(names)
        for link in inner:
            assert "here" in read(client, link).text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xe9.txt", "caf%E9.txt"),
        (b"dir\xff/f", "f"),
        (b"line\nfeed.txt", "line%0Afeed.txt"),
        ("日本".encode(), "日本"),
    ],
)
def test_any_name_is_shown_and_leads_to_the_file(
    client: FlaskClient, job: Job, data_dir: Path, name: bytes, shown: str
) -> None:
    seal(data_dir, job, {os.fsdecode(name): b"the content"})
    page = read(client, url(job))
    assert shown in page.text
    (link,) = [link for link in page.links if link.startswith(f"{url(job)}/outputs/")]
    there = read(client, link)
    assert "the content" in there.text
    (download,) = [link for link in there.links if "outputs/files" in link]
    answer = client.get(download)
    assert (answer.status_code, answer.data) == (200, b"the content")
    answer.headers["Content-Disposition"].encode("ascii")


def test_names_that_look_alike_are_linked_apart(client: FlaskClient, job: Job, data_dir: Path) -> None:
    files = {b"caf\xe9": b"latin", b"caf%E9": b"quoted", b"a\tb/f": b"tab", b"a%09b/f": b"no tab"}
    seal(data_dir, job, {os.fsdecode(name): content for name, content in files.items()})
    links = [link for link in read(client, url(job)).links if link.startswith(f"{url(job)}/outputs/")]
    assert len(links) == len(set(links))
    looks = [read(client, link) for link in links]
    shown = [text for page in looks for text in ("latin", "quoted", "no tab") if text in page.text]
    assert sorted(shown) == ["latin", "no tab", "quoted"]
    downloads = [link for page in looks for link in page.links if "outputs/files" in link]
    assert {client.get(link).data for link in downloads} == set(files.values())


@pytest.mark.parametrize("path", ["..", "../log", "%2e%2e/log", "a/../../log", "%00"])
def test_no_path_leads_out_of_them(client: FlaskClient, project: Project, data_dir: Path, path: str) -> None:
    for job in (make_job(project, *DONE), make_job(project, *BEGUN)):
        seal(data_dir, job, {"a/b": b"x"})
        for place in ("outputs", "raw"):
            assert client.get(f"{url(job)}/{place}/{path}").status_code in (200, 404)
            assert "root:" not in client.get(f"{url(job)}/{place}/{path}").text


def test_those_of_a_job_that_runs_are_shown_as_they_are_now(
    client: FlaskClient, project: Project, data_dir: Path
) -> None:
    job = make_job(project, *BEGUN)
    seal(data_dir, job, {"now.txt": b"so far"})
    assert "now.txt" in read(client, url(job)).text
    assert "so far" in read(client, f"{url(job)}/outputs/now.txt").text


def test_those_that_are_elsewhere_are_said_to_be(client: FlaskClient, project: Project) -> None:
    job = make_job(project, *BEGUN)
    for path in (url(job), f"{url(job)}/outputs"):
        assert "with its runner until it is done" in read(client, path).text


def test_no_outputs_say_how_to_make_some(client: FlaskClient, job: Job) -> None:
    assert "POLYAXON_RUN_OUTPUTS_PATH" in read(client, url(job)).text
    assert "No outputs." in read(client, f"{url(job)}/outputs").text


def test_outputs_of_another_are_not_there(client: FlaskClient, visitor: FlaskClient, job: Job, data_dir: Path) -> None:
    seal(data_dir, job, {"a.png": PNG})
    stranger = visitor.application.test_client()
    for path in ("outputs", "outputs/a.png", "raw/a.png"):
        read(stranger, f"{url(job)}/{path}", 401)
