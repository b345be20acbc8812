"""Folders, tarballs and sealed outputs."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from pathlib import Path

from polyjob.storage.pack import MEMBER_SIZE

JOB = "a" * 32


OTHER = "b" * 32


BIG = 1 << 40


def sealed(store, pieces=None, uuid=JOB, limit=BIG):
    store.make_job_folder(uuid)
    store.seal(uuid, "7", limit, pieces)
    return store.outputs(uuid)


def read(outputs, path):
    size, pieces = outputs.open_file(path)
    data = b"".join(pieces)
    assert len(data) == size
    return data


def unpack(archive: Path, to: Path) -> Path:
    """Unpack with GNU tar and return the one folder in the tarball."""
    to.mkdir()
    subprocess.run(["tar", "xzpf", archive, "-C", to], check=True, capture_output=True)
    assert os.listdir(to) == ["7"]
    return to / "7"


def picture(folder: Path) -> dict[bytes, tuple]:
    """Return the content of a folder with modes, and each hard link by the first of its names."""
    entries: dict[bytes, tuple] = {}
    inodes: dict[int, bytes] = {}
    for where, folders, files in os.walk(os.fsencode(folder)):
        for name in sorted(folders + files):
            path = os.path.join(where, name)
            status, key = os.lstat(path), os.path.relpath(path, os.fsencode(folder))
            if os.path.islink(path):
                entries[key] = ("link", os.readlink(path))
            elif os.path.isdir(path):
                entries[key] = ("folder", status.st_mode & ~0o6000, int(status.st_mtime))
            else:
                first = inodes.setdefault(status.st_ino, key) if status.st_nlink > 1 else None
                mode, content = status.st_mode & ~0o6000, Path(os.fsdecode(path)).read_bytes()
                entries[key] = ("file", mode, int(status.st_mtime), content, first)
    return entries


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def fill(folder: Path) -> None:
    """A folder with an entry of each kind that can be kept."""
    (folder / "plain").write_bytes(b"text\n")
    (folder / "plain").chmod(0o640)
    (folder / "run").write_bytes(b"#!/bin/sh\n")
    (folder / "run").chmod(0o4755)
    (folder / "none").touch()
    (folder / "empty").mkdir()
    (folder / "empty").chmod(0o1777)
    (folder / "absolute").symlink_to("/etc/passwd")
    (folder / "dangling").symlink_to("x" * 300)
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9 \xff\n'\"\\")).write_bytes(b"latin")
    (folder / "emoji 😀").mkdir()
    (folder / "emoji 😀" / "ö").write_bytes(b"o")
    deep = folder / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    (deep / ("f" * 250)).write_bytes(b"long")
    (deep / "also long").hardlink_to(deep / ("f" * 250))
    (folder / "zz hard").hardlink_to(folder / "plain")
    with (folder / "sparse").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"island")
    (folder / "random").write_bytes(noise(MEMBER_SIZE + 77))
    for number in range(120):
        (folder / f"many-{number:03}").write_bytes(noise(20000, number))
    (folder / "locked").mkdir()
    (folder / "locked" / "inside").write_bytes(b"in")
    os.utime(folder / "locked" / "inside", (0, 1234567890))
    (folder / "locked" / "inside").chmod(0o400)
    (folder / "locked").chmod(0o555)


def chunks(data: bytes, size: int = 7001):
    for start in range(0, len(data), size):
        yield data[start : start + size]


def tar(*members, format=tarfile.PAX_FORMAT):
    """Return a tar of (name, content) pairs and TarInfo objects."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for member in members:
            info, content = (
                (member, b"") if isinstance(member, tarfile.TarInfo) else (tarfile.TarInfo(member[0]), member[1])
            )
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def info(name, type, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = type, link, 0o755
    return member
