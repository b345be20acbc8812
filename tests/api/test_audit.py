"""The audit trail: its records, filters and removal."""

from __future__ import annotations

from polyjob.auth import users
from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Audit, Project
from polyjob.services import audit, submission

from .conftest import BASE, CONFIG, JOBS, Client, pointers
from .helpers import PASSWORD, TOKENS, USERS, log_in


class TestAudit:
    def test_records_name_actor_action_and_token(self, client, admin):
        client.submit()
        client.patch(f"{JOBS}/1", {"description": "d"})
        client.post(f"{JOBS}/1/stop")
        client.post(f"{JOBS}/1/restart")
        client.delete(f"{JOBS}/1")
        listed = admin.get("/api/v1/audit?kind=job").json["results"]
        assert [row["action"] for row in reversed(listed)] == ["create", "update", "stop", "restart", "delete"]
        assert {row["user"] for row in listed} == {"ana"}
        assert {row["token"] for row in listed} == {"test"}
        assert {row["address"] for row in listed} == {"127.0.0.1"}
        assert listed[0]["target"] == "ana.demo.jobs.1"
        assert listed[1]["details"] == {"original": 1}
        assert listed[-2]["details"] == {"changed": ["description"]}

    def test_audit_of_a_job_needs_write_access(self, client, other):
        client.submit(), client.submit()
        client.post(f"{JOBS}/1/stop")
        assert [row["action"] for row in client.get(f"{JOBS}/1/audit").json["results"]] == ["stop", "create"]
        client.patch(BASE, {"is_public": True})
        assert other.get(f"{JOBS}/1/audit").status_code == 403

    def test_every_kind_of_change_is_recorded(self, client, admin):
        client.post("/api/v1/projects", {"name": "p"})
        client.post("/api/v1/ana/p/archive")
        client.post("/api/v1/ana/p/restore")
        client.patch("/api/v1/ana/p", {"description": "x"})
        client.post("/api/v1/ana/p/builds", {"build": {"image": "a"}})
        client.post("/api/v1/ana/p/builds/1/stop")
        client.post("/api/v1/ana/p/builds/1/invalidate")
        client.delete("/api/v1/ana/p")
        client.post(f"{USERS}/password", {"password": PASSWORD})
        created = client.post(TOKENS, {"name": "ci"}).json
        client.delete(f"{TOKENS}/{created['id']}")
        changes = {(row.kind, row.action) for row in audit.list_entries(user="ana")}
        assert changes >= {
            ("project", "create"), ("project", "archive"), ("project", "restore"), ("project", "update"),
            ("project", "delete"), ("build", "create"), ("build", "stop"), ("build", "invalidate"),
            ("user", "password"), ("token", "create"), ("token", "revoke"),
        }  # fmt: skip
        assert PASSWORD not in str(list(Audit.select().dicts()))

    def test_failed_logins_are_recorded(self, client, admin, app):
        log_in(app, "ana", "wrong")
        log_in(app, "nobody", "wrong")
        rows = admin.get("/api/v1/audit?kind=user").json["results"]
        failed = [row for row in rows if row["action"] == "login failed"]
        assert [row["target"] for row in failed] == ["nobody", "ana"]
        too_long = {"username": "x" * 157, "password": "y"}
        assert pointers(Client(app).post(f"{USERS}/token", too_long)) == ["/username"]

    def test_records_outlive_their_objects(self, client, other, admin):
        other.post("/api/v1/projects", {"name": "p"})
        with write("test"):
            Project.delete().where(Project.name == "p").execute()
        admin.delete(f"{USERS}/delete/bob")
        rows = [row for row in admin.get("/api/v1/audit?user=bob").json["results"] if row["kind"] == "project"]
        assert [row["target"] for row in rows] == ["bob.p"]

    def test_records_are_paged_by_id(self, client, admin):
        client.submit(), client.submit()
        assert admin.get("/api/v1/audit?kind=job&target_id=2").json["count"] == 1
        assert pointers(admin.get("/api/v1/audit?kind=x")) == ["kind"]
        assert pointers(admin.get("/api/v1/audit?target_id=x")) == ["target_id"]

    def test_changes_without_an_actor_are_not_recorded(self, project, user, settings):
        submission.create(project, user, {"config": CONFIG}, settings)
        assert Audit.select().count() == 0

    def test_old_records_are_removed(self, client):
        client.submit(), client.submit()
        with write("test"):
            Audit.update(created_at=now() - users.datetime.timedelta(days=9)).where(Audit.id == 1).execute()
            assert audit.prune(10, 100) == 0
            assert audit.prune(8, 100) == 1
        assert Audit.select().count() > 0
