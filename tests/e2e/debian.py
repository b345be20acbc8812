"""A base image made of Debian's own packages: just what Python needs to run and to make virtualenvs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "base-files", "bash", "coreutils", "dash", "grep", "libacl1", "libattr1", "libbz2-1.0", "libc6", "libcrypt1",
    "libdb5.3", "libexpat1", "libffi8", "libgcc-s1", "libgmp10", "liblzma5", "libncursesw6", "libnsl2", "libpcre2-8-0",
    "libpython3.11-minimal", "libpython3.11-stdlib", "libreadline8", "libselinux1", "libsqlite3-0", "libssl3",
    "libtinfo6", "libtirpc3", "libuuid1", "media-types", "python3-distutils", "python3-pip-whl",
    "python3-setuptools-whl", "python3.11", "python3.11-minimal", "python3.11-venv", "zlib1g", "ca-certificates",
    "tzdata",
)  # fmt: skip


def can_be_made() -> bool:
    return all(map(shutil.which, ("apt-get", "dpkg-deb"))) and Path("/etc/debian_version").exists()


def make_base(client: Any, folder: Path, tag: str) -> None:
    """Downloads the packages of Debian 12 and imports them as one image. Raises CalledProcessError."""
    packages, root = folder / "packages", folder / "root"
    packages.mkdir()
    root.mkdir()
    subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=packages, check=True)
    for link in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / link).mkdir(parents=True)
        (root / link).symlink_to(f"usr/{link}")
    for package in sorted(packages.iterdir()):
        piped = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
        subprocess.run(["tar", "--extract", "--keep-directory-symlink", "-C", root], stdin=piped.stdout, check=True)
        assert piped.stdout is not None
        piped.stdout.close()
        assert piped.wait() == 0
    (root / "usr/bin/python3").unlink(missing_ok=True)
    (root / "usr/bin/python3").symlink_to("python3.11")
    (root / "usr/bin/sh").unlink(missing_ok=True)
    (root / "usr/bin/sh").symlink_to("dash")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\n")
    for name in ("tmp", "root", "proc", "sys", "dev", "run", "var/tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    archive = folder / "root.tar"
    subprocess.run(["tar", "--create", "--file", archive, "-C", root, "."], check=True)
    client.import_image_from_file(str(archive), repository=tag.partition(":")[0], tag=tag.partition(":")[2])
