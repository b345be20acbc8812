"""Find what the machine leaves open between root and the account that process jobs run as."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from pathlib import Path

SYSCTLS = Path("/proc/sys")
ROOT_GROUPS = frozenset({"root", "docker", "lxd", "incus", "libvirt", "disk", "kmem", "shadow"})
"""Groups whose members can read or become everything."""


def gaps(job_user: str) -> list[str]:
    """Return a sentence for each way in which jobs of this account reach the files of root or the server."""
    found = []
    if _sysctl("fs/protected_hardlinks") == 0:
        found.append(
            "fs.protected_hardlinks is 0, so jobs can link files of root into their outputs. "
            "Run `sysctl fs.protected_hardlinks=1`."
        )
    with contextlib.suppress(KeyError):
        account = pwd.getpwnam(job_user)
        groups = sorted(_group_names(account) & ROOT_GROUPS)
        if account.pw_uid == 0:
            found.append(f"The account `{job_user}` is root, so jobs run as root. Name another in POLYJOB_JOB_USER.")
        elif groups:
            names = ", ".join(groups)
            found.append(f"The account `{job_user}` has root's rights by its groups: {names}. Remove it from them.")
    return found


def gaps_between_jobs() -> list[str]:
    """Return a sentence for each way in which jobs of one account reach each other beyond files and signals."""
    if _sysctl("kernel/yama/ptrace_scope"):
        return []
    return ["kernel.yama.ptrace_scope is 0 or missing, so jobs can read each other's memory and tokens."]


def _group_names(account: pwd.struct_passwd) -> set[str]:
    names = set()
    for number in os.getgrouplist(account.pw_name, account.pw_gid):
        with contextlib.suppress(KeyError):
            names.add(grp.getgrgid(number).gr_name)
    return names


def _sysctl(name: str) -> int | None:
    try:
        return int((SYSCTLS / name).read_text())
    except (OSError, ValueError):
        return None
