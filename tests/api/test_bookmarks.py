"""Lists of bookmarked and archived objects."""

from __future__ import annotations

import pytest

from polyjob.statuses import Status

from .conftest import BASE, CONFIG, JOBS, move_job, publish


class TestBookmarks:
    def test_bookmarked_jobs_are_listed_latest_first(self, client):
        for name in "abc":
            client.submit(name=name)
        for number in (1, 3, 2, 1):
            client.post(f"{JOBS}/{number}/bookmark")
        client.delete(f"{JOBS}/2/unbookmark")
        listed = client.get("/api/v1/bookmarks/ana/jobs").json
        assert listed["count"] == 2
        assert [item["content_object"]["name"] for item in listed["results"]] == ["a", "c"]
        assert listed["results"][0]["content_object"]["bookmarked"] is True
        by_creation = client.get("/api/v1/bookmarks/ana/jobs?sort=created_at").json["results"]
        assert [item["content_object"]["name"] for item in by_creation] == ["a", "c"]
        page = client.get("/api/v1/bookmarks/ana/jobs?limit=1&offset=1").json
        assert [item["content_object"]["name"] for item in page["results"]] == ["c"]

    def test_bookmarks_of_deleted_items_are_not_listed(self, client):
        client.submit(), client.submit()
        for number in (1, 2):
            client.post(f"{JOBS}/{number}/bookmark")
        client.delete(f"{JOBS}/1")
        client.post(f"{JOBS}/2/archive")
        assert client.get("/api/v1/bookmarks/ana/jobs").json["count"] == 0

    def test_bookmarks_of_users_are_separate(self, client, other, admin):
        client.post(f"{BASE}/bookmark")
        assert client.get("/api/v1/bookmarks/ana/projects").json["count"] == 1
        assert other.get("/api/v1/bookmarks/ana/projects").json["count"] == 0
        assert admin.get("/api/v1/bookmarks/ana/projects").json["count"] == 1

    def test_bookmarks_of_unreadable_items_are_not_listed(self, client, other):
        publish()
        client.submit()
        assert other.post(f"{JOBS}/1/bookmark").status_code == 201
        assert other.get("/api/v1/bookmarks/bob/jobs").json["count"] == 1
        client.patch(BASE, {"is_public": False})
        assert other.get("/api/v1/bookmarks/bob/jobs").json["count"] == 0


class TestArchives:
    def test_bookmarks_are_sorted_as_requested(self, client):
        for name in ("a", "b"):
            client.submit(name=name)
        for number in (2, 1):
            client.post(f"{JOBS}/{number}/archive")
        path = "/api/v1/archives/ana/jobs"
        for sort, names in (
            ("", "ab"),
            ("?sort=created_at", "ab"),
            ("?sort=-created_at", "ba"),
            ("?sort=updated_at", "ba"),
        ):
            assert "".join(row["name"] for row in client.get(path + sort).json["results"]) == names, sort

    def test_archived_job_is_hidden_until_restored(self, client):
        client.submit(name="x")
        response = client.post(f"{JOBS}/1/archive")
        assert (response.status_code, response.data) == (200, b"")
        assert client.post(f"{JOBS}/1/archive").status_code == 404
        for path in (f"{JOBS}/1", f"{JOBS}/1/statuses", f"{JOBS}/1/logs", f"{JOBS}/1/outputs"):
            assert client.get(path).status_code == 404
        assert client.post(f"{JOBS}/1/restart").status_code == 404
        assert (client.get(JOBS).json["count"], client.get(BASE).json["num_jobs"]) == (0, 0)
        listed = client.get("/api/v1/archives/ana/jobs").json["results"]
        assert [(row["name"], row["deleted"], row["last_status"]) for row in listed] == [("x", True, "stopped")]
        for _ in range(2):
            assert client.post(f"{JOBS}/1/restore").status_code == 200
        assert client.get(f"{JOBS}/1").json["last_status"] == "stopped"
        assert client.get(JOBS).json["count"] == 1

    def test_archiving_a_done_job_keeps_its_status(self, client):
        client.submit()
        move_job(1, Status.SCHEDULED, Status.RUNNING, Status.SUCCEEDED)
        client.post(f"{JOBS}/1/archive")
        client.post(f"{JOBS}/1/restore")
        assert client.get(f"{JOBS}/1").json["last_status"] == "succeeded"

    def test_deleted_item_cannot_be_restored(self, client):
        client.submit()
        client.delete(f"{JOBS}/1")
        assert client.post(f"{JOBS}/1/restore").status_code == 404

    @pytest.mark.parametrize("kind", ["jobs", "builds", "projects"])
    def test_archives_are_visible_to_owner_and_administrators(self, client, other, admin, kind):
        client.submit()
        client.post(f"{JOBS}/1/archive" if kind == "jobs" else f"{BASE}/archive")
        count = 0 if kind == "builds" else 1
        assert client.get(f"/api/v1/archives/ana/{kind}").json["count"] == count
        assert other.get(f"/api/v1/archives/ana/{kind}").json["count"] == 0
        assert admin.get(f"/api/v1/archives/ana/{kind}").json["count"] == count


