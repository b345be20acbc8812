"""Suggest the nearest known word for a misspelled command or setting."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

CLIENT_VARIABLES = frozenset({"POLYJOB_URL", "POLYJOB_TOKEN", "POLYJOB_PROJECT"})
"""Variables that only commands read. The table of settings has all others."""
MIN_SIMILARITY = 0.8
"""Similarity of an unknown variable to a known one, from 0 to 1, above which it counts as misspelled."""


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the most similar of the words, or None if none is similar."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1)), None)


def misspelled_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (variable, the setting that it resembles) of each variable `POLYJOB_…` that is not a setting.

    Other unknown variables are not reported: runners of other packages read some, and clusters create
    `POLYJOB_SERVICE_HOST` for a service named `polyjob`.
    """
    from polyjob.settings import PREFIX, variable_names

    names = [name for name in environ if name.startswith(PREFIX) and name not in CLIENT_VARIABLES]
    known = CLIENT_VARIABLES.union(variable_names()) if names else frozenset()
    stems = {name.removeprefix(PREFIX): name for name in known}
    for name in sorted(set(names) - known):
        if match := difflib.get_close_matches(name.removeprefix(PREFIX), stems, n=1, cutoff=MIN_SIMILARITY):
            yield name, stems[match[0]]
