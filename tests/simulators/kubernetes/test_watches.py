"""Lists and watches of the simulator: selectors, pages, resource versions, bookmarks, and expiry."""

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
    """Create five pods without processes, named a to e."""
    for name in "abcde":
        cluster.pretend(1, {"app": "test", "name": name, "half": "first" if name < "c" else "second"}, name=name)
    return list("abcde")


def names(page: Any) -> list[str]:
    return [item.metadata.name for item in page.items]


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
def test_label_selectors_select(api: Any, many: Any, selector: str, expected: str):
    assert names(api.list_namespaced_pod("default", label_selector=selector)) == list(expected)


def test_field_selectors_select(cluster: Any, api: Any, many: Any):
    cluster.end_pretended("b", 1)
    assert names(api.list_namespaced_pod("default", field_selector="metadata.name=b")) == ["b"]
    assert names(api.list_namespaced_pod("default", field_selector="status.phase=Failed")) == ["b"]
    assert names(api.list_namespaced_pod("default", field_selector="status.phase!=Running,status.phase!=Failed")) == []
    assert names(api.list_namespaced_pod("default", field_selector="spec.nodeName=node-1")) == many


@pytest.mark.parametrize("selector", ["a=b=c", "a in b", "(", "a b"])
def test_invalid_selector_is_a_bad_request(api: Any, selector: str):
    with pytest.raises(ApiException) as refusal_of:
        api.list_namespaced_pod("default", label_selector=selector)
    assert refusal_of.value.status == 400


def test_unsupported_field_is_a_bad_request(api: Any):
    with pytest.raises(ApiException) as refusal_of:
        api.list_namespaced_pod("default", field_selector="spec.volumes=x")
    assert (refusal_of.value.status, "field label not supported" in refusal_of.value.body) == (400, True)


def test_pages_show_one_moment(cluster: Any, api: Any, many: Any):
    first = api.list_namespaced_pod("default", limit=2)
    assert (names(first), first.metadata.remaining_item_count) == (["a", "b"], 3)
    cluster.delete("d")
    second = api.list_namespaced_pod("default", limit=2, _continue=first.metadata._continue)
    last = api.list_namespaced_pod("default", limit=2, _continue=second.metadata._continue)
    assert names(second) + names(last) == ["c", "d", "e"]
    assert last.metadata._continue is None
    assert {page.metadata.resource_version for page in (first, second, last)} == {first.metadata.resource_version}
    cluster.compact()
    with pytest.raises(ApiException) as refusal_of:
        api.list_namespaced_pod("default", limit=2, _continue=first.metadata._continue)
    assert (refusal_of.value.status, json.loads(refusal_of.value.body)["reason"]) == (410, "Expired")


class WatchThread:
    """A watch in a thread. `events` are its events so far, as (type, name)."""

    def __init__(self, api: Any, **options: Any) -> None:
        self.events: list[tuple[str, str]] = []
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
                self.events.append((event["type"], item["metadata"].get("name", "")))
        except (ApiException, HTTPError) as error:
            self.error = error

    def end(self) -> None:
        self.watch.stop()
        self.thread.join(10)


@pytest.fixture
def watching(cluster: Any, api: Any) -> Iterator[Any]:
    threads: list[WatchThread] = []

    def start(**options: Any) -> WatchThread:
        threads.append(WatchThread(api, **options))
        return threads[-1]

    yield start
    cluster.cut_watches()
    for thread in threads:
        thread.end()


def test_watch_shows_every_change(cluster: Any, api: Any, watching: Any):
    version = api.list_namespaced_pod("default").metadata.resource_version
    watch = watching(resource_version=version, label_selector="app=test")
    api.create_namespaced_pod("default", manifest(command="exit 1"))
    wait_for(lambda: watch.objects and watch.objects[-1]["status"]["phase"] == "Failed")
    api.delete_namespaced_pod("pod", "default")
    wait_for(lambda: ("DELETED", "pod") in watch.events)
    assert [kind for kind, _ in watch.events] == ["ADDED", *["MODIFIED"] * (len(watch.events) - 2), "DELETED"]
    versions = [int(item["metadata"]["resourceVersion"]) for item in watch.objects]
    assert versions == sorted(set(versions))
    assert "waiting" in watch.objects[0].get("status", {}).get("containerStatuses", [{"state": "waiting"}])[0]["state"]


def test_watch_without_a_version_begins_with_existing_objects(cluster: Any, many: Any, watching: Any):
    watch = watching()
    wait_for(lambda: len(watch.events) == 5)
    assert watch.events == [("ADDED", name) for name in many]


