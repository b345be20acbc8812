"""Lists and watches in the stand-in: selectors, pages, resource versions, bookmarks, and what is too old."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes.client import ApiException
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError

from tests.simulators.kubernetes.conftest import manifest, wait_for


@pytest.fixture
def many(cluster: Any) -> list[str]:
    """Five pods without processes, named a to e."""
    for name in "abcde":
        cluster.pretend(1, {"app": "test", "name": name, "half": "first" if name < "c" else "second"}, name=name)
    return list("abcde")


def names(found: Any) -> list[str]:
    return [item.metadata.name for item in found.items]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("half=first", "ab"),
        ("half==first,name!=a", "b"),
        ("half", "abcde"),
        ("!half", ""),
        ("name in (a, d),half=second", "d"),
        ("name notin (a,d)", "bce"),
        ("other!=x", "abcde"),
        ("", "abcde"),
    ],
)
def test_label_selectors(api: Any, many: Any, selector: str, expected: str):
    assert names(api.list_namespaced_pod("default", label_selector=selector)) == list(expected)


def test_field_selectors(cluster: Any, api: Any, many: Any):
    cluster.end_pretended("b", 1)
    assert names(api.list_namespaced_pod("default", field_selector="metadata.name=b")) == ["b"]
    assert names(api.list_namespaced_pod("default", field_selector="status.phase=Failed")) == ["b"]
    assert names(api.list_namespaced_pod("default", field_selector="status.phase!=Running,status.phase!=Failed")) == []
    assert names(api.list_namespaced_pod("default", field_selector="spec.nodeName=node-1")) == many


@pytest.mark.parametrize("selector", ["a=b=c", "a in b", "(", "a b"])
def test_a_selector_that_cannot_be_read(api: Any, selector: str):
    with pytest.raises(ApiException) as refused:
        api.list_namespaced_pod("default", label_selector=selector)
    assert refused.value.status == 400


def test_a_field_that_cannot_be_selected_by(api: Any):
    with pytest.raises(ApiException) as refused:
        api.list_namespaced_pod("default", field_selector="spec.volumes=x")
    assert (refused.value.status, "field label not supported" in refused.value.body) == (400, True)


def test_pages_are_of_one_moment(cluster: Any, api: Any, many: Any):
    first = api.list_namespaced_pod("default", limit=2)
    assert (names(first), first.metadata.remaining_item_count) == (["a", "b"], 3)
    cluster.delete("d")
    second = api.list_namespaced_pod("default", limit=2, _continue=first.metadata._continue)
    last = api.list_namespaced_pod("default", limit=2, _continue=second.metadata._continue)
    assert names(second) + names(last) == ["c", "d", "e"]
    assert last.metadata._continue is None
    assert {page.metadata.resource_version for page in (first, second, last)} == {first.metadata.resource_version}
    cluster.compact()
    with pytest.raises(ApiException) as refused:
        api.list_namespaced_pod("default", limit=2, _continue=first.metadata._continue)
    assert (refused.value.status, json.loads(refused.value.body)["reason"]) == (410, "Expired")


class Watching:
    """A watch in a thread of its own, and what it was told."""

    def __init__(self, api: Any, **options: Any) -> None:
        self.told: list[tuple[str, str]] = []
        self.objects: list[dict[str, Any]] = []
        self.error: Any = None
        self.watch = Watch()
        self.options = {"timeout_seconds": 30, **options}
        self.api = api
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for event in self.watch.stream(self.api.list_namespaced_pod, "default", **self.options):
                item = event["raw_object"]
                self.objects.append(item)
                self.told.append((event["type"], item["metadata"].get("name", "")))
        except (ApiException, HTTPError) as error:
            self.error = error

    def end(self) -> None:
        self.watch.stop()
        self.thread.join(10)


@pytest.fixture
def watching(cluster: Any, api: Any) -> Iterator[Any]:
    made: list[Watching] = []

    def start(**options: Any) -> Watching:
        made.append(Watching(api, **options))
        return made[-1]

    yield start
    cluster.cut_watches()
    for one in made:
        one.end()


def test_a_watch_tells_what_happens(cluster: Any, api: Any, watching: Any):
    version = api.list_namespaced_pod("default").metadata.resource_version
    watch = watching(resource_version=version, label_selector="app=test")
    api.create_namespaced_pod("default", manifest(command="exit 1"))
    wait_for(lambda: watch.objects and watch.objects[-1]["status"]["phase"] == "Failed")
    api.delete_namespaced_pod("pod", "default")
    wait_for(lambda: ("DELETED", "pod") in watch.told)
    assert [kind for kind, _ in watch.told] == ["ADDED", *["MODIFIED"] * (len(watch.told) - 2), "DELETED"]
    versions = [int(item["metadata"]["resourceVersion"]) for item in watch.objects]
    assert versions == sorted(set(versions))
    assert "waiting" in watch.objects[0].get("status", {}).get("containerStatuses", [{"state": "waiting"}])[0]["state"]


def test_a_watch_without_a_version_begins_with_what_is_there(cluster: Any, many: Any, watching: Any):
    watch = watching()
    wait_for(lambda: len(watch.told) == 5)
    assert watch.told == [("ADDED", name) for name in many]


def test_an_object_that_leaves_a_selection_is_deleted_to_its_watch(cluster: Any, api: Any, many: Any, watching: Any):
    watch = watching(label_selector="half=first", resource_version=str(cluster.store.version))
    api.patch_namespaced_pod("c", "default", {"metadata": {"labels": {"half": "first"}}})
    api.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"half": "second"}}})
    api.patch_namespaced_pod("e", "default", {"metadata": {"labels": {"x": "y"}}})
    wait_for(lambda: len(watch.told) == 2)
    assert watch.told == [("ADDED", "c"), ("DELETED", "a")]


def test_bookmarks(cluster: Any, api: Any, many: Any, watching: Any):
    version = api.list_namespaced_pod("default").metadata.resource_version
    watch = watching(resource_version=version, allow_watch_bookmarks=True, label_selector="app=nothing")
    api.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"x": "y"}}})
    wait_for(lambda: watch.told)
    assert watch.told[0] == ("BOOKMARK", "")
    assert watch.watch.resource_version == cluster.pod("a")["metadata"]["resourceVersion"]


def test_a_watch_ends_at_its_time_and_goes_on_from_where_it_was(cluster: Any, api: Any, many: Any, watching: Any):
    begin = time.monotonic()
    watch = watching(timeout_seconds=1, resource_version=str(cluster.store.version))
    watch.thread.join(10)
    assert 0.9 < time.monotonic() - begin < 5
    assert (watch.told, watch.error) == ([], None)
    cluster.delete("a", grace=0)
    watch = watching(resource_version=watch.watch.resource_version)
    wait_for(lambda: watch.told)
    assert watch.told == [("DELETED", "a")]


def test_watches_that_are_cut(cluster: Any, many: Any, watching: Any):
    watch = watching(resource_version=str(cluster.store.version))
    wait_for(lambda: cluster.counted().get("watch pods"))
    cluster.cut_watches()
    watch.thread.join(10)
    assert (watch.told, watch.error) == ([], None)
    watch = watching(resource_version=str(cluster.store.version))
    wait_for(lambda: cluster.counted().get("watch pods") == 2)
    cluster.cut_watches(abruptly=True)
    watch.thread.join(10)
    assert isinstance(watch.error, HTTPError)


def test_what_is_too_old(cluster: Any, api: Any, many: Any, watching: Any):
    version = api.list_namespaced_pod("default").metadata.resource_version
    going_on = watching(resource_version=version)
    wait_for(lambda: cluster.counted().get("watch pods"))
    cluster.delete("a", grace=0)
    wait_for(lambda: going_on.told)
    cluster.compact()
    for watch in (going_on, watching(resource_version=version)):
        watch.thread.join(10)
        assert watch.error
        assert watch.error.status == 410
        assert watch.error.reason.startswith("Expired: too old resource version")
    fresh = watching(resource_version=api.list_namespaced_pod("default").metadata.resource_version)
    cluster.delete("b", grace=0)
    wait_for(lambda: fresh.told)
    assert fresh.told == [("DELETED", "b")]


def test_a_version_that_is_not_yet(cluster: Any, api: Any):
    cluster.store.patience = 0.2
    with pytest.raises(ApiException) as refused:
        api.list_namespaced_pod("default", resource_version=str(cluster.store.version + 1000))
    assert (refused.value.status, "Too large resource version" in refused.value.body) == (504, True)


def test_events_are_selected_and_watched(cluster: Any, api: Any):
    pod = api.create_namespaced_pod("default", manifest(command="true"))
    wait_for(lambda: cluster.pod("pod")["status"]["phase"] == "Succeeded")
    for selector in ("involvedObject.name=pod,type=Normal", f"involvedObject.uid={pod.metadata.uid}"):
        found = api.list_namespaced_event("default", field_selector=selector)
        assert {event.reason for event in found.items} >= {"Scheduled", "Started"}
    assert api.list_namespaced_event("default", field_selector="involvedObject.name=other").items == []
    stream = Watch().stream(api.list_namespaced_event, "default", timeout_seconds=1)
    assert {event["object"].involved_object.name for event in stream} == {"pod"}


def test_many_pretended_pods_are_listed_fast(cluster: Any, api: Any):
    cluster.pretend(1000, {"app": "test", "job": "{}"})
    found = api.list_namespaced_pod("default", label_selector="app=test", _preload_content=False)
    pods = json.loads(found.data)["items"]
    assert len({pod["metadata"]["labels"]["job"] for pod in pods}) == 1000
    assert {pod["status"]["phase"] for pod in pods} == {"Running"}
