"""Names of images, and artifacts of builds."""

from __future__ import annotations

from typing import Any

import pytest
from docker.errors import APIError, ImageNotFound

from runners.docker.images import (
    cached_images,
    exact_name,
    find_image,
    full_names,
    image_tag,
    is_reserved,
    make_artifact,
)

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3", "docker.io/library/python:3"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/python:3", "docker.io/library/python:3"),
        ("index.docker.io/team/app:1", "docker.io/team/app:1"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("registry.example.org/a/b:1", "registry.example.org/a/b:1"),
        (f"python@{DIGEST}", f"docker.io/library/python@{DIGEST}"),
        (f"python:3@{DIGEST}", f"docker.io/library/python@{DIGEST}"),
        ("0f", "docker.io/library/0f:latest"),
    ],
)
def test_names_are_expanded(name: str, full: str) -> None:
    assert full_names(name)[0] == full


@pytest.mark.parametrize(
    "name",
    [
        "polyjob",
        "polyjob:abc",
        f"polyjob@{DIGEST}",
        "docker.io/library/polyjob:1",
        "library/polyjob",
        "localhost/polyjob:x",
    ],
)
def test_names_of_builds_are_reserved(name: str) -> None:
    assert is_reserved(name)


@pytest.mark.parametrize("name", ["polyjob-test", "team/polyjob", "localhost:5000/polyjob:1", "python", "polyjobs:1"])
def test_other_names_are_not_reserved(name: str) -> None:
    assert not is_reserved(name)


class Engine:
    """An Engine that also accepts the beginning of an id as a name."""

    image = {"Id": DIGEST, "RepoTags": ["python:3", "localhost/mine:1"], "RepoDigests": [f"python@{DIGEST}"]}

    def inspect_image(self, name: str) -> dict[str, Any]:
        names = {name for tag in self.image["RepoTags"] for name in full_names(tag)}
        if name.startswith(("docker.io/library/a", "aa")) or name in names or name.endswith(DIGEST):
            return self.image
        raise ImageNotFound("no such image")


@pytest.mark.parametrize("name", ["python:3", "docker.io/library/python:3", f"python@{DIGEST}", "mine:1"])
def test_image_is_found_by_its_own_names(name: str) -> None:
    assert find_image(Engine(), name) == Engine.image
    assert exact_name(name, Engine.image) in {
        *full_names("python:3"),
        f"docker.io/library/python@{DIGEST}",
        "localhost/mine:1",
    }


@pytest.mark.parametrize("name", ["a", "aa", "aaaaaaaaaaaa", f"other@{DIGEST}", "python:4"])
def test_image_is_not_found_by_its_id(name: str) -> None:
    assert find_image(Engine(), name) is None


def test_artifact_has_a_tag_only_for_built_images() -> None:
    base = {"Id": DIGEST}
    assert image_tag(make_artifact("python:3", base)) is None
    assert image_tag(make_artifact("python:3", base, "polyjob:1", "sha256:b")) == "polyjob:1"
    assert image_tag('{"v": 1, "image": "polyjob:k-b-i", "name": "python:3", "base": "sha256:a"}') == "polyjob:k-b-i"


class BusyPodman:
    """Podman, while other clients remove images: some of its lists fail."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def images(self, filters: object = None) -> list[dict[str, Any]]:
        if self.failures:
            self.failures -= 1
            raise APIError("500 Server Error", explanation="locating image with ID 0f: image not known")
        return [{"Id": DIGEST, "Size": 7, "RepoTags": ["polyjob:abc"], "Labels": None}]


def test_list_is_repeated_while_podman_removes_images() -> None:
    assert cached_images(BusyPodman(3), {"polyjob.installation": "i"}) == {"polyjob:abc": 7}


def test_repeated_failure_of_the_list_is_raised() -> None:
    with pytest.raises(APIError, match="image not known"):
        cached_images(BusyPodman(100), {"polyjob.installation": "i"})
