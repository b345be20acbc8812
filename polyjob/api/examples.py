"""Working example bodies for the OpenAPI document, by operation."""

from __future__ import annotations

from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = {
    "create_job": {
        "config": {
            "build": {"image": "python:3.12", "build_steps": ["pip install six"]},
            "run": {"cmd": "python -c 'import six; print(six.__version__)'"},
        },
        "name": "first",
        "tags": ["demo"],
    },
    "create_sweep": {"config": {"run": {"cmd": "train --lr {{ lr }}"}}, "sweep": {"lr": [0.1, 0.2]}, "group": "grid"},
    "update_job": {"description": "The first job", "tags": ["new"], "merge": True},
    "restart_job": {"config": {"environment": {"env_vars": {"SEED": "2"}}}},
    "resume_job": {"update_code": True},
    "copy_job": {"description": "Continues with a copy of the outputs"},
    "stop_jobs": {"ids": [1, 2]},
    "delete_jobs": {"ids": [1, 2]},
    "post_status": {"status": "running", "message": "First epoch"},
    "reconcile": {"status": "succeeded"},
    "post_code_reference": {"commit": "4f2d", "branch": "main", "git_url": "ssh://git@example.org/demo.git"},
    "create_build": {
        "config": {"kind": "build", "build": {"image": "python:3.12", "build_steps": ["pip install six"]}}
    },
    "post_build_status": {"status": "running", "message": "First build step"},
    "reconcile_build": {"status": "succeeded"},
    "post_build_code_reference": {"commit": "4f2d", "branch": "main"},
    "update_build": {"name": "base", "tags": ["python"], "merge": True},
    "create_schedule": {
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "missed": "once",
        "job": {"config": {"run": {"cmd": "make nightly"}}, "name": "nightly"},
    },
    "update_schedule": {"cron": "30 3 * * 1-5", "overlap": "skip"},
    "create_project": {"name": "demo", "description": "First experiments", "is_public": False},
    "update_project": {"description": "More experiments", "tags": ["new"], "merge": True},
    "update_capacity": {"slots": {"process": 4}, "gpus": [0, 1]},
    "add_member": {"username": "bob", "role": "submit"},
    "invite_user": {"project": "ana.demo", "role": "submit"},
    "create_token": {"name": "ci", "scope": "submit", "project": "ana.demo", "expires_in": 2592000},
    "create_webhook": {"url": "https://example.org/hook", "events": ["failed", "fixed"]},
    "set_secret": {"value": "a long value"},
    "set_server_secret": {"value": "a long value"},
    "create_user": {"username": "ana", "password": "a long password", "email": "ana@localhost", "is_admin": False},
    "set_password": {"password": "a longer password", "old_password": "a long password"},
    "update_me": {"email": "ana@localhost"},
    "log_in": {"username": "ana", "password": "a long password"},
}
