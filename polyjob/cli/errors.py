"""The errors of commands, and how a command ends with one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polyjob.cli import EXIT_INTERRUPTED, EXIT_LOST_SERVER
from polyjob.cli.output import fail
from polyjob.cli.streams import OutputFailed

HOW_TO_GET_A_TOKEN = (
    "Run `polyjob login URL`, or set POLYJOB_TOKEN to your token. On the server's machine, the first one is in "
    "the file `root-token` of the data folder. Everyone else asks an administrator for a user, signs in with a "
    "browser and creates a token there."
)


class ServerError(Exception):
    """The server refused the request. The text is meant for users.

    `problems` has (JSON pointer or name of a parameter, detail) of each refused field.
    """

    def __init__(self, status: int, text: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.problems = tuple(problems)


class NoServer(Exception):
    """The server does not answer. The text says why, and what to do."""


class LostServer(NoServer):
    """The server stopped answering while the command followed a job, and did not come back in time."""


class UsageError(Exception):
    """An argument, option or variable of the command is not valid. The text is meant for users."""


class exit_on_error:
    """Report an error raised inside the block, and end the command with `exit_code`.

    The exit code for a lost server is always `EXIT_LOST_SERVER`.
    """

    def __init__(self, exit_code: int = 1) -> None:
        self._exit_code = exit_code

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, SystemExit):
            return
        import requests
        import urllib3

        if isinstance(error, ServerError) and error.status == 401:
            fail(f"{error}\n{HOW_TO_GET_A_TOKEN}", self._exit_code)
        if isinstance(error, LostServer):
            fail(f"{error}\nJobs are not affected. Run the same command again to continue.", EXIT_LOST_SERVER)
        if isinstance(error, ServerError | NoServer | UsageError | OutputFailed):
            fail(error, self._exit_code)
        if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError):
            fail("The connection was interrupted.", self._exit_code)
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(EXIT_INTERRUPTED)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(1)
