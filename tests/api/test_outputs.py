"""A job's outputs as HTTP clients get them."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from polyjob.archives import EMPTY
from polyjob.models import Job
from polyjob.statuses import Status
from polyjob.store import Store

from .conftest import JOBS, bring

URL = f"{JOBS}/1/outputs"


def unpack(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive if info.isreg()}


@pytest.fixture
def store(settings):
    return Store(settings.data_dir)


@pytest.fixture
def running(client, store):
    """A job that runs and has written something."""
    client.submit()
    job = bring(1, Status.SCHEDULED, Status.RUNNING)
    folder = store.make_job_folder(job.uuid) / "outputs"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"first\n")
    (folder / "deep" / "b.bin").write_bytes(os.urandom(5000))
    return job


@pytest.fixture
def done(running, store):
    store.seal(running.uuid, "1", 0)
    return bring(1, Status.FAILED)


@pytest.mark.parametrize("path", [URL, f"{URL}/", f"{URL}/download", f"{URL}/download/"])
def test_the_sealed_archive_comes_whole(client, done, store, path):
    answer = client.get(path)
    assert (answer.status_code, answer.mimetype) == (200, "application/gzip")
    assert answer.data == store.outputs(done.uuid).path.read_bytes()
    assert unpack(answer.data)["1/a.txt"] == b"first\n"
    assert int(answer.headers["Content-Length"]) == len(answer.data)
    assert answer.headers["Content-Disposition"] == "attachment; filename=ana_demo_jobs_1.tar.gz"
    assert answer.headers["ETag"] == f'"{store.outputs(done.uuid).etag}"'


def test_the_same_etag_is_a_304(client, done):
    etag = client.get(URL).headers["ETag"]
    answer = client.get(URL, headers={"If-None-Match": etag})
    assert (answer.status_code, answer.data) == (304, b"")
    assert client.get(URL, headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize(
    ("asked", "first", "stop"), [("bytes=0-9", 0, 10), ("bytes=100-", 100, None), ("bytes=-7", -7, None)]
)
def test_a_range_is_those_bytes(client, done, asked, first, stop):
    whole = client.get(URL).data
    answer = client.get(URL, headers={"Range": asked})
    assert (answer.status_code, answer.data) == (206, whole[first:stop])
    assert answer.headers["Content-Range"].endswith(f"/{len(whole)}")


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "lines=0-1", "bytes=-99999999", "nonsense"])
def test_an_odd_range_is_the_whole(client, done, asked):
    answer = client.get(URL, headers={"Range": asked})
    assert (answer.status_code, answer.data) == (200, client.get(URL).data)


def test_a_range_behind_the_end_cannot_be(client, done):
    answer = client.get(URL, headers={"Range": "bytes=99999999-"})
    assert (answer.status_code, answer.mimetype) == (416, "application/problem+json")
    assert answer.headers["Content-Range"] == f"bytes */{len(client.get(URL).data)}"


def test_a_range_of_another_archive_is_the_whole(client, done):
    etag = client.get(URL).headers["ETag"]
    assert client.get(URL, headers={"Range": "bytes=0-9", "If-Range": etag}).status_code == 206
    assert client.get(URL, headers={"Range": "bytes=0-9", "If-Range": '"x"'}).status_code == 200


def test_head_tells_and_sends_nothing(client, done):
    answer = client.call("HEAD", URL)
    assert (answer.status_code, answer.data) == (200, b"")
    assert int(answer.headers["Content-Length"]) == len(client.get(URL).data)


def test_of_a_running_job_they_are_as_they_are_now(client, running, store):
    assert unpack(client.get(URL).data)["1/a.txt"] == b"first\n"
    (store.job_folder(running.uuid) / "outputs" / "c").write_bytes(b"later")
    answer = client.get(URL)
    assert unpack(answer.data)["1/c"] == b"later"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="ana_demo_jobs_1.tar.gz"'
    assert "ETag" not in answer.headers


def test_of_a_running_job_elsewhere_they_come_later(client):
    client.submit()
    bring(1, Status.SCHEDULED, Status.RUNNING)
    answer = client.get(URL)
    assert (answer.status_code, answer.mimetype) == (409, "application/problem+json")
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("statuses", [[], [Status.SCHEDULED], [Status.STOPPED], [Status.SCHEDULED, Status.FAILED]])
def test_of_a_job_that_wrote_nothing_they_are_an_empty_archive(client, statuses):
    client.submit()
    bring(1, *statuses)
    answer = client.get(URL)
    assert (answer.status_code, answer.data) == (200, EMPTY)
    assert unpack(answer.data) == {}
    assert client.get(URL, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304


def test_what_is_sealed_is_served_before_the_status_says_done(client, running, store):
    store.seal(running.uuid, "1", 0)
    assert Job.get().status is Status.RUNNING
    assert client.get(URL).data == store.outputs(running.uuid).path.read_bytes()


class TestFiles:
    """One folder, one file: sealed or live, the same."""

    @pytest.fixture(params=["live", "sealed"])
    def job(self, request, running, store):
        if request.param == "sealed":
            store.seal(running.uuid, "1", 0)
            bring(1, Status.SUCCEEDED)
        return running

    def test_a_folder_is_listed(self, client, job):
        assert client.get(f"{URL}/tree").json == {"files": [["a.txt", 6]], "dirs": ["deep"]}
        for path in ("deep", "/deep/", "deep/"):
            assert client.get(f"{URL}/tree/?path={path}").json == {"files": [["b.bin", 5000]], "dirs": []}

    def test_a_file_comes_whole(self, client, job):
        answer = client.get(f"{URL}/files?path=a.txt")
        assert (answer.status_code, answer.data) == (200, b"first\n")
        assert answer.headers["Content-Length"] == "6"
        assert answer.headers["Content-Disposition"] == "attachment; filename=a.txt"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert len(client.get(f"{URL}/files/?path=/deep/b.bin").data) == 5000

    @pytest.mark.parametrize("path", ["nothing", "deep", "../log", "deep/../../log", "/etc/passwd", "a.txt/b", "%00"])
    def test_what_is_not_there_is_not_found(self, client, job, path):
        assert client.get(f"{URL}/files?path={path}").status_code == 404

    @pytest.mark.parametrize("path", ["nothing", "a.txt", "..", "deep/.."])
    def test_no_other_folder_is_listed(self, client, job, path):
        assert client.get(f"{URL}/tree?path={path}").status_code == 404

    def test_a_file_must_be_named(self, client, job):
        answer = client.get(f"{URL}/files")
        assert answer.status_code == 400
        assert answer.json["errors"][0]["detail"] == "Files view expect a path to the file."

    def test_links_are_not_followed(self, client, running, store):
        (store.job_folder(running.uuid) / "outputs" / "link").symlink_to("/etc/passwd")
        assert client.get(f"{URL}/files?path=link").status_code == 404


def test_of_a_job_whose_outputs_are_elsewhere_nothing_is_said_yet(client):
    client.submit()
    bring(1, Status.SCHEDULED, Status.RUNNING)
    for path in ("tree", "files?path=a"):
        answer = client.get(f"{URL}/{path}")
        assert (answer.status_code, answer.headers["Retry-After"]) == (409, "10")
