"""A job's outputs: the tarball, the tree, and single files."""

from __future__ import annotations

import io
import os
import tarfile
from urllib.parse import quote

import pytest

from polyjob.api import outputs
from polyjob.db.models import Job
from polyjob.statuses import Status
from polyjob.storage.outputs import EMPTY
from polyjob.storage.store import Store

from .conftest import JOBS, move_job

URL = f"{JOBS}/1/outputs"


def unpack(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive if info.isreg()}


@pytest.fixture
def store(settings):
    return Store(settings.data_dir)


@pytest.fixture
def running(client, store):
    """A running job that has written outputs."""
    client.submit()
    job = move_job(1, Status.SCHEDULED, Status.RUNNING)
    folder = store.make_job_folder(job.uuid) / "outputs"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"first\n")
    (folder / "deep" / "b.bin").write_bytes(os.urandom(5000))
    return job


@pytest.fixture
def done(running, store):
    store.seal(running.uuid, "1", 0)
    return move_job(1, Status.FAILED)


@pytest.mark.parametrize("path", [URL, f"{URL}/", f"{URL}/download", f"{URL}/download/"])
def test_sealed_tarball_is_served(client, done, store, path):
    response = client.get(path)
    assert (response.status_code, response.mimetype) == (200, "application/gzip")
    assert response.data == store.outputs(done.uuid).path.read_bytes()
    assert unpack(response.data)["1/a.txt"] == b"first\n"
    assert int(response.headers["Content-Length"]) == len(response.data)
    assert response.headers["Content-Disposition"] == "attachment; filename=ana_demo_jobs_1.tar.gz"
    assert response.headers["ETag"] == f'"{store.outputs(done.uuid).etag}"'


def test_same_etag_is_a_304(client, done):
    etag = client.get(URL).headers["ETag"]
    response = client.get(URL, headers={"If-None-Match": etag})
    assert (response.status_code, response.data) == (304, b"")
    assert client.get(URL, headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    ("range_header", "first", "stop"), [("bytes=0-9", 0, 10), ("bytes=100-", 100, None), ("bytes=-7", -7, None)]
)
def test_range_returns_its_bytes(client, done, range_header, first, stop):
    whole = client.get(URL).data
    response = client.get(URL, headers={"Range": range_header})
    assert (response.status_code, response.data) == (206, whole[first:stop])
    assert response.headers["Content-Range"].endswith(f"/{len(whole)}")


@pytest.mark.parametrize("range_header", ["bytes=0-1,4-5", "lines=0-1", "bytes=-99999999", "nonsense"])
def test_unsupported_range_returns_everything(client, done, range_header):
    response = client.get(URL, headers={"Range": range_header})
    assert (response.status_code, response.data) == (200, client.get(URL).data)


def test_range_beyond_the_end_is_a_416(client, done):
    response = client.get(URL, headers={"Range": "bytes=99999999-"})
    assert (response.status_code, response.mimetype) == (416, "application/problem+json")
    assert response.headers["Content-Range"] == f"bytes */{len(client.get(URL).data)}"


def test_range_with_an_old_etag_returns_everything(client, done):
    etag = client.get(URL).headers["ETag"]
    assert client.get(URL, headers={"Range": "bytes=0-9", "If-Range": etag}).status_code == 206
    assert client.get(URL, headers={"Range": "bytes=0-9", "If-Range": '"x"'}).status_code == 200


def test_head_has_headers_without_a_body(client, done):
    response = client.call("HEAD", URL)
    assert (response.status_code, response.data) == (200, b"")
    assert int(response.headers["Content-Length"]) == len(client.get(URL).data)


def test_outputs_of_a_running_job_are_live(client, running, store):
    assert unpack(client.get(URL).data)["1/a.txt"] == b"first\n"
    (store.job_folder(running.uuid) / "outputs" / "c").write_bytes(b"later")
    response = client.get(URL)
    assert unpack(response.data)["1/c"] == b"later"
    assert response.headers["Content-Disposition"] == "attachment; filename=ana_demo_jobs_1.tar.gz"
    assert "ETag" not in response.headers


def test_remote_outputs_of_a_running_job_are_a_409(client):
    client.submit()
    move_job(1, Status.SCHEDULED, Status.RUNNING)
    response = client.get(URL)
    assert (response.status_code, response.mimetype) == (409, "application/problem+json")
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize("statuses", [[], [Status.SCHEDULED], [Status.STOPPED], [Status.SCHEDULED, Status.FAILED]])
def test_job_without_outputs_has_an_empty_tarball(client, statuses):
    client.submit()
    move_job(1, *statuses)
    response = client.get(URL)
    assert (response.status_code, response.data) == (200, EMPTY)
    assert unpack(response.data) == {}
    assert client.get(URL, headers={"If-None-Match": response.headers["ETag"]}).status_code == 304


