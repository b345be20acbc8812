"""Images of the Docker runner: resolve names, describe the artifacts of builds, and remove cached images.

The name that a user gives is expanded to its full form and compared with the image's names in the Engine. The Engine
would also accept an id or the beginning of one, and by those a job could run images of other users.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from docker.errors import APIError, NotFound

from runners.base import BASE_CHANGED
from runners.docker.engine import list_objects

KEY, BASE, BUILD = "polyjob.key", "polyjob.base", "polyjob.build"
"""Labels of a built image: the build's key, the id of the base image, and the build's UUID."""
REPOSITORY = "polyjob"
"""The repository of built images. Each is tagged with its build's UUID, for people and for garbage collection."""
DOCKER_HUB, NO_REGISTRY = "docker.io", "localhost"
"""The registry of a name without one, and Podman's prefix of a name without a registry."""
CONFLICT_STATUS = 409
IMAGE_MISSING = "its image does not exist any more"


def full_names(name: str) -> tuple[str, ...]:
    """Return the full forms of an image's name, `registry/path:tag` or `registry/path@digest`, the likeliest first."""
    path, at, digest = name.partition("@")
    first, slash, rest = path.partition("/")
    has_registry = bool(slash) and ("." in first or ":" in first or first == NO_REGISTRY)
    registries = (first.replace(f"index.{DOCKER_HUB}", DOCKER_HUB),) if has_registry else (DOCKER_HUB, NO_REGISTRY)
    path = rest if has_registry else path
    repository, _, tag = path.rpartition(":") if ":" in path else (path, "", "latest")
    ending = f"@{digest}" if at else f":{tag}"
    return tuple(
        f"{registry}/{'library/' if registry == DOCKER_HUB and '/' not in repository else ''}{repository}{ending}"
        for registry in registries
    )


def is_reserved(name: str) -> bool:
    """Return whether only polyjob itself may give an image this name."""
    return any(
        full == own or full.startswith((f"{own}:", f"{own}@"))
        for full in full_names(name)
        for own in (f"{DOCKER_HUB}/library/{REPOSITORY}", f"{NO_REGISTRY}/{REPOSITORY}")
    )


def find_image(client: Any, name: str) -> dict[str, Any] | None:
    """Return the Engine's description of the image that a user calls `name`; None if it has none. Raises APIError."""
    for full in full_names(name):
        image = inspect_image(client, full)
        if image is not None and exact_name(full, image):
            return image
    return None


def exact_name(name: str, image: Mapping[str, Any]) -> str | None:
    """Return the full form of `name` by which the Engine knows this image; None if it does not."""
    names = [*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ())]
    existing_names = {full_names(name)[0] for name in names}
    return next((full for full in full_names(name) if full in existing_names), None)


def inspect_image(client: Any, image: str) -> dict[str, Any] | None:
    """Return the Engine's description of an image by id or full name; None if it does not exist. Raises APIError."""
    try:
        description: dict[str, Any] = client.inspect_image(image)
        return description
    except NotFound:
        return None


# Artifacts.


def make_artifact(name: str, base: Mapping[str, Any], tag: str | None = None, image: str | None = None) -> str:
    """Return the artifact of a build on the base image `name`: the id and the tag of its image.

    Without `tag` and `image`, the artifact is the base image itself.
    """
    return json.dumps({"v": 2, "image": tag or name, "id": image or base["Id"], "name": name, "base": base["Id"]})


def image_tag(artifact: str) -> str | None:
    """Return the tag of the image of this artifact; None if the build made no image of its own. Pure."""
    fields = json.loads(artifact)
    return str(fields["image"]) if fields["image"] != fields["name"] else None


def find_artifact(client: Any, artifact: str) -> dict[str, Any] | None:
    """Return the Engine's description of an artifact's image; None if it does not exist. Raises APIError."""
    fields = json.loads(artifact)
    if "id" in fields:
        return inspect_image(client, fields["id"])
    return inspect_image(client, fields["image"]) if image_tag(artifact) else find_image(client, fields["image"])


def stale_reason(client: Any, artifact: str, image: Mapping[str, Any] | None) -> str | None:
    """Return why a build with this artifact has to run again; None if the artifact can be used.

    `image` is the result of `find_artifact`. A base image that was removed does not make the artifact stale. Raises
    APIError.
    """
    fields = json.loads(artifact)
    if image is None:
        return IMAGE_MISSING
    base = find_image(client, fields["name"])
    is_changed = base is not None and base["Id"] != fields["base"]
    return BASE_CHANGED.format(fields["name"]) if is_changed else None


# Cached images.


def cached_images(client: Any, labels: Mapping[str, str]) -> dict[str, int]:
    """Return the size of each image with these labels, by tag, in bytes and without its base image.

    Images of unfinished builds have no tag; their key is the id.
    """
    sizes = {item["Id"]: int(item["Size"]) for item in list_images(client)}
    images = {}
    for item in list_images(client, {"label": [f"{name}={value}" for name, value in labels.items()]}):
        tags = [tag for name in item["RepoTags"] or () if (tag := _own_tag(name))]
        base = (item["Labels"] or {}).get(BASE)
        images[tags[0] if tags else item["Id"]] = max(0, int(item["Size"]) - sizes.get(base, 0))
    return images


def list_images(client: Any, filters: Mapping[str, list[str]] | None = None) -> list[dict[str, Any]]:
    """Return the Engine's list of images. Raises APIError."""
    return list_objects(lambda: client.images(filters=filters))


def _own_tag(name: str) -> str | None:
    """Return the name in the form `polyjob:TAG`; None for the name of another image."""
    return f"{REPOSITORY}:{name.rpartition(':')[2]}" if is_reserved(name) else None


def remove_image(client: Any, name: str) -> None:
    """Remove an image by its tag or id, unless a container uses it. Idempotent. Raises APIError."""
    try:
        client.remove_image(name)
    except APIError as error:
        if (
            error.status_code != CONFLICT_STATUS and inspect_image(client, name) is not None
        ):  # Engines report a missing image in several ways
            raise
