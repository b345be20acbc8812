"""Bytes of the pages on the wire, and of their scripts and styles."""

from __future__ import annotations

import random
from pathlib import Path

from flask.testing import FlaskClient

from polyjob.db.models import Project
from polyjob.pages.blueprint import blp
from polyjob.pages.job_list import PAGE_SIZE
from polyjob.statuses import Status
from tests.pages.helpers import BEGUN, make_job, seal, url, write_log

MAX_PAGE_BYTES = 8_000
MAX_REFERENCE_BYTES = 25_000
MAX_STATIC_BYTES = 40_000
WORDS = ["train", "eval", "resnet", "bert", "night", "sweep", "seed", "fold", "data", "export", "large", "base"]


def wire_size(client: FlaskClient, path: str) -> int:
    answer = client.get(path, headers={"Accept": "text/html", "Accept-Encoding": "gzip"})
    assert (answer.status_code, answer.headers["Content-Encoding"]) == (200, "gzip")
    return len(answer.data)


def make_varied_job(project: Project, chance: random.Random) -> None:
    """Create a job with a name, tags and options that others do not have."""
    words = chance.sample(WORDS, 4)
    end = chance.choice([(Status.SUCCEEDED, None, None), (Status.FAILED, None, None), (Status.STOPPED, None, None)])
    command = f"python {words[0]}.py --{words[1]} {chance.random():.4f} --out {words[2]}/{chance.randrange(10**6)}"
    config = {"version": 1, "kind": "job", "run": {"cmd": command}}
    make_job(project, *BEGUN, end, name=f"{'-'.join(words)}-{chance.randrange(1000)}", tags=words[:2], config=config)


def test_list_of_jobs_is_small(client: FlaskClient, project: Project) -> None:
    chance = random.Random(1)
    for _ in range(PAGE_SIZE + 1):
        make_varied_job(project, chance)
    assert wire_size(client, "/") <= MAX_PAGE_BYTES


def test_page_of_a_job_is_small(client: FlaskClient, project: Project, data_dir: Path) -> None:
    command = "python train.py --data /srv/data/imagenet --epochs 90 --lr 0.1"
    config = {
        "version": 1,
        "kind": "job",
        "run": {"cmd": command},
        "environment": {"env_vars": [["A", "1"], ["B", "2"]]},
    }
    job = make_job(project, *BEGUN, (Status.SUCCEEDED, None, None), name="train", tags=["night"], config=config)
    write_log(data_dir, job, b"epoch\n" * 1000)
    seal(data_dir, job, {f"checkpoints/{number}.pt": b"x" for number in range(40)})
    assert wire_size(client, url(job)) <= MAX_PAGE_BYTES


def test_reference_of_the_api_is_small(client: FlaskClient) -> None:
    assert wire_size(client, "/docs/api") <= MAX_REFERENCE_BYTES


def test_scripts_and_styles_are_small() -> None:
    assert blp.static_folder
    files = [*Path(blp.static_folder).glob("*.css"), *Path(blp.static_folder).glob("*.js")]
    assert sum(path.stat().st_size for path in files) <= MAX_STATIC_BYTES


def test_page_of_a_growing_log_is_not_compressed(client: FlaskClient, project: Project, data_dir: Path) -> None:
    job = make_job(project, *BEGUN, (Status.SUCCEEDED, None, None))
    write_log(data_dir, job, b"line\n" * 1000)
    answer = client.get(f"{url(job)}/log?plain=1", headers={"Accept": "text/html", "Accept-Encoding": "gzip"})
    assert answer.text.count("line\n") == 1000
    assert "Content-Encoding" not in answer.headers
