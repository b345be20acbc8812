"""Find settings of the machine that let the account of process jobs reach files of root or of the server."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from pathlib import Path

SYSCTLS = Path("/proc/sys")
ROOT_GROUPS = frozenset({"root", "docker", "lxd", "incus", "libvirt", "disk", "kmem", "shadow"})
"""Groups whose members can get the rights of root."""


def gaps(job_user: str) -> list[str]:
    """Return one sentence for each way in which jobs of this account can reach files of root or of the server."""
    sentences = []
    if _sysctl("fs/protected_hardlinks") == 0:
        sentences.append(
            "fs.protected_hardlinks is 0, so jobs can link files of root into their outputs. "
            "Run `sysctl fs.protected_hardlinks=1`."
        )
    with contextlib.suppress(KeyError):
        account = pwd.getpwnam(job_user)
        groups = sorted(_group_names(account) & ROOT_GROUPS)
        if account.pw_uid == 0:
            sentences.append(
                f"The account `{job_user}` is root, so jobs run as root. Set POLYJOB_JOB_USER to another account."
            )
        elif groups:
            names = ", ".join(groups)
            sentences.append(f"The account `{job_user}` has root's rights by its groups: {names}. Remove it from them.")
    return sentences


def gaps_between_jobs() -> list[str]:
    """Return one sentence for each way in which jobs of one account can reach each other, besides files and signals."""
    if _sysctl("kernel/yama/ptrace_scope"):
        return []
    return ["kernel.yama.ptrace_scope is 0 or missing, so jobs can read each other's memory and tokens."]


def _group_names(account: pwd.struct_passwd) -> set[str]:
    names = set()
    for group_id in os.getgrouplist(account.pw_name, account.pw_gid):
        with contextlib.suppress(KeyError):
            names.add(grp.getgrgid(group_id).gr_name)
    return names


def _sysctl(name: str) -> int | None:
    try:
        return int((SYSCTLS / name).read_text())
    except (OSError, ValueError):
        return None
