"""Markdown of outputs as inert HTML: no scripts, no raw HTML, and no images but those of the same outputs."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_core import StateCore
    from markdown_it.token import Token

MAX_MARKDOWN_BYTES = 32 << 10
"""Length of a file that is rendered; the parser is slow for some texts."""
MAX_MARKDOWN_BLOCKS = 10_000
"""Begins and ends of paragraphs, list items, table cells and the like; a short text can have very many cells."""
EXTENSIONS = ("md", "markdown")
LINK_RELATION = "nofollow noopener noreferrer"
_SCHEME = re.compile(r"[^/?#]*:")
_SAFE_SCHEMES = ("http:", "https:", "mailto:")
_ALIGNMENTS = {"text-align:right": "number", "text-align:center": "center"}
"""Inline style of a cell → class. The Content-Security-Policy forbids inline styles."""

PictureUrl = Callable[[str], str | None]
"""Returns the URL of an image of the outputs, given its path, or None if no such file is shown as an image."""


class TooManyBlocks(Exception):
    """A text has more than MAX_MARKDOWN_BLOCKS, and would take too long."""


class _BoundedBlocks(list["Token"]):
    """The blocks of a text. Raises TooManyBlocks while the parser adds them, so before they take time."""

    def append(self, token: Token) -> None:
        if len(self) >= MAX_MARKDOWN_BLOCKS:
            raise TooManyBlocks
        super().append(token)


def render_markdown(text: str, path: str, picture_url: PictureUrl) -> Markup:
    """Render the Markdown of the file at `path` in the outputs. Raises TooManyBlocks.

    Raw HTML is shown as text. Links lead to http, https and mailto addresses, or relative to the page. Images of the
    outputs are shown. Other images become links. The headings begin at the second level.
    """
    parser = _parser()
    tokens = parser.parse(text)
    open_links = 0
    for token in _flat(tokens):
        open_links += token.nesting if token.type in ("link_open", "link_close") else 0
        _adapt(token, is_in_link=open_links > 0)
        if token.type == "image":
            token.meta["url"] = _url_of_image(str(token.attrGet("src")), posixpath.dirname(path), picture_url)
    return Markup(parser.renderer.render(tokens, parser.options, {}))


@cache
def _parser() -> MarkdownIt:
    # Imported late: few pages need it.
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.validateLink = is_safe_link  # type: ignore[method-assign]
    parser.core.ruler.before("block", "bound_blocks", _bound_blocks)
    for name in ("fence", "code_block"):
        parser.add_render_rule(name, _render_code)
    parser.add_render_rule("image", _render_image)
    return parser


def _bound_blocks(state: StateCore) -> None:
    state.tokens = _BoundedBlocks(state.tokens)


def is_safe_link(url: str) -> bool:
    """Return whether a link may lead to this URL."""
    scheme = _SCHEME.match(url.strip())
    return scheme is None or scheme[0].lower() in _SAFE_SCHEMES


def _flat(tokens: Iterable[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        if token.type != "image":  # its text is not rendered as HTML
            yield from _flat(token.children or ())


def _adapt(token: Token, *, is_in_link: bool) -> None:
    if token.type in ("heading_open", "heading_close"):
        token.tag = f"h{min(6, int(token.tag[1:]) + 1)}"
    elif token.type == "link_open":
        token.attrSet("rel", LINK_RELATION)
    elif token.type == "image":
        token.meta["is_in_link"] = is_in_link
    elif style := token.attrs.pop("style", None):
        token.attrSet("class", _ALIGNMENTS.get(str(style), ""))


def _url_of_image(source: str, folder: str, picture_url: PictureUrl) -> str | None:
    """Return the URL of an image of the outputs that is named relative to the folder; None for any other image."""
    if _SCHEME.match(source) or source.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join(folder, unquote(source)))
    return None if path.startswith("../") else picture_url(path)


def _render_image(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    text = renderer.renderInlineAsText(token.children, options, env)
    if url := token.meta["url"]:
        return f'<img src="{escape(url)}" alt="{escape(text)}">'
    source = str(token.attrGet("src"))
    if token.meta["is_in_link"]:
        return f"Image: {escape(text or source)}"
    return f'<a href="{escape(source)}" rel="{LINK_RELATION}">Image: {escape(text or source)}</a>'


def _render_code(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return f'<pre tabindex="0"><code>{escape(tokens[index].content)}</code></pre>\n'
