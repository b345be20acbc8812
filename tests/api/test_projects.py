"""Projects over HTTP, and the upload of code."""

from __future__ import annotations

import dataclasses
import io
import tarfile

import pytest

from polyjob.app import create_app
from polyjob.auth import users
from polyjob.db.models import Project, Upload
from polyjob.storage.store import Store

from .conftest import BASE, JOBS, Client, pointers, publish, tar

ROW = {
    "id", "uuid", "user", "owner", "name", "unique_name", "description", "tags", "created_at", "updated_at",
    "is_public", "bookmarked",
}  # fmt: skip
DETAIL = ROW | {
    "readme", "has_code", "has_tensorboard", "has_notebook", "num_experiment_groups", "num_independent_experiments",
    "num_experiments", "num_jobs", "num_builds",
}  # fmt: skip
PROJECTS = "/api/v1/projects"
UPLOAD = f"{BASE}/repo/upload"


class TestCreate:
    def test_new_project_is_private(self, client):
        nulls = dict.fromkeys(DETAIL - {"name"}) | {"num_jobs": 0}
        response = client.post(
            f"{PROJECTS}/", nulls | {"name": "new", "description": "d", "tags": ["t"], "readme": "r"}
        )
        assert response.status_code == 201
        assert response.json.keys() == DETAIL
        assert response.json | {
            "user": "ana", "owner": "ana", "name": "new", "unique_name": "ana.new", "description": "d", "tags": ["t"],
            "readme": "r", "is_public": False, "bookmarked": False, "has_code": False, "num_jobs": 0, "num_builds": 0,
        } == response.json  # fmt: skip
        assert client.get("/api/v1/ana/new").json == response.json

    def test_new_project_is_public_if_requested_or_configured(self, client, settings, user):
        assert client.post(PROJECTS, {"name": "a", "is_public": True}).json["is_public"] is True
        app = create_app(dataclasses.replace(settings, public_projects=True))
        client = Client(app, users.create_token(user, "t")[1])
        assert client.post(PROJECTS, {"name": "b"}).json["is_public"] is True
        assert client.post(PROJECTS, {"name": "c", "is_public": False}).json["is_public"] is False

    @pytest.mark.parametrize(
        "body",
        [{}, {"name": None}, {"name": ""}, {"name": "a b"}, {"name": "a.b"}, {"name": "x" * 129}, {"name": 3},
         {"name": "Jobs"}, {"name": "demo"}, {"name": "a\0"}],
    )  # fmt: skip
    def test_invalid_name_is_refused(self, client, body):
        assert set(pointers(client.post(PROJECTS, body))) == {"/name"}
        assert Project.select().count() == 1

    def test_taken_name_is_named(self, client, other):
        response = client.post(PROJECTS, {"name": "demo"})
        assert [error["detail"] for error in response.json["errors"]] == ["A project with name `demo` already exists."]
        assert other.post(PROJECTS, {"name": "demo"}).json["unique_name"] == "bob.demo"


