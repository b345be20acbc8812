"""The variables that jobs and build steps inherit from the server, and the account that they run as."""

from __future__ import annotations

import fnmatch
import os
import pwd
import re
from typing import Any

from runners.base import RunnerSettings, RunnerUnavailable

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7}
"""Name → number of the Linux capabilities that a server needs to run jobs as another account, and to keep and remove
their files."""
_CREDENTIALS = re.compile(r"(^|://|\s)[^/\s]*@")
"""User name and password in a URL, with the text in front of them."""


def job_account(settings: RunnerSettings) -> pwd.struct_passwd | None:
    """Return the account that jobs run as, or None for the server's own.

    Raises RunnerUnavailable if the server cannot run jobs as that account.
    """
    if settings.job_user is None:
        return None
    try:
        account = pwd.getpwnam(settings.job_user)
    except KeyError:
        raise RunnerUnavailable(f"there is no account `{settings.job_user}` to run jobs as") from None
    if os.geteuid() != 0:
        raise RunnerUnavailable(f"only a server started as root can run jobs as `{settings.job_user}`")
    missing = _missing_capabilities()
    if missing:
        names = ", ".join(f"CAP_{name}" for name in missing)
        raise RunnerUnavailable(f"the server lacks {names}, which it needs to run jobs as `{settings.job_user}`")
    return account


def account_json(account: pwd.struct_passwd | None) -> dict[str, Any] | None:
    """Return an account as a keeper or step supervisor receives it: as numbers, and its name for messages."""
    if account is None:
        return None
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"name": account.pw_name, "user": account.pw_uid, "group": account.pw_gid, "groups": groups}


def _missing_capabilities() -> list[str]:
    with open("/proc/thread-self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]


def inherited_variables(
    settings: RunnerSettings, account: pwd.struct_passwd | None, *, with_credentials: bool = False
) -> dict[str, str]:
    """Return the server's own variables that jobs inherit, by the names and patterns of the settings.

    User names and passwords are removed from URLs in `PIP_*` and `*_proxy`, unless the settings contain the full name
    of the variable, or `with_credentials` is set.
    """
    env = {name: value for name, value in os.environ.items() if _is_allowed(name, settings.job_env)}
    if not with_credentials:
        env |= {name: _CREDENTIALS.sub(r"\1", env[name]) for name in env if _may_have_credentials(name, settings)}
    env.setdefault("PATH", DEFAULT_PATH)
    if account is not None:
        env |= {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    return env


def temporary_folder(settings: RunnerSettings, uuid: str) -> str:
    """Return the path of a job's temporary folder. It is short, because the job may create sockets in it."""
    parent = os.environ.get("TMPDIR", "") if _is_allowed("TMPDIR", settings.job_env) else ""
    return f"{parent if os.path.isabs(parent) else '/tmp'}/polyjob-{uuid}"


def _is_allowed(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _may_have_credentials(name: str, settings: RunnerSettings) -> bool:
    return (name.startswith("PIP_") or name.lower().endswith("_proxy")) and name not in settings.job_env