class TestArchivedInQueries:
    """`?query=archived:…` of the lists of one project."""

    @pytest.fixture(params=["jobs", "builds"])
    def path(self, request, client):
        """A list of a project with b archived, and a not."""
        path = f"{BASE}/{request.param}"
        for name in ("a", "b"):
            body = (
                {"name": name, "is_managed": False} if request.param == "builds" else {"name": name, "config": CONFIG}
            )
            assert client.post(path, body).status_code == 201
        assert client.post(f"{path}/2/archive").status_code == 200
        return path

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ("archived:true", "b"),
            ("archived: yes", "b"),
            ("archived:~false", "b"),
            ("archived:false", "a"),
            ("archived:~true", "a"),
            ("name:b", ""),
            ("name:b, archived:true", "b"),
            ("archived:true,archived:false", ""),
            ("name:archived|b", ""),
        ],
    )
    def test_archived_jobs_are_listed_by_query(self, client, path, query, names):
        for walk in ("", "&cursor="):
            response = client.get(f"{path}?query={query}{walk}").json
            assert ("".join(row["name"] for row in response["results"]), response["count"]) == (names, len(names))

    def test_archived_jobs_are_listed_only_for_writers(self, client, other, admin, path):
        publish()
        assert other.get(f"{path}?query=archived:true").json["results"] == []
        assert other.get(f"{path}?query=archived:false").json["count"] == 1
        assert admin.get(f"{path}?query=archived:true").json["count"] == 1

    @pytest.mark.parametrize("operand", ["maybe", "true|false", ">0", "2026-01-01"])
    def test_other_operands_are_refused(self, client, path, operand):
        response = client.get(f"{path}?query=archived:{operand}")
        assert response.status_code == 400
        assert "is neither true nor false" in response.json["detail"]


class TestSeveral:
    def test_bulk_stop_skips_done_and_missing_jobs(self, client):
        for _ in range(3):
            client.submit()
        move_job(2, Status.STOPPED)
        response = client.post(f"{JOBS}/stop", {"ids": [3, 1, 2, 77, 1]})
        assert (response.status_code, response.json) == (200, {"stopped": [1, 3], "skipped": [2, 77]})
        assert {job["last_status"] for job in client.get(JOBS).json["results"]} == {"stopped"}

    @pytest.mark.parametrize("method", ["POST", "DELETE"])
    def test_bulk_delete_deletes_jobs(self, client, method):
        for _ in range(2):
            client.submit()
        client.post("/api/v1/projects", {"name": "second"})
        elsewhere = client.call(method, "/api/v1/ana/second/jobs/delete", {"ids": [1]})
        assert elsewhere.json == {"deleted": [], "skipped": [1]}
        assert client.call(method, f"{JOBS}/delete", {"ids": [1, 9]}).json == {"deleted": [1], "skipped": [9]}
        assert client.get(JOBS).json["count"] == 1

    @pytest.mark.parametrize("body", [{}, {"ids": None}, {"ids": 3}, {"ids": ["a"]}, {"ids": [0]}, {"ids": [1] * 1001}])
    def test_bulk_operations_need_a_list_of_ids(self, client, body):
        response = client.post(f"{JOBS}/stop", body)
        assert response.status_code == 400
        assert response.json["errors"][0]["pointer"].startswith("/ids")
