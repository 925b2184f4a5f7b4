"""The page for people, in a browser, on a real daemon: what it shows, what it lets one do, and to whom."""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from controller.journal.journal import SqliteJournal
from controller.views import outdated_text
from tests.real.browser import Served, artefacts, chromium, looking, needs_chromium
from tests.real.conftest import made
from tests.real.rig import REPOSITORY

pytestmark = [pytest.mark.real, needs_chromium]

MARKUP = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
SIZES = {"three": 3, "hundred": 100, "thousand": 1000}
ROUTES = ("/", "/pools/three", "/tasks", "/events", "/nowhere")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """Pools of 3, 100 and 1,000 made-up machines that are taken now and then, and one real one."""
    with made() as rig:
        served = Served(rig, preemptions_per_hour=2)
        for name, nodes in SIZES.items():
            served.pool(name, nodes, budget={"per_day": 1.5 * nodes})
        served.pool("small", 2)
        rig.up("real", 1)
        for name, nodes in SIZES.items():
            served.until_whole(name, nodes * 9 // 10)
        for number in range(9):
            argv = ("sim-sleep", str(number * 40), str(number % 2), "9")
            rig.task(pool="three", name=f"fold {number}", argv=argv)
        yield served


async def forgotten(journal: Path) -> None:
    """Forget all that is over."""
    async with SqliteJournal(journal) as opened:
        await opened.prune(time.time() + 60, events_max=1_000_000)


def kept(page: Page, name: str) -> None:
    """A picture of what is seen now, for people to look at."""
    page.screenshot(path=artefacts() / f"page-{name}.png")


def whole(page: Page, *wanted: str) -> None:
    """Wait until these are there, and the stream is up."""
    expect(page.locator("#connection")).to_have_text("Live")
    for one in wanted:
        expect(page.locator(one).first).to_be_visible()


def again(page: Page) -> None:
    """Do not wait until the page tries by itself."""
    page.locator("#connection").click()
    expect(page.locator("#connection")).to_have_text("Live")


def in_colours(page: Page, look: str) -> None:
    """Light or dark, as the system says."""
    page.emulate_media(color_scheme="dark" if look == "dark" else "light")


def no_violations(page: Page, where: str) -> None:
    """Nothing that axe finds hinders anybody."""
    found = Axe().run(page).response["violations"]
    told = [(one["id"], one["help"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found]
    assert told == [], where


def nothing_is_cut(page: Page) -> None:
    """On a phone a table's rows are cards: each cell is within the window, and its heading beside it."""
    cells = page.locator("table.tasks [role=cell]:visible")
    assert cells.count() > len(page.locator("table.tasks tbody tr").all())
    right = page.evaluate("innerWidth")
    for cell in cells.all():
        box = cell.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= right, cell.inner_text()
    fits = "[...document.querySelectorAll('.scroll')].every(one => one.scrollWidth <= one.clientWidth)"
    assert page.evaluate(fits)
    assert page.get_by_role("cell", name=re.compile("^Node")).count() > 0


def test_screenshots(served: Served, browser: Browser) -> None:
    """Kept for people to look at; what can be asserted of a picture is that nothing sticks out."""
    views = [(f"/pools/{name}", f"page-{nodes}", ".cell", nodes) for name, nodes in SIZES.items()]
    views.append(("/", "page-pools", ".card", 0))

    def seen(page: Page, picture: str, shown: str, nodes: int) -> None:
        whole(page, shown, ".event", ".spark" if not nodes else ".chart canvas")
        expect(page.locator("#node-grid [role=option]")).to_have_count(nodes)
        page.screenshot(path=artefacts() / f"{picture}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0

    with looking(browser, still=True) as tab:
        tab.page.goto(served.at(views[0][0]))
        for route, picture, shown, nodes in views:
            tab.page.evaluate("route => { location.hash = route }", route)
            for look in ("light", "dark"):
                in_colours(tab.page, look)
                seen(tab.page, f"{picture}-{look}", shown, nodes)
    with looking(browser, phone=True, still=True) as tab:
        tab.page.goto(served.at("/"))
        seen(tab.page, "page-pools-phone", ".card", 0)
        tab.page.evaluate("location.hash = '/pools/thousand'")
        seen(tab.page, "page-1000-phone", ".cell", 1000)
        tab.page.evaluate("location.hash = '/pools/three'")
        seen(tab.page, "page-3-phone", "table.tasks", 3)
        nothing_is_cut(tab.page)
        tab.page.evaluate("location.hash = '/tasks'")
        whole(tab.page, "table.tasks")
        nothing_is_cut(tab.page)
        kept(tab.page, "tasks-phone")


def test_nothing_hinders_anybody(served: Served, browser: Browser) -> None:
    with looking(browser, still=True) as tab:
        page = tab.page

        def fine(where: str) -> None:
            for look in ("light", "dark"):
                in_colours(page, look)
                no_violations(page, f"{where}, {look}")

        page.goto(served.at("/"))
        whole(page, ".card")
        for route in (*ROUTES, "/pools/hundred", "/pools/no-such-pool"):
            page.evaluate("route => { location.hash = route }", route)
            expect(page.locator("#main h1, #main .empty, #main .problem").first).to_be_attached()
            if route.startswith("/pools/") and "no-such" not in route:
                whole(page, ".cell", ".story", ".chart canvas")
            fine(route)
        expect(page.get_by_role("alert")).to_contain_text("no pool")
        kept(page, "error")
        page.evaluate("location.hash = '/tasks'")
        page.locator("td.name a").first.click()
        whole(page, ".story", "ol.log")
        fine("a task")
        page.evaluate("location.hash = '/pools/three'")
        page.get_by_role("button", name="Resize", exact=True).click()
        expect(page.get_by_role("dialog")).to_be_visible()
        fine("a dialog")


def test_by_keyboard_alone(served: Served, browser: Browser) -> None:
    with looking(browser, still=True) as tab:
        page = tab.page
        page.goto(served.at("/"))
        whole(page, ".card")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        link = page.get_by_role("heading").get_by_role("link", name="hundred")
        for _ in range(12):
            page.keyboard.press("Tab")
            if link.evaluate("one => one === document.activeElement"):
                break
        page.keyboard.press("Enter")
        whole(page, ".cell")
        grid = page.get_by_role("listbox")
        for _ in range(20):
            page.keyboard.press("Tab")
            if grid.evaluate("one => one === document.activeElement"):
                break
        expect(grid).to_be_focused()
        page.keyboard.press("Home")
        head = page.locator("aside.node h3")
        expect(head).to_have_text("Node 0")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(head).to_have_text("Node 2")
        expect(grid).to_have_attribute("aria-activedescendant", "node-2")
        page.keyboard.press("ArrowDown")
        below = int(head.inner_text().removeprefix("Node "))
        assert below > 5, "a row further"
        page.keyboard.press("ArrowUp")
        expect(head).to_have_text("Node 2")
        page.keyboard.press("End")
        expect(head).to_have_text("Node 99")
        assert re.search("spot|on_demand", page.locator("aside.node").inner_text())


def test_colours_are_chosen_and_kept(served: Served, browser: Browser) -> None:
    with looking(browser, dark=True) as tab:
        tab.page.goto(served.at("/"))
        whole(tab.page, ".card")
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = tab.page.evaluate(ground)
        tab.page.get_by_role("button", name="Colours: as the system").click()
        expect(tab.page.get_by_role("button", name="Colours: light")).to_be_visible()
        light = tab.page.evaluate(ground)
        assert light != dark
        tab.page.reload()
        whole(tab.page, ".card")
        assert tab.page.evaluate(ground) == light


def test_markup_is_text(served: Served, browser: Browser) -> None:
    """Names, output and errors of whoever submits are shown as they are."""
    shell = f"echo {shlex.quote(MARKUP)}; printf '\\033[31mred\\033[0m plain\\n' >&2; exit 3"
    with looking(browser) as tab:
        page = tab.page
        page.goto(served.at("/"))
        whole(page, ".card")
        task = served.rig.task(shell, pool="real", name=MARKUP)
        expect(page.get_by_text(MARKUP).first).to_be_visible()  # until machines of others are the news
        assert page.locator("main img, main .line b").count() == 0
        served.rig.done(task)
        page.evaluate("task => { location.hash = `/task/${task}` }", task)
        whole(page, "ol.log li span")
        expect(page.get_by_role("heading", level=1)).to_have_text(MARKUP)
        expect(page.locator("ol.log")).to_contain_text("<b>bold</b>")
        expect(page.locator("ol.log .err")).to_have_text(re.compile("red plain$"))
        for route in ("/tasks?pool=real", "/pools/real", "/events?pool=real&level=all"):
            page.evaluate("route => { location.hash = route }", route)
            expect(page.get_by_text(MARKUP).first).to_be_visible()
            assert page.locator("main img, main .line b").count() == 0
        assert "owned" not in page.title()
        page.evaluate("location.hash = '/pools/%3Cimg%20src=x%20onerror=alert(1)%3E'")
        expect(page.get_by_role("heading", level=1)).to_have_text("<img src=x onerror=alert(1)>")
        expect(page.get_by_role("alert").first).to_contain_text("no pool")


def test_only_who_may_acts(served: Served, browser: Browser) -> None:
    with looking(browser) as tab:
        page = tab.page
        page.goto(served.url)
        field = page.get_by_label("Token", exact=True)
        expect(field).to_be_focused()
        field.fill("not-the-right-token")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_be_visible()
        no_violations(page, "login")
        kept(page, "login")
        page.get_by_label("Token", exact=True).fill(served.token("watcher", "read"))
        page.keyboard.press("Enter")
        whole(page, ".card")
        expect(page.locator("#identity")).to_contain_text("read only")
        page.evaluate("location.hash = '/pools/three'")
        whole(page, ".cell")
        for name in ("Resize", "Drain", "Run a command", "Pause"):
            expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
        assert "token" not in page.url
        page.goto(served.at("/pools/three", served.token("operator", "submit")))
        expect(page.get_by_role("button", name="Resize", exact=True)).to_be_visible()
        assert "token" not in page.url
        assert "token" not in page.evaluate("JSON.stringify(history.state) + location.href")
        page.reload()  # it is kept for this tab
        expect(page.get_by_role("button", name="Resize", exact=True)).to_be_visible()


def test_what_is_asked_for_is_done_and_told(served: Served, browser: Browser) -> None:
    served.until_whole("small", 2)
    with looking(browser) as tab:
        page = tab.page
        page.goto(served.at("/pools/small", served.token("doer", "submit")))
        page.get_by_role("button", name="Resize", exact=True).click()
        nodes = page.get_by_role("spinbutton", name="Nodes")
        page.route("**/v1/messages", lambda route: route.abort(), times=1)
        nodes.fill("4")
        page.get_by_role("dialog").get_by_role("button", name="Resize", exact=True).click()
        expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("does not answer")
        kept(page, "dialog-error")
        page.get_by_role("dialog").get_by_role("button", name="Resize", exact=True).click()
        expect(page.locator(".toast .chip").first).to_have_text("done", timeout=30_000)
        expect(page.locator("#node-grid [role=option]")).to_have_count(4)
        kept(page, "toast")
        page.get_by_role("button", name="Pause", exact=True).click()
        kept(page, "dialog-pause")
        page.get_by_role("dialog").get_by_role("button", name="Pause", exact=True).click()
        expect(page.get_by_role("button", name="Resume", exact=True)).to_be_visible()
        expect(page.locator(".how")).to_have_text(re.compile("^Paused by .* since 20"))
        kept(page, "paused")
        page.get_by_role("button", name="Resume", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Resume", exact=True).click()
        expect(page.locator(".how")).to_be_hidden()
        expect(page.get_by_role("button", name="Pause", exact=True)).to_be_visible()
        page.locator("#node-0").click()
        page.get_by_role("button", name="Drain", exact=True).click()
        page.get_by_role("dialog").get_by_label("Then the node is").select_option("remove")
        kept(page, "dialog-drain")
        page.get_by_role("dialog").get_by_role("button", name="Drain", exact=True).click()
        expect(page.locator(".toast", has_text="Drain node 0").locator(".chip")).to_have_text(
            "done", timeout=30_000
        )
        served.rig.down("small")
        expect(page.locator("header.title .chip")).to_have_text("destroyed")
        expect(page.get_by_role("button", name="Resize", exact=True)).to_have_count(0)


def test_a_command_and_its_output_live(served: Served, browser: Browser) -> None:
    with looking(browser) as tab:
        page = tab.page
        page.goto(served.at("/pools/real"))
        expect(page.locator(".nothing").first).to_have_text(re.compile("^Nothing was taken"))
        page.get_by_role("button", name="Run a command", exact=True).click()
        page.get_by_role("textbox", name="Command").fill(
            "for i in 1 2 3; do echo step $i; done; echo 'that was odd' >&2; sleep 600"
        )
        page.get_by_role("textbox", name="Name").fill("steps")
        page.get_by_role("dialog").get_by_role("button", name="Run", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("steps")
        expect(page.locator("ol.log")).to_contain_text("step 3")
        expect(page.locator("ol.log .err")).to_contain_text("odd")
        expect(page.locator(".logkey")).to_have_text("written to stderr")
        expect(page.locator(".facts")).to_contain_text("do echo step $i")
        expect(page.locator("header.title .chip")).to_have_text("running")
        kept(page, "task")
        in_colours(page, "dark")
        kept(page, "task-dark")
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Stop it").click()
        expect(page.locator("header.title .chip")).to_have_text("terminated")
        expect(page.locator(".earlier")).to_be_hidden()
        expect(page.locator(".story").first).to_be_visible()


def test_of_much_output_the_end_is_shown_and_that_is_said(served: Served, browser: Browser) -> None:
    task = served.rig.task("seq 1500", pool="real")
    served.rig.done(task)
    with looking(browser) as tab:
        tab.page.goto(served.at(f"/task/{task}"))
        expect(tab.page.locator("ol.log li").last).to_contain_text("1500")
        expect(tab.page.locator(".earlier")).to_have_text(
            f"Only the end is shown; everpool logs {task} has all."
        )


def test_the_port_of_the_dashboard_asks_for_its_own_address(served: Served, browser: Browser) -> None:
    """Nobody has to make a token there: that would not be let in."""
    command = [
        sys.executable,
        "-m",
        "controller",
        "--socket",
        str(served.rig.state / "api.sock"),
        "dashboard",
    ]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as behind,
        looking(browser) as tab,
    ):
        assert behind.stdout is not None
        printed = behind.stdout.readline().strip()
        try:
            page = tab.page
            page.goto(printed.partition("#")[0])
            expect(page.get_by_role("heading", name="Open the printed address")).to_be_visible()
            expect(page.locator("form")).not_to_contain_text("token create")
            kept(page, "login-port")
            field = page.get_by_label("Token", exact=True)
            field.fill(served.at("", "another"))
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_contain_text("everpool dashboard")
            field.fill(printed)
            page.keyboard.press("Enter")
            whole(page, ".card")
            page.locator("#identity").click()
            expect(page.get_by_role("heading", name="Open the printed address")).to_be_visible()
        finally:
            behind.terminate()


def test_machines_of_an_old_spec_are_told(served: Served, browser: Browser) -> None:
    def older(route: Route) -> None:
        answer = route.fetch()
        found = answer.json()
        for pool in found if isinstance(found, list) else [found]:
            if pool["name"] == "three":
                pool |= {"outdated": 2, "reason": outdated_text(2, "")}
        route.fulfill(response=answer, json=found)

    with looking(browser, still=True) as tab:
        tab.page.route("**/v1/pools**", older)
        tab.page.goto(served.at("/"))
        whole(tab.page, ".card")
        said = re.compile("^2 machines of an older spec, being replaced")
        expect(tab.page.locator(".reason:visible").filter(has_text="older spec")).to_have_text(said)
        tab.page.evaluate("location.hash = '/pools/three'")
        expect(tab.page.locator(".how")).to_have_text(said)
        expect(tab.page.locator(".how")).to_have_class("how t-ready")
        tab.page.unroute_all(behavior="wait")


def test_trouble_stands_first_and_a_roll_that_waits_is_a_warning(served: Served, browser: Browser) -> None:
    said = outdated_text(2, "no machine is to be had")
    changes: dict[str, dict[str, object]] = {
        "three": {"status": "degraded"},
        "thousand": {"status": "parked"},
        "hundred": {"outdated": 2, "reason": said},
    }

    def changed(route: Route) -> None:
        answer = route.fetch()
        found = answer.json()
        if isinstance(found, list):  # another test may have ended this one
            found = [pool for pool in found if pool["name"] != "small"]
        for pool in found if isinstance(found, list) else [found]:
            if "name" in pool:
                pool |= {"status": "ready"} | changes.get(pool["name"], {})
        route.fulfill(response=answer, json=found)

    with looking(browser, still=True) as tab:
        names = tab.page.locator(".card h2")
        tab.page.route("**/v1/pools**", changed)
        tab.page.goto(served.at("/"))
        whole(tab.page, ".card")
        expect(names).to_have_text(["thousand", "three", "hundred", "real"])
        expect(tab.page.locator(".reason.warn")).to_have_text(re.compile("no machine is to be had"))
        link = tab.page.get_by_role("link", name="real", exact=True)
        link.focus()
        changes["real"] = {"status": "short"}  # its card moves, and who is at it stays there
        expect(names).to_have_text(["thousand", "real", "three", "hundred"])
        expect(link).to_be_focused()
        tab.page.evaluate("location.hash = '/pools/hundred'")
        expect(tab.page.locator(".how")).to_have_class("how t-replacing")
        tab.page.unroute_all(behavior="wait")


def test_on_a_phone_what_is_tapped_is_told_in_sight(served: Served, browser: Browser) -> None:
    with looking(browser, phone=True, still=True) as tab:
        page = tab.page
        page.goto(served.at("/pools/hundred"))
        whole(page, ".cell")
        page.locator("#node-7").tap()
        head = page.locator("aside.node h3")
        expect(head).to_have_text("Node 7")
        expect(head).to_be_in_viewport()
        kept(page, "tapped-phone")
        page.locator("#node-7").tap()
        expect(head).not_to_be_in_viewport()
        page.locator("#node-90").tap()
        expect(head).to_have_text("Node 90")
        cell, panel = page.locator("#node-90").bounding_box(), page.locator("aside.node").bounding_box()
        assert cell is not None and panel is not None and cell["y"] + cell["height"] < panel["y"]


def test_a_daemon_that_comes_back_is_followed_again(browser: Browser) -> None:
    """Also when what happened in between is forgotten by then: that is said, and the rest is shown."""
    with made() as rig:
        served = Served(rig)
        rig.up("real", 1)
        with looking(browser) as tab:
            page = tab.page
            page.goto(served.at("/pools/real"))
            whole(page, ".cell")
            page.route("**/v1/**", lambda route: route.abort())
            rig.kill()
            expect(page.locator("#connection")).to_contain_text("Not connected")
            rig.start()
            rig.done(rig.task("true", pool="real", name="never seen"))
            rig.stop()
            with ThreadPoolExecutor() as other:  # playwright has a loop in this one
                other.submit(anyio.run, forgotten, rig.state / "journal.sqlite3").result()
            rig.start()
            page.unroute("**/v1/**")
            again(page)
            expect(page.locator(".toast")).to_contain_text("forgotten")
            whole(page, ".cell")
            expect(page.locator("table.tasks")).to_have_count(0)
            kept(page, "toast-forgotten")
        with looking(browser) as tab:  # and who comes now hears nothing of it
            page = tab.page
            gone: list[str] = []
            page.on("response", lambda answer: gone.append(answer.url) if answer.status == 410 else None)
            page.goto(served.at("/pools/real"))
            whole(page, ".cell", ".chart canvas")
            rig.kill()
            expect(page.locator("#connection")).to_contain_text("Not connected")
            rig.start()
            rig.done(rig.task("echo back", pool="real", name="after the restart"))
            again(page)
            expect(page.locator("table.tasks")).to_contain_text("after the restart")
            expect(page.locator(".events")).to_contain_text("after the restart done")
            expect(page.locator(".figure .num").first).to_have_text("1")
            expect(page.locator(".toast")).to_have_count(0)
            assert not [url for url in gone if "follow" in url]


def test_a_restored_backup_is_told(served: Served, browser: Browser) -> None:
    """Its newest event is older than what was seen: then the daemon answers so."""
    with looking(browser) as tab:
        page = tab.page
        page.goto(served.at("/pools/three"))
        whole(page, ".cell", ".event")
        cursor = str(served.rig.client.events(tail=1)[0].seq - 1)
        hidden = "is => Object.defineProperty(document, 'hidden', { value: is, configurable: true })"
        page.evaluate(f"({hidden})(true); document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#connection")).to_have_text("Paused")
        page.route(
            "**/v1/events?*follow*",
            lambda route: route.fulfill(status=410, headers={"X-Everpool-Cursor": cursor}, json={}),
            times=1,
        )
        page.evaluate(f"({hidden})(false); document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator(".toast")).to_contain_text("backup")
        whole(page, ".cell", ".event")


def test_waiting_leaves_no_listener_behind(served: Served, browser: Browser) -> None:
    with looking(browser) as tab:
        tab.page.goto(served.url)
        count = """async () => {
            const { Live } = await import("/web/live.js");
            let there = 0;
            const signal = { addEventListener() { there += 1; }, removeEventListener() { there -= 1; } };
            const live = new Live({});
            await live._sleep(1, signal);
            const second = live._sleep(60_000, signal);
            live.retry();
            await second;
            return there;
        }"""
        assert tab.page.evaluate(count) == 0
