"""Who runs a container's command, and what that may do. Pure."""

from __future__ import annotations

from typing import Any

from tests.simulators.kubernetes.images import Image
from tests.simulators.kubernetes.selectors import Object

CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP"
)
"""In the order of their numbers in the kernel."""
USUAL = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)
"""What a container has that asks for nothing else."""


class NotYet(Exception):
    """Something that is missing and that the kubelet waits for. `reason` is that of the waiting state."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def user_of(pod: Object, spec: dict[str, Any], image: Image) -> tuple[int, int]:
    """(user, group) of the container's processes. Raises NotYet where it may not be root and would be."""
    context = {**(pod["spec"].get("securityContext") or {}), **(spec.get("securityContext") or {})}
    user = context.get("runAsUser", image.user)
    if context.get("runAsNonRoot") and user == 0:
        why = "image will run as root" if "runAsUser" not in context else "container's runAsUser breaks non-root policy"
        raise NotYet(
            "CreateContainerConfigError", f'container has runAsNonRoot and {why} (pod: "{pod["metadata"]["name"]}")'
        )
    return user, context.get("runAsGroup", 0)


def capabilities_of(context: dict[str, Any]) -> list[int] | None:
    """The capabilities that a process of the container can have; None = all."""
    if context.get("privileged"):
        return None
    told = context.get("capabilities") or {}
    dropped, added = ({name.removeprefix("CAP_") for name in told.get(kind) or []} for kind in ("drop", "add"))
    if "ALL" in added:
        return None
    kept = set() if "ALL" in dropped else set(USUAL.split()) - dropped
    return sorted(CAPABILITIES.split().index(name) for name in kept | added)
