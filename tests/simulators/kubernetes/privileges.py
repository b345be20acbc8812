"""The user of a container's command, and its capabilities."""

from __future__ import annotations

from typing import Any

from tests.simulators.kubernetes.images import Image
from tests.simulators.kubernetes.selectors import Object

CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP"
)
"""Names of the capabilities, in the order of their numbers in the kernel."""
USUAL = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)
"""The default capabilities of a container."""


class NotYet(Exception):
    """The kubelet waits for a missing object. `reason` is that of the waiting state."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def user_of(pod: Object, spec: dict[str, Any], image: Image) -> tuple[int, int]:
    """Return (user, group) of the container's processes. Raises NotYet if it must not be root, but would be."""
    context = {**(pod["spec"].get("securityContext") or {}), **(spec.get("securityContext") or {})}
    user = context.get("runAsUser", image.user)
    if context.get("runAsNonRoot") and user == 0:
        reason = (
            "image will run as root" if "runAsUser" not in context else "container's runAsUser breaks non-root policy"
        )
        raise NotYet(
            "CreateContainerConfigError", f'container has runAsNonRoot and {reason} (pod: "{pod["metadata"]["name"]}")'
        )
    return user, context.get("runAsGroup", 0)


def capabilities_of(context: dict[str, Any]) -> list[int] | None:
    """Return the capabilities that processes of the container can have; None = all."""
    if context.get("privileged"):
        return None
    capabilities = context.get("capabilities") or {}
    dropped, added = ({name.removeprefix("CAP_") for name in capabilities.get(kind) or []} for kind in ("drop", "add"))
    if "ALL" in added:
        return None
    remaining = set() if "ALL" in dropped else set(USUAL.split()) - dropped
    return sorted(CAPABILITIES.split().index(name) for name in remaining | added)
