"""Images of the Docker runner: which one a name means, what builds left, and whether a build still serves.

A name that a user gives is expanded to its full form and compared with the names that the Engine has for the image.
An Engine also takes an id, and the beginning of one, for a name: by those, a job would run images of other users.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from docker.errors import APIError, NotFound

KEY, BASE, BUILD = "polyjob.key", "polyjob.base", "polyjob.build"
"""Labels of an image: what it was made for, the id of what it was made from, and the UUID of its build."""
REPOSITORY = "polyjob"
"""Where images of builds are tagged, each with its build's UUID: for people, and for garbage collection."""
HUB, NO_REGISTRY = "docker.io", "localhost"
"""The registry of a name without one, and what Podman writes before a name that belongs to none."""
IN_USE = 409
MISSING = "its image is not there any more"


def full_names(name: str) -> tuple[str, ...]:
    """Return the full forms of an image's name, `registry/path:tag` or `registry/path@digest`, the likeliest first."""
    path, at, digest = name.partition("@")
    first, slash, rest = path.partition("/")
    has_registry = bool(slash) and ("." in first or ":" in first or first == NO_REGISTRY)
    registries = (first.replace(f"index.{HUB}", HUB),) if has_registry else (HUB, NO_REGISTRY)
    path = rest if has_registry else path
    repository, _, tag = path.rpartition(":") if ":" in path else (path, "", "latest")
    ending = f"@{digest}" if at else f":{tag}"
    return tuple(
        f"{registry}/{'library/' if registry == HUB and '/' not in repository else ''}{repository}{ending}"
        for registry in registries
    )


def is_reserved(name: str) -> bool:
    """Return whether only polyjob itself gives images this name."""
    return any(
        full == own or full.startswith((f"{own}:", f"{own}@"))
        for full in full_names(name)
        for own in (f"{HUB}/library/{REPOSITORY}", f"{NO_REGISTRY}/{REPOSITORY}")
    )


def find(client: Any, name: str) -> dict[str, Any] | None:
    """Return what the Engine knows of the image that a user means by `name`, None if it has none. Raises APIError."""
    for full in full_names(name):
        image = inspected(client, full)
        if image is not None and exact_name(full, image):
            return image
    return None


def exact_name(name: str, image: Mapping[str, Any]) -> str | None:
    """Return the full form of `name` that the Engine has for this image; None if it is not called that."""
    names = [*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ())]
    there = {full_names(name)[0] for name in names}
    return next((full for full in full_names(name) if full in there), None)


def inspected(client: Any, image: str) -> dict[str, Any] | None:
    """Return what the Engine knows of an image by its id or full name, None if it is not there. Raises APIError."""
    try:
        found: dict[str, Any] = client.inspect_image(image)
        return found
    except NotFound:
        return None


# Artifacts.


def artifact_of(name: str, base: Mapping[str, Any], tag: str | None = None, image: str | None = None) -> str:
    """Return the artifact of a build from the base that is called `name`: the id of its image, and its tag for people.
    Without a tag it is the base itself."""
    return json.dumps({"v": 2, "image": tag or name, "id": image or base["Id"], "name": name, "base": base["Id"]})


def tag_of(artifact: str) -> str | None:
    """Return the tag that a build with this artifact has given its image; None if it made none. Pure."""
    fields = json.loads(artifact)
    return str(fields["image"]) if fields["image"] != fields["name"] else None


def image_of(client: Any, artifact: str) -> dict[str, Any] | None:
    """Return what the Engine knows of a build's image, None if it is not there. Raises APIError."""
    fields = json.loads(artifact)
    if "id" in fields:
        return inspected(client, fields["id"])
    return inspected(client, fields["image"]) if tag_of(artifact) else find(client, fields["image"])


def outdated(client: Any, artifact: str, image: Mapping[str, Any] | None) -> str | None:
    """Return why a build with this artifact has to be made again, None if it serves. `image` is what `image_of` found.
    A base that was removed says nothing against what was made from it. Raises APIError."""
    fields = json.loads(artifact)
    if image is None:
        return MISSING
    base = find(client, fields["name"])
    is_changed = base is not None and base["Id"] != fields["base"]
    return f"the image {fields['name']} is another one now" if is_changed else None


# What builds left.


def held_images(client: Any, labels: Mapping[str, str]) -> dict[str, int]:
    """Return tag → bytes of the images with these labels, without the bytes of the base. What an unfinished build left
    has no tag, and is named by its id."""
    sizes = {item["Id"]: int(item["Size"]) for item in client.images()}
    found = {}
    for item in client.images(filters={"label": [f"{name}={value}" for name, value in labels.items()]}):
        tags = [tag for name in item["RepoTags"] or () if (tag := _own_tag(name))]
        base = (item["Labels"] or {}).get(BASE)
        found[tags[0] if tags else item["Id"]] = max(0, int(item["Size"]) - sizes.get(base, 0))
    return found


def _own_tag(name: str) -> str | None:
    """`polyjob:…`, however the Engine writes it; None if it is another image's name."""
    return f"{REPOSITORY}:{name.rpartition(':')[2]}" if is_reserved(name) else None


def remove_image(client: Any, name: str) -> None:
    """Remove an image by its tag or id, unless a container uses it. Idempotent. Raises APIError."""
    try:
        client.remove_image(name)
    except APIError as error:
        if error.status_code != IN_USE and inspected(client, name) is not None:  # missing is told in several ways
            raise