def test_sealed_outputs_are_served_before_the_job_is_done(client, running, store):
    store.seal(running.uuid, "1", 0)
    assert Job.get().status is Status.RUNNING
    assert client.get(URL).data == store.outputs(running.uuid).path.read_bytes()


class TestFiles:
    """Folders and files of the outputs, sealed or live."""

    @pytest.fixture(params=["live", "sealed"])
    def job(self, request, running, store):
        if request.param == "sealed":
            store.seal(running.uuid, "1", 0)
            move_job(1, Status.SUCCEEDED)
        return running

    def test_folder_is_listed(self, client, job):
        assert client.get(f"{URL}/tree").json == {"files": [["a.txt", 6]], "dirs": ["deep"]}
        for path in ("deep", "/deep/", "deep/"):
            assert client.get(f"{URL}/tree/?path={path}").json == {"files": [["b.bin", 5000]], "dirs": []}

    def test_file_is_served(self, client, job):
        response = client.get(f"{URL}/files?path=a.txt")
        assert (response.status_code, response.data) == (200, b"first\n")
        assert response.headers["Content-Length"] == "6"
        assert response.headers["Content-Disposition"] == "attachment; filename=a.txt"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert len(client.get(f"{URL}/files/?path=/deep/b.bin").data) == 5000

    @pytest.mark.parametrize("path", ["nothing", "deep", "../log", "deep/../../log", "/etc/passwd", "a.txt/b", "%00"])
    def test_missing_file_is_not_found(self, client, job, path):
        assert client.get(f"{URL}/files?path={path}").status_code == 404

    @pytest.mark.parametrize("path", ["nothing", "a.txt", "..", "deep/.."])
    def test_only_folders_of_the_outputs_are_listed(self, client, job, path):
        assert client.get(f"{URL}/tree?path={path}").status_code == 404

    def test_path_of_a_file_is_required(self, client, job):
        response = client.get(f"{URL}/files")
        assert response.status_code == 400
        assert response.json["errors"][0]["detail"] == "Files view expect a path to the file."

    def test_links_are_not_followed(self, client, running, store):
        (store.job_folder(running.uuid) / "outputs" / "link").symlink_to("/etc/passwd")
        assert client.get(f"{URL}/files?path=link").status_code == 404


def test_tree_of_remote_outputs_is_a_409(client):
    client.submit()
    move_job(1, Status.SCHEDULED, Status.RUNNING)
    for path in ("tree", "files?path=a"):
        response = client.get(f"{URL}/{path}")
        assert (response.status_code, response.headers["Retry-After"]) == (409, "10")