def test_object_leaving_a_selection_is_a_deletion(cluster: Any, api: Any, many: Any, watching: Any):
    watch = watching(label_selector="half=first", resource_version=str(cluster.store.version))
    api.patch_namespaced_pod("c", "default", {"metadata": {"labels": {"half": "first"}}})
    api.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"half": "second"}}})
    api.patch_namespaced_pod("e", "default", {"metadata": {"labels": {"x": "y"}}})
    wait_for(lambda: len(watch.events) == 2)
    assert watch.events == [("ADDED", "c"), ("DELETED", "a")]


def test_quiet_watch_gets_bookmarks(cluster: Any, api: Any, many: Any, watching: Any):
    version = api.list_namespaced_pod("default").metadata.resource_version
    watch = watching(resource_version=version, allow_watch_bookmarks=True, label_selector="app=nothing")
    api.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"x": "y"}}})
    wait_for(lambda: watch.events)
    assert watch.events[0] == ("BOOKMARK", "")
    assert watch.watch.resource_version == cluster.pod("a")["metadata"]["resourceVersion"]


def test_timed_out_watch_can_be_continued(cluster: Any, api: Any, many: Any, watching: Any):
    begin = time.monotonic()
    watch = watching(timeout_seconds=1, resource_version=str(cluster.store.version))
    watch.thread.join(10)
    assert 0.9 < time.monotonic() - begin < 5
    assert (watch.events, watch.error) == ([], None)
    cluster.delete("a", grace=0)
    watch = watching(resource_version=watch.watch.resource_version)
    wait_for(lambda: watch.events)
    assert watch.events == [("DELETED", "a")]


@pytest.mark.parametrize("abruptly", [False, True])
def test_cut_watches_end(cluster: Any, many: Any, watching: Any, abruptly: bool):
    watch = watching(resource_version=str(cluster.store.version))

    def has_ended() -> bool:
        cluster.cut_watches(abruptly=abruptly)  # of no effect as long as the watch has not begun
        watch.thread.join(0.1)
        return not watch.thread.is_alive()

    wait_for(has_ended)
    assert watch.events == []
    assert isinstance(watch.error, HTTPError) if abruptly else watch.error is None


def test_too_old_version_is_expired(cluster: Any, api: Any, many: Any, watching: Any):
    version = api.list_namespaced_pod("default").metadata.resource_version
    going_on = watching(resource_version=version)
    wait_for(lambda: cluster.counted().get("watch pods"))
    cluster.delete("a", grace=0)
    wait_for(lambda: going_on.events)
    cluster.compact()
    for watch in (going_on, watching(resource_version=version)):
        watch.thread.join(10)
        assert watch.error
        assert watch.error.status == 410
        assert watch.error.reason.startswith("Expired: too old resource version")
    fresh = watching(resource_version=api.list_namespaced_pod("default").metadata.resource_version)
    cluster.delete("b", grace=0)
    wait_for(lambda: fresh.events)
    assert fresh.events == [("DELETED", "b")]


def test_future_version_times_out(cluster: Any, api: Any):
    cluster.store.patience = 0.2
    with pytest.raises(ApiException) as refusal_of:
        api.list_namespaced_pod("default", resource_version=str(cluster.store.version + 1000))
    assert (refusal_of.value.status, "Too large resource version" in refusal_of.value.body) == (504, True)


def test_events_can_be_selected_and_watched(cluster: Any, api: Any):
    pod = api.create_namespaced_pod("default", manifest(command="true"))
    wait_for(lambda: cluster.pod("pod")["status"]["phase"] == "Succeeded")
    for selector in ("involvedObject.name=pod,type=Normal", f"involvedObject.uid={pod.metadata.uid}"):
        events = api.list_namespaced_event("default", field_selector=selector)
        assert {event.reason for event in events.items} >= {"Scheduled", "Started"}
    assert api.list_namespaced_event("default", field_selector="involvedObject.name=other").items == []
    stream = Watch().stream(api.list_namespaced_event, "default", timeout_seconds=1)
    assert {event["object"].involved_object.name for event in stream} == {"pod"}


def test_many_pretended_pods_are_listed_fast(cluster: Any, api: Any):
    cluster.pretend(1000, {"app": "test", "job": "{}"})
    response = api.list_namespaced_pod("default", label_selector="app=test", _preload_content=False)
    pods = json.loads(response.data)["items"]
    assert len({pod["metadata"]["labels"]["job"] for pod in pods}) == 1000
    assert {pod["status"]["phase"] for pod in pods} == {"Running"}
