"""Error responses of the server as text for users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from polyjob.cli.errors import ServerError

if TYPE_CHECKING:
    import requests

NOT_FOUND = "Not found."
"""The server's detail for a missing object. It is the same for all objects, so the command names the object."""


def refusal(response: requests.Response) -> ServerError:
    """Return the error for a response with a status of 400 or more."""
    status = response.status_code
    status_line = f"{status} {response.reason}"
    try:
        document = response.json()
        problems = [
            (str(item.get("pointer") or item.get("parameter") or ""), str(item["detail"]))
            for item in document.get("errors") or []
        ]
    except (ValueError, AttributeError, TypeError, KeyError):
        return ServerError(status, status_line)
    if not problems:
        detail = str(document.get("detail") or status_line)
        return ServerError(status, _missing_object(response.url) or detail if detail == NOT_FOUND else detail)
    return ServerError(status, problem_lines((field_name(field), detail) for field, detail in problems), problems)


@contextmanager
def name_options(options: Mapping[str, str]) -> Iterator[None]:
    """Make the errors of a refused request name the option of each field, such as `--sort` for the parameter `sort`."""
    try:
        yield
    except ServerError as error:
        if not error.problems:
            raise
        named = [(options.get(field_name(field), field_name(field)), detail) for field, detail in error.problems]
        raise ServerError(error.status, problem_lines(named), error.problems) from None


def problem_lines(problems: Iterable[tuple[str, str]]) -> str:
    """Return one line for each (name of a field, detail)."""
    return "\n".join(f"{name}: {detail}" if name else detail for name, detail in problems)


def field_name(pointer: str) -> str:
    """Return a JSON pointer, or the name of a parameter, in dotted form: `config.tags` for `/config/tags`."""
    return pointer.removeprefix("/").replace("/", ".")


def _missing_object(url: str) -> str | None:
    """Return a sentence about the missing object of a URL below /api/v1, or None if the URL has none."""
    parts = [unquote(part) for part in urlsplit(url).path.partition("/api/v1/")[2].split("/") if part]
    if len(parts) == 1:
        return f"There is no user `{parts[0]}`, or you may not see that user's projects."
    if len(parts) == 2 or (len(parts) == 3 and not parts[2].isdecimal()):
        project = f"{parts[0]}/{parts[1]}"
        return (
            f"There is no project `{project}`, or you may not see it. `polyjob projects ls` lists yours, and "
            "`polyjob run` creates one of yours that is missing."
        )
    if len(parts) >= 4 and parts[2] in ("jobs", "builds", "schedules"):
        return f"There is no {parts[2][:-1]} {parts[3]} in the project `{parts[0]}/{parts[1]}`, or you may not see it."
    return None
