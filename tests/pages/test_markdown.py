"""Markdown of outputs: common markup is shown, and nothing can run, load or lead astray."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from markdown_it.token import Token

from polyjob.db.models import Job, Project
from polyjob.pages import markdown
from polyjob.pages.markdown import is_safe_link, render_markdown
from polyjob.statuses import Status
from tests.pages.helpers import BEGUN, EVIL, make_job, read, seal, url

TAGS = {
    *("p", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "hr", "pre", "code", "em", "strong", "s"),
    *("br", "a", "img", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"href", "rel", "title", "src", "alt", "class", "tabindex", "start"}
HOSTILE = [
    EVIL,
    "<script>alert(1)</script>",
    "<b onclick=alert(1)>x</b>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:x)",
    "[x](file:///etc/passwd)",
    "<javascript:alert(1)>",
    "[x]: javascript:alert(1)\n\n[x]",
    '[x](http://a.example ""><script>alert(1)</script>")',
    '![" onerror="alert(1)](x.png)',
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml,<svg onload=alert(1)>)",
    "![x](http://a.example/pixel.gif)",
    "![x](//a.example/pixel.gif)",
    "![x](/api/v1/users/logout)",
    "![x](../../../api/v1/users/logout.png)",
    "![x](%2e%2e/%2e%2e/secret.png)",
    '``` "><script>\nx\n```',
    "| a |\n|--:|\n| <script> |",
]
PIECES = ["\n", "\n\n", "[", "![", "](", ")", "*", "`", "<", "|", "> ", "- ", "  - ", "[a]: b\n", "a\n- ", "<a "]


class Tags(HTMLParser):
    """Collects (tag, attributes) of each element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def render(text: str, path: str = "report/README.md") -> str:
    return str(render_markdown(text, path, lambda image: f"/raw/{image}" if image.endswith(".png") else None))


def check_inert(html: str) -> None:
    for tag, attributes in Tags(html).found:
        assert tag in TAGS
        assert attributes.keys() <= ATTRIBUTES
        if tag == "a":
            assert is_safe_link(attributes["href"] or "")
            assert attributes["rel"] == "nofollow noopener noreferrer"
        if tag == "img":
            assert re.fullmatch(r"/raw/(?!\.\./)[^:]*\.png", attributes["src"] or "")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(text: str) -> None:
    check_inert(render(text))
    check_inert(render(f"> - [{text}](http://a.example)\n\n{text} **{text}**"))


@given(st.lists(st.sampled_from([*HOSTILE, *PIECES])).map("".join))
def test_hostile_combinations_are_inert(text: str) -> None:
    check_inert(render(text))


def test_common_markup_is_shown() -> None:
    html = render(
        "# Results\n\nSee **this** and `that`, ~~not~~ [log](log.txt).\n\n"
        "| epoch | loss |\n|---|--:|\n| 1 | 0.5 |\n\n```sh\nls <x>\n```\n"
    )
    assert "<h2>Results</h2>" in html
    assert "<strong>this</strong> and <code>that</code>, <s>not</s>" in html
    assert '<a href="log.txt" rel="nofollow noopener noreferrer">log</a>' in html
    assert '<td class="number">0.5</td>' in html
    assert '<pre tabindex="0"><code>ls &lt;x&gt;\n</code></pre>' in html


@pytest.mark.parametrize(
    ("source", "path"),
    [("loss.png", "report/loss.png"), ("../a%20b.png", "a b.png"), ("./x/../y.png", "report/y.png")],
)
def test_images_of_the_outputs_are_shown(source: str, path: str) -> None:
    assert f'<img src="/raw/{path}" alt="Loss">' in render(f"![Loss]({source})")


@pytest.mark.parametrize("source", ["http://a.example/x.png", "//a.example/x.png", "/x.png", "../../x.png", "x.txt"])
def test_other_images_are_links(source: str) -> None:
    html = render(f"![Loss]({source})")
    assert f'<a href="{source}" rel="nofollow noopener noreferrer">Image: Loss</a>' in html
    assert render(f"[![Loss]({source})](http://b.example)").count("<a ") == 1


@pytest.mark.parametrize("piece", PIECES)
def test_deeply_nested_markup_is_rendered(piece: str) -> None:
    check_inert(render(piece * 1000))


WIDE_TABLE = "|a" * 500 + "\n" + "|-" * 500 + "\n" + "x\n" * 10_000
"""Each short row has 500 cells."""


def test_table_with_very_many_cells_is_refused_while_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    added = 0
    append = markdown._BoundedBlocks.append

    def count(self: markdown._BoundedBlocks, token: Token) -> None:
        nonlocal added
        added += 1
        append(self, token)

    monkeypatch.setattr(markdown._BoundedBlocks, "append", count)
    assert len(WIDE_TABLE) < markdown.MAX_MARKDOWN_BYTES
    with pytest.raises(markdown.TooManyBlocks):
        render(WIDE_TABLE)
    assert added == markdown.MAX_MARKDOWN_BLOCKS + 1


def test_usual_long_text_is_within_the_limits() -> None:
    reference = (Path(markdown.__file__).parents[2] / "docs" / "api.md").read_text()
    assert "<table>" in render(reference[: markdown.MAX_MARKDOWN_BYTES])


DONE = (*BEGUN, (Status.SUCCEEDED, "Completed", {}))


@pytest.fixture
def job(project: Project) -> Job:
    return make_job(project, *DONE, exit={"reason": "exited", "code": 0})


def test_page_shows_the_formatted_file_or_its_source(client: FlaskClient, job: Job, data_dir: Path) -> None:
    text = f"# Title\n\n![Loss](l%20s.png) {EVIL}"
    seal(data_dir, job, {"r/README.md": text.encode(), "r/l s.png": b"x", "e.md": b""})
    path = f"{url(job)}/outputs/r/README.md"
    page = read(client, path)
    assert "Title" in page.text and "# Title" not in page.text
    assert page.tags.count("img") == 1 and f"{path}?source=1" in page.links
    assert f'src="{url(job)}/raw/r/l%20s.png"' in client.get(path).text
    source = read(client, f"{path}?source=1")
    assert "# Title" in source.text and path in source.links and "img" not in source.tags
    assert "The file is empty." in read(client, f"{url(job)}/outputs/e.md").text


def test_long_markdown_is_shown_as_text(
    client: FlaskClient, job: Job, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(markdown, "MAX_MARKDOWN_BYTES", 10)
    seal(data_dir, job, {"long.md": b"# Title\n\n" + b"x" * 10})
    page = read(client, f"{url(job)}/outputs/long.md")
    assert "# Title" in page.text and "?source=1" not in "".join(page.links)


def test_table_with_very_many_cells_is_shown_as_text(client: FlaskClient, job: Job, data_dir: Path) -> None:
    seal(data_dir, job, {"wide.md": WIDE_TABLE.encode()})
    page = read(client, f"{url(job)}/outputs/wide.md")
    assert "|a|a|a" in page.text and "table" not in page.tags and "?source=1" not in "".join(page.links)