class TestList:
    def test_last_changed_first(self, client):
        for name in ("b", "c"):
            client.post(PROJECTS, {"name": name})
        response = client.get("/api/v1/ana/").json
        assert (response["count"], [project["name"] for project in response["results"]]) == (3, ["c", "b", "demo"])
        assert all(project.keys() == ROW for project in response["results"])
        assert [one["name"] for one in client.get("/api/v1/ana?limit=1&offset=1").json["results"]] == ["b"]

    @pytest.mark.parametrize(
        ("parameters", "names"),
        [
            ("query=name:~other", ["demo", "nightly"]),
            ("query=name:n%25", ["nightly"]),
            ("query=tags:x|y&sort=name", ["nightly"]),
            ("query=is_public:true", ["nightly"]),
            ("query=created_at:<2010-01-01", []),
            ("sort=name", ["demo", "nightly"]),
            ("sort=-name", ["nightly", "demo"]),
        ],
    )
    def test_is_filtered_and_sorted(self, client, parameters, names):
        client.post(PROJECTS, {"name": "nightly", "description": "here", "tags": ["x"], "is_public": True})
        client.patch(BASE, {"description": "touched"})
        response = client.get(f"/api/v1/ana?{parameters}").json
        assert ([one["name"] for one in response["results"]], response["count"]) == (names, len(names))

    @pytest.mark.parametrize("query", ["name", "status:failed", "created_at:soon", "user.password:x"])
    def test_wrong_queries_are_refused(self, client, query):
        assert client.get(f"/api/v1/ana?query={query}").status_code == 400

    def test_others_see_public_projects(self, client, other, admin):
        client.post(PROJECTS, {"name": "open", "is_public": True})
        assert [one["name"] for one in other.get("/api/v1/ana").json["results"]] == ["open"]
        assert admin.get("/api/v1/ana").json["count"] == 2

    @pytest.mark.parametrize(
        "path",
        ["{}", "{}/projects/names", *(f"{kind}/{{}}/{things}" for kind in ("bookmarks", "archives")
         for things in ("jobs", "builds", "projects"))],
    )  # fmt: skip
    def test_list_of_an_unknown_user_is_empty(self, path, client, other, admin):
        of_user, of_nobody = (other.get("/api/v1/" + path.format(name)) for name in ("ana", "nobody"))
        assert (of_user.status_code, of_user.text) == (of_nobody.status_code, of_nobody.text)
        assert other.get("/api/v1/" + path.format("bob")).status_code == 200
        assert admin.get("/api/v1/" + path.format("nobody")).status_code == 404


def test_detail_counts(client):
    for _ in range(3):
        client.submit()
    client.delete(f"{BASE}/jobs/1")
    assert client.get(BASE).json["num_jobs"] == 2


