"""The body and the response of a sweep."""

from __future__ import annotations

import itertools
import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marshmallow import Schema, fields

from polyjob.api.schemas.common import name_field
from polyjob.api.schemas.config_bodies import ParsedBody
from polyjob.api.schemas.entries import Entries
from polyjob.api.schemas.job_bodies import JobCreateBody, read_job_create
from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.checks import check_values, deserialize, pointer_to
from polyjob.services.sweeps import MAX_SWEEP_BYTES, MAX_SWEEP_JOBS, Sweep

_SWEEP_FIELDS = ("sweep", "group")


class SweepBody(JobCreateBody):
    sweep = fields.Dict(
        required=True,
        metadata={"description": f"Param → list of its values. At most {MAX_SWEEP_JOBS} combinations."},
    )
    group = name_field()


class SweptJobSchema(Schema):
    id = fields.Integer()
    unique_name = fields.String()
    params = Entries()


class SweepSchema(Schema):
    group = fields.String(metadata={"description": "The tag of the jobs."})
    jobs = fields.List(fields.Nested(SweptJobSchema))


@dataclass(frozen=True)
class ParsedSweep:
    group: str
    jobs: list[ParsedBody]


def read_sweep(body: Mapping[str, Any]) -> ParsedSweep:
    """Read the body of a sweep: that of a job, and the values of each param. Raises Invalid."""
    combinations = _combinations(body.get("sweep"))
    group = _read_group(body.get("group"))
    job_body = {key: value for key, value in body.items() if key not in _SWEEP_FIELDS}
    total = len(json.dumps(job_body)) * len(combinations)
    if total > MAX_SWEEP_BYTES:
        limit = MAX_SWEEP_BYTES >> 20
        detail = f"{len(combinations)} jobs with this body have {total >> 20} MiB; at most {limit} MiB are allowed."
        raise Invalid([Problem("/sweep", detail)])
    own_params = job_body.get("params")
    if own_params is not None and not isinstance(own_params, Mapping):
        read_job_create(job_body)  # raises Invalid
    jobs = [read_job_create(job_body | {"params": {**(own_params or {}), **values}}) for values in combinations]
    for job in jobs:
        config = job.attributes.get("config") or {}
        if job.attributes.get("name") or config.get("name"):
            raise Invalid([Problem("/name", "The jobs of a sweep cannot share a name; use `group`.")])
        tags = job.attributes.get("tags") or config.get("tags") or []
        job.attributes["tags"] = [*tags, *({group} - set(tags))]
    return ParsedSweep(group, jobs)


def _read_group(value: Any) -> str:
    if value is None:
        return f"sweep-{secrets.token_hex(3)}"
    check_values({"group": value})
    group: str = deserialize(SweepBody(only=("group",)), {"group": value}, "")["group"]
    return group


def _combinations(sweep: Any) -> list[dict[str, Any]]:
    """Return the params of each job. The last param varies fastest. Raises Invalid."""
    if not isinstance(sweep, Mapping) or not sweep:
        raise Invalid([Problem("/sweep", 'Not an object with a list of values for each param: {"lr": [0.1, 0.2]}.')])
    check_values(sweep, "/sweep")
    problems = [
        Problem(pointer_to("/sweep", name), "Not a list of numbers, texts or booleans.")
        for name, values in sweep.items()
        if not isinstance(values, list) or not values or not all(isinstance(one, str | int | float) for one in values)
    ]
    if problems:
        raise Invalid(problems)
    if (count := math.prod(len(values) for values in sweep.values())) > MAX_SWEEP_JOBS:
        raise Invalid([Problem("/sweep", f"{count} combinations; at most {MAX_SWEEP_JOBS} are allowed.")])
    return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def sweep_document(sweep: Sweep) -> dict[str, Any]:
    """Return the response to a sweep."""
    jobs = [{"id": job.id, "unique_name": job.unique_name, "params": job.effective_params} for job in sweep.jobs]
    return {"group": sweep.group, "jobs": jobs}
