"""The Docker Engine of the tests, and the images that they create in it from Debian's busybox."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")
PODMAN = os.environ.get("POLYJOB_TEST_PODMAN", "unix:///tmp/polyjob-podman.sock")
"""Address of Podman's service, with which the Docker runner is tested, too."""


def connect(host: str | None = None) -> Any:
    """Return a client of the Engine at `host`, else of the one that the environment names."""
    import docker

    named = {"base_url": host} if host else docker.utils.kwargs_from_env()
    return docker.APIClient(version="auto", timeout=60, **named)


def engine_answers(host: str | None = None) -> bool:
    try:
        import docker

        from runners.docker.engine import DEFAULT_SOCKET, check_socket

        named = host or docker.utils.kwargs_from_env().get("base_url") or DEFAULT_SOCKET
        check_socket(named)  # a client that cannot connect would leak its socket
        return bool(connect(host).ping()) and BUSYBOX.exists()
    except Exception:
        return False


def make_images(host: str | None = None) -> None:
    """Create the images of the tests. Idempotent: an image with the right content is kept, because builds use it."""
    client = connect(host)
    with (Path(tempfile.gettempdir()) / "polyjob-test-images.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, content in (("polyjob-test", _root()), ("polyjob-test-empty", _empty())):
            digest = hashlib.sha256(content).hexdigest()
            if not client.images(name=f"{name}:latest", filters={"label": f"content={digest}"}):
                client.import_image_from_data(
                    content, repository=name, tag="latest", changes=[f"LABEL content={digest}"]
                )


def remove_engine_objects(installation: str, host: str | None = None) -> None:
    """Remove the images, the volume and the network of an installation. Its containers must be removed before."""
    import docker

    from runners.docker.images import list_images

    client = connect(host)
    filters = {"label": [f"polyjob.installation={installation}"]}
    for image in sorted(list_images(client, filters), key=lambda image: -image["Created"]):
        with contextlib.suppress(docker.errors.APIError):  # it was a layer of one of the others
            client.remove_image(image["Id"], force=True)
    for volume in client.volumes(filters=filters)["Volumes"] or ():
        client.remove_volume(volume["Name"])
    for network in client.networks(filters=filters):
        client.remove_network(network["Id"])
    client.close()


def _root() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for folder in ("bin", "tmp", "code", "etc"):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o777
            archive.addfile(member)
        data = BUSYBOX.read_bytes()
        member = tarfile.TarInfo("bin/busybox")
        member.size, member.mode = len(data), 0o755
        archive.addfile(member, io.BytesIO(data))
        for name in (
            "sh",
            "echo",
            "sleep",
            "cat",
            "true",
            "seq",
            "head",
            "yes",
            "mkdir",
            "setsid",
            "printf",
            "ls",
            "env",
        ):
            member = tarfile.TarInfo(f"bin/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(member)
    return out.getvalue()


def _empty() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("nothing"))
    return out.getvalue()