class TestUpload:
    def upload(self, client, data, name="repo", **fields):
        form = fields | {name: (io.BytesIO(data), "/home/ana/x.tar.gz", "text/plain")}
        return client.call("PUT", f"{UPLOAD}/", data=form, content_type="multipart/form-data")

    def test_upload_is_stored_and_used_by_jobs(self, client, settings):
        response = self.upload(
            client, tar({"main.py": b"print(1)", "requirements.txt": b"six"}), json='{"async": false}'
        )
        assert (response.status_code, response.data) == (200, b"")
        code = Upload.get()
        assert Store(settings.data_dir).upload_path(code.digest).stat().st_size == code.size
        assert list(code.files) == ["requirements.txt"]
        assert client.get(BASE).json["has_code"] is True
        assert client.submit()["commit"] == code.digest

    def test_later_upload_is_for_later_jobs(self, client):
        self.upload(client, tar({"a": b"1"}))
        first = client.submit()
        self.upload(client, tar({"a": b"2"}))
        assert client.submit()["commit"] != first["commit"] == client.get(f"{BASE}/jobs/1").json["commit"]

    def test_same_upload_changes_nothing(self, client):
        for _ in range(2):
            assert self.upload(client, tar({"a": b"1"})).status_code == 200
        assert Upload.select().count() == 1

    def test_repeated_earlier_upload_becomes_the_latest(self, client):
        for content in (b"1", b"2", b"1"):
            self.upload(client, tar({"a": content}))
        assert client.submit()["commit"] == Upload.get_by_id(1).digest

    @pytest.mark.parametrize(
        "data",
        [b"", b"no archive", tar({"../a": b"1"}), tar({"/a": b"1"}), tar({"a": b"1"})[:60]],
        ids=["empty", "none", "leads out", "absolute", "cut"],
    )
    def test_invalid_upload_is_refused(self, client, settings, data):
        assert pointers(self.upload(client, data)) == ["/repo"]
        assert Upload.select().count() == 0
        assert list((settings.data_dir / "code").iterdir()) == []
        assert client.get(BASE).json["has_code"] is False

    def test_upload_without_file_is_refused(self, client):
        assert pointers(self.upload(client, tar({"a": b"1"}), name="other")) == ["/repo"]

    def test_truncated_upload_is_refused(self, client, settings):
        whole = b'--b\r\nContent-Disposition: form-data; name="repo"; filename="x"\r\n\r\n' + tar({"a": b"1"})
        response = client.call("PUT", UPLOAD, data=whole, content_type="multipart/form-data; boundary=b")
        assert pointers(response) == [""]
        assert Upload.select().count() == 0
        assert list((settings.data_dir / "code").iterdir()) == []

    @pytest.mark.parametrize("kind", ["application/json", "application/gzip", "multipart/form-data", None])
    def test_upload_of_another_media_type_is_refused(self, client, kind):
        response = client.call("PUT", UPLOAD, data=tar({"a": b"1"}), content_type=kind)
        assert (response.status_code, response.mimetype) == (415, "application/problem+json")

    def test_too_large_upload_is_refused(self, settings, user, project):
        small = dataclasses.replace(settings, upload_limit=1000)
        client = Client(create_app(small), users.create_token(user, "t")[1])
        data = tar({"a": b"".join(bytes([i * j % 251]) for i in range(100) for j in range(100))})
        assert len(data) > 1000
        response = self.upload(client, data)
        assert (response.status_code, response.mimetype) == (413, "application/problem+json")
        assert Upload.select().count() == 0
        assert list((settings.data_dir / "code").iterdir()) == []

    def test_too_large_upload_is_not_read(self, settings, user, project, monkeypatch):
        monkeypatch.setattr("polyjob.api.projects.MULTIPART_OVERHEAD_BYTES", 0)
        small = dataclasses.replace(settings, upload_limit=10)
        client = Client(create_app(small), users.create_token(user, "t")[1])
        response = self.upload(client, tar({"a": b"1"}))
        assert (response.status_code, response.json["detail"]) == (
            413,
            "The body is larger than 10 bytes.",
        )

    def test_upload_may_be_larger_than_other_bodies(self, settings, user, project):
        small = dataclasses.replace(settings, body_limit=50)
        client = Client(create_app(small), users.create_token(user, "t")[1])
        assert self.upload(client, tar({"a": b"1"})).status_code == 200

    def test_upload_is_refused_on_low_disk(self, settings, user, project):
        low = dataclasses.replace(settings, disk_low=1 << 60)
        client = Client(create_app(low), users.create_token(user, "t")[1])
        response = self.upload(client, tar({"a": b"1"}))
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) > 0

    def test_only_the_owner_can_upload(self, client, other):
        publish()
        assert self.upload(other, tar({"a": b"1"})).status_code == 403
        assert Upload.select().count() == 0


class TestChange:
    def test_all_fields_can_be_updated(self, client):
        response = client.patch(BASE, {"description": "d", "tags": ["a"], "readme": "r", "is_public": True})
        assert response.status_code == 200
        assert response.json.keys() == DETAIL
        assert (response.json["description"], response.json["is_public"]) == ("d", True)
        response = client.patch(BASE, {"tags": ["b", "a"], "merge": True, "is_public": None, "num_jobs": 7})
        assert (response.json["tags"], response.json["is_public"], response.json["num_jobs"]) == (["a", "b"], True, 0)

    def test_new_name_applies_everywhere_at_once(self, client):
        client.submit()
        assert client.patch(BASE, {"name": "other"}).json["unique_name"] == "ana.other"
        assert client.get(BASE).status_code == 404
        assert client.get("/api/v1/ana/other/jobs/1").json["unique_name"] == "ana.other.jobs.1"

    @pytest.mark.parametrize("name", ["taken", "jobs", "a b"])
    def test_invalid_new_name_is_refused(self, client, name):
        client.post(PROJECTS, {"name": "taken"})
        assert pointers(client.patch(BASE, {"name": name, "description": "new"})) == ["/name"]
        assert client.get(BASE).json["description"] is None

    def test_own_name_is_accepted(self, client):
        assert client.patch(BASE, {"name": "demo"}).status_code == 200


