"""The log of a job in a real browser, with JavaScript and without."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import Server

from .conftest import PHONE, Pages, sign_in

MILLION = 1_000_000
COLOURS = "\n".join(
    f"printf '\\033[{30 + code}mcolour\\033[{90 + code}mbright\\033[0;{40 + code}mground"
    f"\\033[{100 + code};37mboth\\033[0m\\n'"
    for code in range(8)
)
STYLES = "printf '\\033[2mdim\\033[0;7mreverse\\033[0;31;7mboth\\033[0;1;3;4;9mall\\033[0m\\n'"
MAX_ROWS_IN_PAGE = 120


class Gate:
    """Blocks a job until it is opened."""

    def __init__(self, folder: Path) -> None:
        self._names = (folder / f"gate-{number}" for number in itertools.count())
        self._path = next(self._names)

    def wait(self) -> str:
        """Return a command that waits until the gate is opened."""
        return f"while [ ! -e {self._path} ]; do sleep 0.05; done"

    def open(self) -> None:
        self._path.touch()
        self._path = next(self._names)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    new_gate = Gate(tmp_path)
    yield new_gate
    new_gate.open()


@pytest.fixture(scope="module")
def million(server: Server) -> int:
    """A job whose log has a million lines, each with its own number."""
    number = server.submit(f"seq {MILLION}")["id"]
    assert server.until_done(number)["last_status"] == "succeeded"
    return number


def log_of(number: int) -> str:
    return f"/root/quick-start/jobs/{number}/log"


def row(page: Page, number: int) -> Any:
    return page.locator(f"#L{number}")


def first_in_sight(page: Page) -> int:
    """Return the number of the first row that is fully visible."""
    return page.evaluate(
        """() => {
            const top = document.querySelector(".log-box").getBoundingClientRect().top;
            const rows = [...document.querySelectorAll(".row")];
            return Number(rows.find((row) => row.getBoundingClientRect().top >= top - 1).id.slice(1));
        }"""
    )


def settle(page: Page) -> None:
    """Wait until the rows in sight are fetched and drawn."""
    page.wait_for_timeout(300)
    expect(page.locator(".row > a:only-child")).to_have_count(0)


class TestFollowing:
    def test_log_is_followed_to_its_end(self, server: Server, page: Page, gate: Gate) -> None:
        number = server.submit(f"echo begun; printf 'no end'; {gate.wait()}; echo ' yet'; seq 3 300; exit 3")["id"]
        page.goto(log_of(number))
        expect(row(page, 1)).to_contain_text("begun")
        expect(row(page, 2)).to_have_text("2no end")
        expect(page.locator(".log-state")).to_have_text("Live: 2 lines")
        expect(page.locator(".head .status")).to_have_text("running")
        gate.open()
        expect(page.locator(".log-message")).to_have_text("The log is complete: failed.")
        expect(row(page, 300)).to_have_text("300300")
        expect(row(page, 300)).to_be_in_viewport()
        expect(page.locator(".log-state")).to_have_text("300 lines")
        expect(page.locator(".head .status")).to_have_text("failed")
        page.locator(".log-box").press("Home")
        expect(row(page, 2)).to_have_text("2no end yet")

    def test_log_is_followed_without_javascript(self, server: Server, plain_page: Page, gate: Gate) -> None:
        number = server.submit(f"echo begun; printf 'no end'; {gate.wait()}; echo ' yet'; echo last")["id"]
        plain_page.goto(log_of(number), wait_until="commit")
        expect(row(plain_page, 1)).to_contain_text("begun")
        expect(row(plain_page, 2)).to_contain_text("no end")
        expect(plain_page.locator("#end")).to_have_count(0)
        gate.open()
        expect(row(plain_page, 2)).to_contain_text("no end yet")
        expect(row(plain_page, 3)).to_contain_text("last")
        expect(plain_page.locator("#end")).to_have_text(
            "Succeeded. The command ended with exit code 0. Back to the job"
        )
        plain_page.get_by_role("link", name="Back to the job").click()
        plain_page.wait_for_url(f"**/jobs/{number}")

    def test_frame_stays_at_its_end(self, server: Server, new_page: Pages, gate: Gate) -> None:
        number = server.submit(f"seq 200; {gate.wait()}; seq 201 400")["id"]
        page = new_page()
        page.goto(log_of(number))
        page.evaluate("document.body.prepend(document.createElement('iframe'))")
        page.evaluate("(url) => { document.querySelector('iframe').src = url }", f"{log_of(number)}?frame=1")
        frame = page.frame_locator("iframe")
        expect(frame.locator("#L200")).to_be_in_viewport()
        gate.open()
        expect(frame.locator("#end")).to_be_in_viewport()
        expect(frame.locator("#end")).to_contain_text("Succeeded.")

    def test_scrolling_up_pauses_until_the_button_is_pressed(self, server: Server, page: Page, gate: Gate) -> None:
        number = server.submit(f"seq 500; {gate.wait()}; seq 501 900; sleep 60")["id"]
        page.goto(log_of(number))
        expect(row(page, 500)).to_be_in_viewport()
        jump = page.get_by_role("button", name="Jump to end")
        expect(jump).to_be_hidden()
        page.locator(".log-box").hover()
        page.mouse.wheel(0, -600)
        expect(page.locator(".log-state")).to_have_text("Live, paused: 500 lines")
        expect(jump).to_be_visible()
        settle(page)
        seen = first_in_sight(page)
        assert seen < 480
        gate.open()
        expect(page.locator(".log-state")).to_have_text("Live, paused: 900 lines")
        assert first_in_sight(page) == seen
        jump.click()
        expect(row(page, 900)).to_be_in_viewport()
        expect(page.locator(".log-state")).to_have_text("Live: 900 lines")
        expect(jump).to_be_hidden()
        server.call("POST", f"/api/v1/root/quick-start/jobs/{number}/stop")
        expect(page.locator(".log-message")).to_have_text("The log is complete: stopped.")

    def test_following_continues_after_a_server_restart(
        self, browser: Browser, new_page: Pages, tmp_path: Path, gate: Gate
    ) -> None:
        with Server(tmp_path / "another") as another:
            page = new_page(another, storage_state=sign_in(browser, another))
            number = another.submit(f"seq 100; {gate.wait()}; seq 101 200")["id"]
            page.goto(log_of(number))
            expect(row(page, 100)).to_be_in_viewport()
            assert another.interrupt() == 0
            expect(page.locator(".log-message")).to_have_text("The server does not respond; retrying.")
            gate.open()
            another.lines.clear()
            another.start()
            expect(page.locator(".log-message")).to_have_text("The log is complete: succeeded.")
            expect(row(page, 200)).to_be_in_viewport()
            for number in (150, 100, 1):
                page.evaluate("(line) => { location.hash = `#L${line}` }", number)
                expect(row(page, number)).to_have_text(f"{number}{number}")
            page.close()  # it may send another request while the server stops
            new_page.faults.clear()  # errors while the server was down


class TestContent:
    def test_content_is_escaped_and_coloured(self, server: Server, new_page: Pages) -> None:
        evil = '</div><script>document.title = "run"</script><img src=/x onerror=alert(1)>'
        number = server.submit(f"echo '{evil}'; printf '\\033[31mred \\377\\033[0m plain\\n 1%%\\r99%%\\n'")["id"]
        server.until_done(number)
        for options, query in (({}, ""), ({"java_script_enabled": False}, ""), ({}, "?frame=1")):
            page = new_page(**options)
            page.goto(log_of(number) + query)
            expect(row(page, 1)).to_have_text(f"1{evil}")
            expect(row(page, 2)).to_have_text("2red \ufffd plain")
            expect(row(page, 3)).to_have_text("399%")
            red = page.locator("#L2 .fg-1")
            expect(red).to_have_text("red \ufffd")
            expect(red).to_have_css("color", "rgb(179, 36, 28)")
            assert page.locator(".rows script, .rows img").count() == 0
            assert page.title() != "run"

    def test_very_long_line_is_cut(self, server: Server, page: Page) -> None:
        number = server.submit("echo first; head -c 10000000 /dev/zero | tr '\\0' x; echo; echo last")["id"]
        server.until_done(number)
        page.goto(log_of(number))
        expect(row(page, 3)).to_have_text("3last")
        expect(row(page, 2)).to_contain_text("… (cut; the line has 10,000,000 bytes)")
        assert page.evaluate("document.querySelector('#L2').textContent.length") < 20_000

    def test_long_log_works_without_javascript(self, server: Server, plain_page: Page) -> None:
        number = server.submit("seq -f '%099.0f' 100000; printf '\\377'")["id"]
        server.until_done(number)
        plain_page.goto(log_of(number))
        expect(row(plain_page, 100_001)).to_contain_text("\ufffd")
        expect(plain_page.locator("main")).to_contain_text("It starts at line 89,5")
        assert plain_page.locator(".row").count() < 12_000
        expect(plain_page.get_by_role("link", name="the full log")).to_be_visible()


class TestLongLog:
    def test_only_lines_in_sight_are_in_the_page(self, page: Page, million: int) -> None:
        page.add_init_script(
            "window.longest = 0; new PerformanceObserver((list) => { for (const task of list.getEntries())"
            " window.longest = Math.max(window.longest, task.duration) }).observe({type: 'longtask'})"
        )
        sizes: list[int] = []
        page.on(
            "response",
            lambda response: (
                sizes.append(int(response.headers.get("content-length", 0))) if "/lines" in response.url else 0
            ),
        )
        page.goto(log_of(million))
        expect(row(page, MILLION)).to_be_in_viewport()
        box = page.locator(".log-box")
        for key, seen in (("Home", 1), ("End", MILLION), ("Home", 1)):
            box.press(key)
            expect(row(page, seen)).to_be_in_viewport()
            expect(row(page, seen)).to_have_text(f"{seen}{seen}")
            assert page.locator(".row").count() < MAX_ROWS_IN_PAGE
        for _ in range(5):
            box.press("PageDown")
        settle(page)
        seen = first_in_sight(page)
        assert 50 < seen < 400
        for middle in (0.25, 0.5, 0.75):
            page.evaluate("(part) => { const box = document.querySelector('.log-box');"
                          " box.scrollTop = part * (box.scrollHeight - box.clientHeight) }", middle)  # fmt: skip
            settle(page)
            seen = first_in_sight(page)
            assert abs(seen - middle * MILLION) < MILLION / 100
            expect(row(page, seen)).to_have_text(f"{seen}{seen}")
            assert page.locator(".row").count() < MAX_ROWS_IN_PAGE
        page.locator(".log-box").hover()
        before = first_in_sight(page)
        page.mouse.wheel(0, 200)
        settle(page)
        assert before < first_in_sight(page) < before + 30, "a turn of the wheel goes as far as in a short log"
        assert sum(sizes) < 1 << 20
        assert page.evaluate("window.longest") < 1000

    def test_jump_costs_the_same_as_in_a_short_log(self, server: Server, new_page: Pages, million: int) -> None:
        short = server.submit("seq 1000")["id"]
        server.until_done(short)
        times = {}
        for number, last in ((short, 1000), (million, MILLION)):
            page = new_page()
            page.goto(f"{log_of(number)}#L{last // 2}")
            expect(row(page, last // 2)).to_have_text(f"{last // 2}{last // 2}")
            begun = time.monotonic()
            page.get_by_role("button", name="Jump to end").click()
            expect(row(page, last)).to_have_text(f"{last}{last}")
            times[last] = time.monotonic() - begun
        assert times[MILLION] < 10 * times[1000] + 1

    def test_link_opens_its_line(self, page: Page, million: int) -> None:
        page.goto(f"{log_of(million)}#L654321-L654323")
        expect(row(page, 654321)).to_be_in_viewport()
        expect(page.locator(".linked")).to_have_text([f"{number}{number}" for number in range(654321, 654324)])
        page.evaluate("location.hash = '#L7'")
        expect(page.locator(".linked")).to_have_text(["77"])
        expect(row(page, 7)).to_be_in_viewport()

    def test_search_finds_distant_lines(self, page: Page, million: int) -> None:
        page.goto(log_of(million))
        expect(row(page, MILLION)).to_be_in_viewport()
        find = page.get_by_role("searchbox", name="Search the log")
        find.fill("777777")
        find.press("Enter")
        expect(page.locator(".log-count")).to_have_text("1 of 1")
        expect(row(page, 777_777)).to_be_in_viewport()
        expect(page.locator(".row.here")).to_have_text(["777777777777"])
        find.fill("99999")
        find.press("Enter")
        expect(page.locator(".log-count")).to_have_text(re.compile(r"^\d+ of 19$"))


class TestSearch:
    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, server: Server) -> int:
        cmd = "for i in 1 2 3; do echo One $i; seq 100; printf 'an \\033[31mError\\033[0m\\n'; done"
        number = server.submit(cmd)["id"]
        server.until_done(number)
        return number

    def test_search_steps_forward_back_and_around(self, page: Page, found: int) -> None:
        page.goto(f"{log_of(found)}#L1")
        expect(row(page, 1)).to_be_in_viewport()
        find, count = page.get_by_role("searchbox"), page.locator(".log-count")
        find.fill("ERROR")
        expected = {1: 102, 2: 204, 3: 306}
        for key, which in (("Enter", 1), ("Enter", 2), ("Shift+Enter", 1), ("Shift+Enter", 3), ("Enter", 1)):
            find.press(key)
            expect(count).to_have_text(f"{which} of 3")
            expect(page.locator(".row.here")).to_have_attribute("id", f"L{expected[which]}")
            expect(page.locator(".row.here")).to_be_in_viewport()
        page.get_by_role("button", name="Next match").click()
        expect(count).to_have_text("2 of 3")
        page.get_by_role("button", name="Previous match").click()
        expect(count).to_have_text("1 of 3")
        assert page.evaluate("[...CSS.highlights.get('log-find')].map(String)")[0] == "Error"
        find.fill("")
        expect(count).to_have_text("")
        expect(page.locator(".row.here, .row.found")).to_have_count(0)

    def test_search_without_matches_is_reported(self, page: Page, found: int) -> None:
        page.goto(log_of(found))
        page.get_by_role("searchbox").fill("no such thing")
        page.get_by_role("searchbox").press("Enter")
        expect(page.locator(".log-count")).to_have_text("No matches.")

    def test_search_finds_new_lines(self, server: Server, page: Page, gate: Gate) -> None:
        number = server.submit(f"echo mark 1; {gate.wait()}; seq 100; echo mark 2; sleep 60")["id"]
        page.goto(log_of(number))
        expect(row(page, 1)).to_be_in_viewport()
        find = page.get_by_role("searchbox")
        find.fill("mark")
        find.press("Enter")
        expect(page.locator(".log-count")).to_have_text("1 of 1")
        gate.open()
        expect(page.locator(".log-state")).to_contain_text("102 lines")
        find.press("Enter")
        expect(page.locator(".log-count")).to_have_text("2 of 2")
        expect(row(page, 102)).to_be_in_viewport()
        server.call("POST", f"/api/v1/root/quick-start/jobs/{number}/stop")

    def test_numbers_are_links_to_lines_and_ranges(self, page: Page, found: int) -> None:
        page.goto(f"{log_of(found)}#L1")
        row(page, 3).locator("a").click()
        assert page.url.endswith("/log#L3")
        row(page, 5).locator("a").click(modifiers=["Shift"])
        assert page.url.endswith("/log#L3-L5")
        expect(page.locator(".linked")).to_have_count(3)


class TestAppearance:
    @pytest.fixture(scope="class")
    @classmethod
    def colourful(cls, server: Server) -> int:
        number = server.submit(f"{COLOURS}\n{STYLES}\necho found; echo found; echo plain")["id"]
        server.until_done(number)
        return number

    @pytest.mark.sample(every=2)
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_log_is_accessible(
        self,
        new_page: Pages,
        colourful: int,
        accessible: Callable[[Page], None],
        screenshot: Callable[..., None],
        scheme: str,
    ) -> None:
        for name, size in (("wide", {"width": 1280, "height": 800}), ("phone", PHONE)):
            page = new_page(color_scheme=scheme, viewport=size)
            page.goto(f"{log_of(colourful)}#L2-L6")
            expect(row(page, 9)).to_contain_text("reverse")
            page.get_by_role("searchbox").fill("found")
            page.get_by_role("searchbox").press("Enter")
            expect(page.locator(".row.found")).to_have_count(2)
            accessible(page)
            screenshot(page, f"log-{scheme}-{name}")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for query in ("?plain=1", "?frame=1"):
            page = new_page(color_scheme=scheme)
            page.goto(log_of(colourful) + query)
            expect(row(page, 9)).to_contain_text("reverse")
            accessible(page)

    def test_log_works_by_keyboard(self, page: Page, million: int) -> None:
        page.goto(log_of(million))
        expect(row(page, MILLION)).to_be_in_viewport()
        page.get_by_role("searchbox").focus()
        for name in ("Previous match", "Next match", "Log of seq"):
            page.keyboard.press("Tab")
            assert name in page.evaluate("document.activeElement.getAttribute('aria-label')")
        page.keyboard.press("PageUp")
        expect(page.get_by_role("button", name="Jump to end")).to_be_visible()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(row(page, MILLION)).to_be_in_viewport()
        expect(page.get_by_role("button", name="Jump to end")).to_be_hidden()


def test_log_script_and_style_are_small(page: Page, million: int) -> None:
    sizes = {}
    page.on("response", lambda response: sizes.update({response.url.rpartition("/")[2]: len(response.body())})
            if "/static/log." in response.url else None)  # fmt: skip
    page.goto(log_of(million))
    expect(row(page, MILLION)).to_be_in_viewport()
    assert sizes.keys() == {"log.js", "log.css"}
    assert sum(sizes.values()) < 15_000
