"""The documentation: its links lead somewhere, and its tables are tables."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from marshmallow import fields

from polyjob.jobconfig.schema import ConfigSchema
from polyjob.services.specs import job_env
from polyjob.statuses import Status, may_follow
from runners.base import Reason, inputs_variables, marker_variable, volume_variables

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page):
    """Return the anchor that a forge makes of a heading."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_existing_pages_and_headings(page):
    for target, anchor in re.findall(r"\]\((?!https?:|/)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_begin_with_a_header(page):
    lines = ["", *page.read_text().splitlines(), ""]
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if line.startswith("| ") and not before.startswith("|"):
            assert re.fullmatch(r"\|[-:| ]+", after), line


def test_index_links_to_every_page():
    index = (ROOT / "docs/index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in index, page.name


def rows_of_api_section(title):
    section = (ROOT / "docs/api.md").read_text().split(f"### {title}\n")[1].split("\n### ")[0]
    return section, re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_api_page_lists_each_status():
    section, rows = rows_of_api_section("Statuses")
    managed = [status for status in Status if any(may_follow(status, other, managed=True) for other in Status)]
    assert rows == [Status.CREATED, *managed]
    assert set(re.findall(r"`(\w+)`", section)) >= set(Status)


def test_config_page_lists_each_variable_of_a_job():
    functions = (job_env, inputs_variables, marker_variable, volume_variables)
    source = "".join(map(inspect.getsource, functions))
    names = set(re.findall(r'"((?:POLYAXON|POLYJOB|CUDA|NVIDIA)_[A-Z_]+)"', source))
    section = (ROOT / "docs/job-config.md").read_text().split("## Variables of a job\n")[1].split("\n## ")[0]
    assert "POLYAXON_API" in names
    assert names <= set(re.findall(r"`(\w+)`", section))


def keys_of(schema):
    for name, field in schema.fields.items():
        yield name
        yield from keys_of(field.schema) if isinstance(field, fields.Nested) else ()


def test_config_page_names_each_key():
    page = (ROOT / "docs/job-config.md").read_text()
    names = {part for code in re.findall(r"`([\w.]+)`", page) for part in code.split(".")}
    assert set(keys_of(ConfigSchema())) - names == {"formatter"}, "`logging.formatter` has no effect anywhere"


def test_api_page_lists_each_reason():
    assert rows_of_api_section("Reasons")[1] == list(Reason)