class TestArchive:
    def test_archiving_hides_the_project_and_stops_jobs(self, client):
        client.submit()
        for _ in range(2):
            assert client.post(f"{BASE}/archive").status_code == 200
        for path in (BASE, f"{BASE}/jobs", f"{BASE}/jobs/1"):
            assert client.get(path).status_code == 404
        assert client.get("/api/v1/ana").json["count"] == 0
        assert [row["name"] for row in client.get("/api/v1/archives/ana/projects").json["results"]] == ["demo"]
        assert client.post(f"{BASE}/restore").status_code == 200
        assert client.get(f"{BASE}/jobs/1").json["last_status"] == "stopped"
        assert client.post(f"{BASE}/restore").status_code == 200


class TestDelete:
    def test_deleting_hides_the_project_and_frees_the_name(self, client):
        client.submit()
        assert client.delete(BASE).status_code == 204
        assert client.get(BASE).status_code == 404
        assert client.post(f"{BASE}/restore").status_code == 404
        assert client.get("/api/v1/ana").json["count"] == 0
        assert client.post(PROJECTS, {"name": "demo"}).status_code == 201
        assert client.get(f"{BASE}/jobs").json["count"] == 0
        assert client.get(f"{BASE}/jobs/1").status_code == 404

    def test_projects_of_others_are_not_found_or_forbidden(self, client, other):
        assert other.delete(BASE).status_code == 404
        publish()
        assert other.delete(BASE).status_code == 403
        assert client.get(BASE).status_code == 200


def test_names(client, other):
    client.post(PROJECTS, {"name": "open", "is_public": True})
    names = [row["unique_name"] for row in client.get("/api/v1/ana/projects/names").json["results"]]
    assert names == ["ana.open", "ana.demo"]
    assert other.get("/api/v1/ana/projects/names").json["count"] == 1


def test_bookmarks(client):
    assert client.delete(f"{BASE}/unbookmark").status_code == 404
    assert client.post(f"{BASE}/bookmark").status_code == 201
    assert client.get(BASE).json["bookmarked"] is True
    assert client.get("/api/v1/ana").json["results"][0]["bookmarked"] is True
    assert client.delete(f"{BASE}/unbookmark").status_code == 204
    assert client.get(BASE).json["bookmarked"] is False


class TestRepository:
    def test_uploads_are_described_and_downloadable(self, client):
        assert client.get(f"{BASE}/repo").status_code == 404
        assert client.get(f"{BASE}/repo/download").status_code == 404
        for text in (b"one", b"two"):
            client.put(UPLOAD, data={"repo": (io.BytesIO(tar({"a.txt": text})), "x.tar.gz")})
        repository = client.get(f"{BASE}/repo").json
        assert (repository["project"], repository["commit"]) == ("demo", Upload.get_by_id(2).digest)
        assert repository["created_at"] < repository["updated_at"]
        latest = client.get(f"{BASE}/repo/download/")
        assert (files(latest.data), latest.mimetype) == ({"a.txt": b"two"}, "application/gzip")
        assert "ana_demo.tar.gz" in latest.headers["Content-Disposition"]
        first = client.get(f"{BASE}/repo/download", query_string={"commit": Upload.get_by_id(1).digest})
        assert files(first.data) == {"a.txt": b"one"}
        assert client.get(f"{BASE}/repo/download?commit=../../x").status_code == 404


def files(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {item.name: archive.extractfile(item).read() for item in archive if item.isfile()}


def test_code_can_be_removed_for_new_jobs(client):
    client.put(UPLOAD, data={"repo": (io.BytesIO(tar({"a": b"1"})), "x.tar.gz")})
    before = client.submit()
    assert before["commit"]
    for _ in range(2):
        response = client.delete(f"{BASE}/repo")
        assert (response.status_code, response.data) == (204, b"")
    assert client.get(f"{BASE}/repo").status_code == 404
    assert client.submit()["commit"] is None
    assert client.get(f"{JOBS}/{before['id']}").json["commit"] == before["commit"]
