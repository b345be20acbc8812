"""Outputs on pages: the tree, folders, and previews of files. Nothing is executed."""

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


def test_job_page_shows_a_tree_with_sizes(client: FlaskClient, job: Job, data_dir: Path) -> None:
    seal(data_dir, job, {"a.txt": b"x" * 1536, "deep/er/b.bin": b"\0", "deep/c": b""})
    page = read(client, url(job))
    order = [
        page.text.index(text) for text in ("deep/ 2 files, 1 B", "er/ 1 file", "b.bin", "c 0 B", "a.txt", "1.5 KiB")
    ]
    assert order == sorted(order)
    for path in ("a.txt", "deep/er/b.bin", "deep/c"):
        assert f"{url(job)}/outputs/{path}" in page.links


def test_large_tree_is_cut(client: FlaskClient, job: Job, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MAX_TREE_ENTRIES", 5)
    seal(data_dir, job, {f"f{number}": b"" for number in range(9)})
    page = read(client, url(job))
    assert "More files" in page.text
    assert "f4" in page.text
    assert "f5" not in page.text
    assert "f8" in read(client, f"{url(job)}/outputs").text


@pytest.mark.parametrize("is_done", [True, False])
def test_symlink_is_shown_with_its_target_and_not_followed(
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


def test_folder_page_lists_its_content(client: FlaskClient, job: Job, data_dir: Path) -> None:
    seal(data_dir, job, {"plots/one/a.txt": b"a", "plots/b.txt": b"b"})
    page = read(client, f"{url(job)}/outputs/plots")
    assert f"{url(job)}/outputs/plots/one" in page.links
    assert f"{url(job)}/outputs/plots/b.txt" in page.links
    assert "a.txt" not in page.text
    read(client, f"{url(job)}/outputs/plots/none", 404)


def test_text_preview_is_escaped_and_cut(
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


def test_incomplete_character_at_the_cut_is_dropped(client: FlaskClient) -> None:
    assert outputs._decode("aä".encode()[:2], True) == "a"
    assert outputs._decode("aä".encode()[:2], False) is None
    assert outputs._decode(b"a\0", False) is None


def test_csv_and_tsv_files_are_shown_as_tables(
    client: FlaskClient, job: Job, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_images_are_shown_in_a_sandbox(client: FlaskClient, job: Job, data_dir: Path) -> None:
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


def test_hostile_names_are_escaped_and_linked(client: FlaskClient, job: Job, data_dir: Path) -> None:
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
def test_unusual_names_are_shown_and_linked(
    client: FlaskClient, job: Job, data_dir: Path, name: bytes, shown: str
) -> None:
    seal(data_dir, job, {os.fsdecode(name): b"the content"})
    page = read(client, url(job))
    assert shown in page.text
    (link,) = [link for link in page.links if link.startswith(f"{url(job)}/outputs/")]
    preview = read(client, link)
    assert "the content" in preview.text
    (download,) = [link for link in preview.links if "outputs/files" in link]
    answer = client.get(download)
    assert (answer.status_code, answer.data) == (200, b"the content")
    answer.headers["Content-Disposition"].encode("ascii")


def test_names_with_equal_escapes_have_different_links(client: FlaskClient, job: Job, data_dir: Path) -> None:
    files = {b"caf\xe9": b"latin", b"caf%E9": b"quoted", b"a\tb/f": b"tab", b"a%09b/f": b"no tab"}
    seal(data_dir, job, {os.fsdecode(name): content for name, content in files.items()})
    links = [link for link in read(client, url(job)).links if link.startswith(f"{url(job)}/outputs/")]
    assert len(links) == len(set(links))
    looks = [read(client, link) for link in links]
    texts = [text for page in looks for text in ("latin", "quoted", "no tab") if text in page.text]
    assert sorted(texts) == ["latin", "no tab", "quoted"]
    downloads = [link for page in looks for link in page.links if "outputs/files" in link]
    assert {client.get(link).data for link in downloads} == set(files.values())


@pytest.mark.parametrize("path", ["..", "../log", "%2e%2e/log", "a/../../log", "%00"])
def test_paths_outside_the_outputs_are_not_found(
    client: FlaskClient, project: Project, data_dir: Path, path: str
) -> None:
    for job in (make_job(project, *DONE), make_job(project, *BEGUN)):
        seal(data_dir, job, {"a/b": b"x"})
        for place in ("outputs", "raw"):
            assert client.get(f"{url(job)}/{place}/{path}").status_code in (200, 404)
            assert "root:" not in client.get(f"{url(job)}/{place}/{path}").text


def test_outputs_of_a_running_job_are_shown(client: FlaskClient, project: Project, data_dir: Path) -> None:
    job = make_job(project, *BEGUN)
    seal(data_dir, job, {"now.txt": b"so far"})
    assert "now.txt" in read(client, url(job)).text
    assert "so far" in read(client, f"{url(job)}/outputs/now.txt").text


def test_outputs_that_are_with_the_runner_are_reported(client: FlaskClient, project: Project) -> None:
    job = make_job(project, *BEGUN)
    for path in (url(job), f"{url(job)}/outputs"):
        assert "are available when it is done" in read(client, path).text


def test_empty_outputs_show_where_to_write_files(client: FlaskClient, job: Job) -> None:
    assert "POLYAXON_RUN_OUTPUTS_PATH" in read(client, url(job)).text
    assert "No outputs." in read(client, f"{url(job)}/outputs").text


def test_outputs_need_a_sign_in(client: FlaskClient, visitor: FlaskClient, job: Job, data_dir: Path) -> None:
    seal(data_dir, job, {"a.png": PNG})
    stranger = visitor.application.test_client()
    for path in ("outputs", "outputs/a.png", "raw/a.png"):
        read(stranger, f"{url(job)}/{path}", 401)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"a": 1.10, "b": [1, 2], "c": {}, "d:e": "x, {y}"}',
         '{\n  "a": 1.10,\n  "b": [\n    1,\n    2\n  ],\n  "c": {},\n  "d:e": "x, {y}"\n}'),
        ("[]", "[]"),
        ('"a\\"b"', '"a\\"b"'),
        ('{"a": 1', '{"a": 1'),
        ("[" * 17 + "]" * 17, "[" * 17 + "]" * 17),
        ("[" * 9999, "[" * 9999),
    ],
)  # fmt: skip
def test_json_is_indented_and_its_values_are_kept(text: str, shown: str) -> None:
    assert outputs.indent_json(text) == shown


def test_closed_folders_show_count_and_size(client: FlaskClient, project: Project, data_dir: Path) -> None:
    job = make_job(project, *BEGUN, (Status.SUCCEEDED, None, None))
    seal(data_dir, job, {"a/b/1": b"x" * 1024, "a/2": b"x" * 1024, "c/3": b""})
    page = read(client, url(job))
    assert "a/ 2 files, 2.0 KiB" in page.text
    assert "b/ 1 file, 1.0 KiB" in page.text
