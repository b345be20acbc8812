"""What processes of the process runner inherit from the server: an allow-list of variables, and the account."""

from __future__ import annotations

import fnmatch
import os
import pwd

from runners.base import RunnerSettings, RunnerUnavailable

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def account_of(settings: RunnerSettings) -> pwd.struct_passwd | None:
    """The account that jobs run as; None = the server's own. Raises RunnerUnavailable where it cannot be taken on."""
    if settings.job_user is None:
        return None
    try:
        account = pwd.getpwnam(settings.job_user)
    except KeyError:
        raise RunnerUnavailable(f"there is no account `{settings.job_user}` to run jobs as") from None
    if os.geteuid() != 0:
        raise RunnerUnavailable(f"only a server started as root can run jobs as `{settings.job_user}`")
    return account


def inherited(settings: RunnerSettings, account: pwd.struct_passwd | None) -> dict[str, str]:
    """The server's own variables that its processes see, by the names and patterns of the settings."""
    env = {name: value for name, value in os.environ.items() if _is_allowed(name, settings.job_env)}
    env.setdefault("PATH", DEFAULT_PATH)
    if account is not None:
        env |= {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    return env


def _is_allowed(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
