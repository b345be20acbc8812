"""Params of jobs: rendered, replaced by clones, and reported with their problems."""

from __future__ import annotations

from .conftest import JOBS


class TestParams:
    YAML = "params: {lr: 0.1}\nrun:\n  cmd: train --lr {{ lr }}  # as sent\n"

    def test_params_are_rendered_and_the_text_is_stored(self, client):
        job = client.post(JOBS, {"content": self.YAML}).json
        assert job["config"]["run"]["cmd"] == "train --lr 0.1"
        assert job["content"] == self.YAML

    def test_params_of_a_clone_change_the_command(self, client):
        client.post(JOBS, {"content": self.YAML})
        client.post(JOBS, {"config": {"params": {"lr": 1}, "run": {"cmd": "x {{ lr }}"}}})
        for job_id, command in ((1, "train --lr 0.2"), (2, "x 0.2"), (3, "train --lr 0.2"), (4, "x 0.2")):
            job_response = client.post(f"{JOBS}/{job_id}/restart", {"config": {"params": {"lr": 0.2}}})
            assert job_response.status_code == 201, job_response.text
            assert job_response.json["config"]["run"]["cmd"] == command
        clone = client.post(f"{JOBS}/1/restart").json
        assert (clone["content"], clone["config"]["run"]["cmd"]) == (self.YAML, "train --lr 0.1")

    def test_missing_params_are_named_with_their_line(self, client):
        response = client.post(JOBS, {"content": "params: {a: 1}\nrun:\n  cmd: echo {{ b }}\n"})
        assert response.json["errors"] == [
            {"pointer": "/content/run/cmd", "detail": "Unknown param `b`; use one of: a. (line 3)"}
        ]
        client.submit()
        assert client.patch(f"{JOBS}/1", {"content": self.YAML}).json["config"]["params"] == {"lr": 0.1}

    def test_params_beside_the_config_take_precedence(self, client):
        for body in (
            {"content": self.YAML},
            {"config": {"declarations": {"lr": 3}, "run": {"cmd": "train --lr {{ lr }}"}}},
        ):
            job_response = client.post(JOBS, body | {"params": {"lr": 0.5}})
            assert job_response.status_code == 201, job_response.text
            assert job_response.json["config"]["run"]["cmd"] == "train --lr 0.5"
            clone = client.post(f"{JOBS}/{job_response.json['id']}/restart", {"params": {"lr": 0.7}}).json
            assert clone["config"]["run"]["cmd"] == "train --lr 0.7"
            clone = client.post(f"{JOBS}/{clone['id']}/restart", {"config": {"declarations": {"lr": 0.8}}}).json
            assert clone["config"]["run"]["cmd"] == "train --lr 0.8"

    def test_problems_point_to_params_beside_the_config(self, client):
        response = client.post(JOBS, {"content": self.YAML, "params": {"a b": 1, "lr": 1}})
        assert [error["pointer"] for error in response.json["errors"]] == ["/params/a b"]
        response = client.post(JOBS, {"content": self.YAML, "params": [1]})
        assert response.json["errors"] == [{"pointer": "/params", "detail": "Not an object."}]

    def test_config_of_another_kind_is_explained(self, client):
        response = client.post(JOBS, {"content": "kind: build\nbuild: {image: a}\n"})
        assert [error["pointer"] for error in response.json["errors"]] == ["/content/kind"]
        assert "`builds`" in response.json["errors"][0]["detail"]
        response = client.post(JOBS.replace("jobs", "builds"), {"content": "kind: job\nrun: {cmd: a}\n"})
        assert response.status_code == 400
        assert "`jobs`" in response.json["errors"][0]["detail"]
