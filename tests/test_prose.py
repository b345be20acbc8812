"""Rules of plain English that hold for every text in the repository."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PHRASES = {
    "guillemets": "[«»]",
    "pointer to another docstring": r"\bSee the module\b|\bAs above\b",
    "anew": r"\banew\b",
    "negation with no": r"(?<![Tt]here )\b(?:is|are|was|were) no (?!longer\b|more\b)",
    "back end": r"\bback ends?\b",
}
"""Rule → a pattern of what it forbids."""
CLAUSE = re.compile(r"(?:What|Who|How|That|Which|Whose)\b")


def texts() -> list[Path]:
    """All tracked texts except for licences, locks, and this file, which has to name what it forbids."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    suffixes = (
        ".py",
        ".md",
        ".html",
        ".js",
        ".css",
        ".sh",
        ".toml",
        ".yaml",
        ".yml",
        ".service",
        "Makefile",
        "Dockerfile",
    )
    paths = [ROOT / name for name in names.split("\0") if name.endswith(suffixes)]
    return [path for path in paths if path.is_file() and path != Path(__file__).resolve()]


@pytest.mark.parametrize("rule", PHRASES)
def test_phrase_is_not_used(rule):
    pattern = re.compile(PHRASES[rule])
    passages = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not passages, "\n".join(passages)


def test_docstrings_do_not_start_with_a_clause():
    passages = []
    for path in texts():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            for statement in getattr(node, "body", None) if isinstance(getattr(node, "body", None), list) else []:
                value = getattr(statement, "value", None) if isinstance(statement, ast.Expr) else None
                if (
                    isinstance(value, ast.Constant)
                    and isinstance(value.value, str)
                    and CLAUSE.match(value.value.strip())
                ):
                    passages.append(
                        f"{path.relative_to(ROOT)}:{statement.lineno}: {value.value.strip().splitlines()[0]}"
                    )
    assert not passages, "\n".join(passages)
