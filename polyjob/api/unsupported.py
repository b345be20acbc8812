"""Hints for routes of the documented API that polyjob does not serve. They are the `detail` of the 404."""

from __future__ import annotations

import re

_PROJECT = r"[^/]+/[^/]+"
_KINDS = {
    "experiments": "experiments",
    "groups": "experiment groups",
    "notebooks?": "notebooks",
    "tensorboards?": "TensorBoards",
    "pipelines|operations": "pipelines",
}
_GIT = "polyjob does not clone git repositories. Upload the files instead: `polyaxon upload`, `polyaxon run -u`."

_HINTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), sentence)
    for pattern, sentence in [
        *(
            (
                rf"(?:{_PROJECT}|bookmarks/[^/]+|archives/[^/]+|searches/{_PROJECT})/(?:{words})(?:/|\Z)",
                f"polyjob runs jobs, not {kind}. Use `kind: job`.",
            )
            for words, kind in _KINDS.items()
        ),
        (rf"{_PROJECT}/repo/(?:external|sync)\Z", _GIT),
        (rf"{_PROJECT}/ci\Z", "polyjob has no CI of its own. Submit jobs from yours: `polyaxon run`, `polyjob run`."),
        (rf"{_PROJECT}/(?:jobs|builds)/[0-9]+/resources\Z", "polyjob does not report the resources that a run uses."),
        (r"searches/", "polyjob does not save searches. Bookmark the address of the page of jobs instead."),
        (
            rf"{_PROJECT}/jobs/[0-9]+/(?:imporsonate|impersonate|ephemeral)token\Z",
            "polyjob gives a job its token in `POLYAXON_SECRET_USER_TOKEN`.",
        ),
    ]
)
_PREFIX = re.compile(r"/(?:api/v1|ws/v1|v1)/")


def hint(path: str) -> str | None:
    """Return the hint for a path without a view, or None if the documented API does not have the path either."""
    prefix = _PREFIX.match(path)
    if prefix is None:
        return None
    rest = path[prefix.end() :]
    return next((sentence for pattern, sentence in _HINTS if pattern.match(rest)), None)
