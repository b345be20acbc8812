"""The code blocks of the README and the docs, and the comments for the tests before them.

Every block names its language. Blocks of `sh` and `console` are run, unless a comment before them says why not. Readers
do not see these comments:

    <!-- not run: REASON -->
    <!-- run before: COMMANDS -->

The commands of the second one create what the block needs. A variable such as `jobs_7` replaces the number in `jobs/7`.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SHELLS = ("sh", "console")
COMMENT = re.compile(r"<!--\s*(not run|run before):\s+(.*?)\s*-->", re.DOTALL)
_BLOCK = re.compile(r"(?P<comments>(?:^<!--.*?-->\n\n?)*)^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclasses.dataclass(frozen=True)
class Block:
    """A code block of a page."""

    page: Path
    line: int
    language: str
    text: str
    reason_not_to_run: str
    commands_before: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.language in SHELLS and not self.reason_not_to_run

    def steps(self) -> list[tuple[str, str | None]]:
        """Return the commands, each with its shown output; None for a block that shows only commands."""
        if self.language == "sh":
            return [(self.text, None)]
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def blocks_of(page: Path) -> list[Block]:
    """Return the code blocks of a page, in their order."""
    text = page.read_text()
    blocks = []
    for match in _BLOCK.finditer(text):
        comments = dict(COMMENT.findall(match["comments"]))
        line = text.count("\n", 0, match.start("language")) + 1
        blocks.append(
            Block(
                page,
                line,
                match["language"],
                match["text"],
                comments.get("not run", ""),
                comments.get("run before", ""),
            )
        )
    return blocks