NAMES = {
    "日本語.txt": "attachment; filename=.txt; filename*=UTF-8''%E6%97%A5%E6%9C%AC%E8%AA%9E.txt",
    "привет.csv": "attachment; filename=.csv; filename*=UTF-8''%D0%BF%D1%80%D0%B8%D0%B2%D0%B5%D1%82.csv",
    "a€–b": "attachment; filename=ab; filename*=UTF-8''a%E2%82%AC%E2%80%93b",
    "naïve.txt": "attachment; filename=naive.txt; filename*=UTF-8''na%C3%AFve.txt",
    "plain.txt": "attachment; filename=plain.txt",
    'a "b".txt': 'attachment; filename="a \\"b\\".txt"',
    "日本": "attachment; filename=download; filename*=UTF-8''%E6%97%A5%E6%9C%AC",
    "line\nfeed\r\x1b[31m\x07": 'attachment; filename="line%0Afeed%0D%1B[31m%07"',
    "caf\udce9.txt": "attachment; filename=caf%E9.txt",
    "100%.txt": "attachment; filename=100%.txt",
    "a;b=c,d": 'attachment; filename="a;b=c,d"',
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sealed", [False, True])
class TestNames:
    """Any name that a file can have: requested by its bytes, or as the list shows it."""

    @pytest.fixture(autouse=True)
    def _job(self, name, sealed, running, store):
        folder = store.job_folder(running.uuid) / "outputs"
        (folder / "dir\udcff").mkdir()
        for path in (folder / name, folder / "dir\udcff" / name):
            path.write_bytes(os.fsencode(name))
        if sealed:
            store.seal(running.uuid, "1", 0)

    @pytest.mark.parametrize("inside", ["", "dir\udcff/"])
    def test_file_comes_with_its_name(self, client, name, inside):
        response = client.get(f"{URL}/files?path={quote(os.fsencode(inside + name), safe='')}")
        assert (response.status_code, response.data) == (200, os.fsencode(name))
        assert response.headers["Content-Disposition"] == NAMES[name]
        response.headers["Content-Disposition"].encode("ascii")

    def test_listed_name_can_be_asked_for(self, client, name):
        for folder in ("", *(f"{name}/" for name in client.get(f"{URL}/tree").json["dirs"])):
            for listed, _ in client.get(f"{URL}/tree?path={quote(folder)}").json["files"]:
                response = client.get(f"{URL}/files?path={quote(folder + listed, safe='')}")
                assert response.status_code == 200
                assert not any(ord(letter) < 32 for letter in listed)


@pytest.mark.parametrize("sealed", [False, True])
def test_names_that_look_alike_are_listed_and_served_apart(client, running, store, sealed):
    folder = store.job_folder(running.uuid) / "outputs" / "in"
    folder.mkdir()
    contents = {"caf\udce9": b"latin", "caf%E9": b"quoted", "caf%25E9": b"quoted twice"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    if sealed:
        store.seal(running.uuid, "1", 0)
    listed = [name for name, _ in client.get(f"{URL}/tree?path=in").json["files"]]
    answers = {name: client.get(f"{URL}/files", query_string={"path": f"in/{name}"}) for name in listed}
    assert {name: response.data for name, response in answers.items()} == {
        "caf%E9": b"latin",
        "caf%25E9": b"quoted",
        "caf%2525E9": b"quoted twice",
    }
    for name, response in answers.items():
        assert response.headers["Content-Disposition"] == f"attachment; filename={name}"


@pytest.mark.parametrize("folder", ["", "deep", "dir\udcff"])
@pytest.mark.parametrize("sealed", [False, True])
def test_large_folder_is_listed_in_parts(client, running, store, monkeypatch, folder, sealed):
    monkeypatch.setattr(outputs, "MAX_LISTED", 7)
    here = store.job_folder(running.uuid) / "outputs" / folder
    here.mkdir(exist_ok=True)
    for number in range(20):
        (here / f"f{number:02}\udcff").write_bytes(b"x")
    (here / "g").mkdir()
    before = [("a.txt", 6)] if not folder else [("b.bin", 5000)] if folder == "deep" else []
    if sealed:
        store.seal(running.uuid, "1", 0)
    files, folders, address, parts = [], [], f"{URL}/tree?path={quote(os.fsencode(folder))}", 0
    while address:
        listed = client.get(address).json
        assert len(listed["files"]) + len(listed["dirs"]) <= 7
        files += listed["files"]
        folders += listed["dirs"]
        address, parts = listed.get("next"), parts + 1
    assert files == [list(entry) for entry in before] + [[f"f{number:02}%FF", 1] for number in range(20)]
    assert folders == (["deep", "g"] if not folder else ["g"])
    assert parts == 4 if not folder else parts >= 3


def test_sparse_file_is_served_by_its_true_bytes(client, running, store):
    with (store.job_folder(running.uuid) / "outputs" / "sparse").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"island")
    expected = bytes(1 << 20) + b"island" + bytes((2 << 20) - 6)
    assert client.get(f"{URL}/files?path=sparse").data == expected
    store.seal(running.uuid, "1", 0)
    response = client.get(f"{URL}/files?path=sparse")
    assert (response.headers["Content-Length"], response.data == expected) == (str(3 << 20), True)
    assert unpack(client.get(URL).data)["1/sparse"] == expected


def test_one_sealed_file_is_sent_once(client, done):
    first, other = (client.get(f"{URL}/files?path={path}") for path in ("a.txt", "deep/b.bin"))
    assert first.headers["ETag"] != other.headers["ETag"]
    for path in ("a.txt", "/a.txt/"):
        again = client.get(f"{URL}/files?path={path}", headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")
    changed = client.get(f"{URL}/files?path=a.txt", headers={"If-None-Match": other.headers["ETag"]})
    assert (changed.status_code, changed.data) == (200, b"first\n")
    missing = client.get(f"{URL}/files?path=b.txt", headers={"If-None-Match": first.headers["ETag"]})
    assert missing.status_code == 404


def test_file_of_running_job_has_no_etag(client, running):
    response = client.get(f"{URL}/files?path=a.txt")
    assert "ETag" not in response.headers
    assert response.headers["Cache-Control"] == "no-store"


def test_ranges_of_a_file_are_not_offered(client, done):
    response = client.get(f"{URL}/files?path=a.txt", headers={"Range": "bytes=1-2"})
    assert (response.status_code, response.data) == (200, b"first\n")
    assert "Accept-Ranges" not in response.headers
