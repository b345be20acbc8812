"""Images that nodes can pull, and the root folders of their containers."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
REFERENCE = re.compile(
    r"(?:[A-Za-z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)

_making = threading.Lock()


@dataclass
class Image:
    """One image. `host` images have this machine's programs, `busybox` ones only busybox, `empty` ones no files."""

    root: str = "busybox"
    entrypoint: list[str] = dataclasses.field(default_factory=list)
    command: list[str] = dataclasses.field(default_factory=lambda: ["sh"])
    env: dict[str, str] = dataclasses.field(default_factory=lambda: {"PATH": PATH})
    workdir: str = "/"
    user: int = 0
    seconds: float = 0.0
    """Seconds for which a node pulls it, once."""
    pull_error: str | None = None
    """The registry's message if it cannot be pulled."""


def usual() -> dict[str, Image]:
    """Return the images that every cluster has."""
    names = {"busybox": "busybox", "alpine": "busybox", "debian": "host", "python": "host", "polyjob-test": "busybox"}
    return {name: Image(root=root) for name, root in names.items()}


def is_valid(name: str) -> bool:
    return REFERENCE.fullmatch(name) is not None


def lookup(images: dict[str, Image], name: str) -> Image | None:
    """Return the image of that name, or of the name without its tag and Docker Hub's prefix."""
    if name in images:
        return images[name]
    short = name.removeprefix("docker.io/").removeprefix("library/")
    return images.get(short) or images.get(re.sub(r"(?<!/)(@sha256:[0-9a-f]{64}|:[\w.-]+)$", "", short))


def image_id(name: str) -> str:
    return f"docker.io/library/{name.partition(':')[0]}@sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def system(image: Image, state: Path) -> dict[str, str]:
    """Return the parts of this machine that containers of the image see: name below the root → path here."""
    if image.root == "empty":
        return {}
    if image.root == "busybox":
        with _making:
            return {"bin": str(_busybox(state)), "etc": str(_etc(state))}
    folders = {
        name: f"/{name}" for name in ("usr", "etc", "bin", "sbin", "lib", "lib64") if os.path.lexists(f"/{name}")
    }
    for prefix in {sys.base_prefix, sys.prefix}:
        if not prefix.startswith("/usr"):
            folders[prefix.lstrip("/")] = prefix
    return folders


def _busybox(state: Path) -> Path:
    folder = state / "images" / "busybox" / "bin"
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "busybox").write_bytes(BUSYBOX.read_bytes())
        (folder / "busybox").chmod(0o755)
        names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for name in names:
            if not os.path.lexists(folder / name):
                (folder / name).symlink_to("busybox")
        (folder / "complete").touch()
    return folder


def _etc(state: Path) -> Path:
    folder = state / "images" / "busybox" / "etc"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (folder / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    return folder
