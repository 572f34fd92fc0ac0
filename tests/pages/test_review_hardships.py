"""Review where much happens at once: typing while something is saved, other tabs, Back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from gateway.conftest import CAPTION
from gateway.reviewing import (
    GOOD,
    LOOP,
    glitched,
    job_of,
    latest,
    make_job,
    picture,
    row,
    write_journal,
)
from playwright.async_api import Browser, Locator, Page, Route, ViewportSize, expect

from joycap_vllm.job.journal import Journal

from .conftest import DESKTOP, PHONE

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's


class Held:
    """Requests to a route that wait until they may go on."""

    def __init__(self) -> None:
        self.arrived, self.free = asyncio.Event(), asyncio.Event()

    async def __call__(self, route: Route) -> None:
        self.arrived.set()
        await self.free.wait()
        await route.continue_()


async def holding(tab: Page, page_at: str, door: str) -> tuple[Held, Locator]:
    """Opens Review where all requests to a door are held; with the box of the caption."""
    held = Held()
    await tab.route(f"**/{door}", held)
    await tab.goto(page_at)
    return held, tab.get_by_label("Caption", exact=True)


async def test_words_typed_while_others_are_saved_stay_and_are_saved_too(
    tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    held, caption = await holding(tab, page_at, "edit")
    await caption.fill("First.")
    await tab.get_by_role("button", name="Save").click()
    await held.arrived.wait()
    await caption.focus()
    await tab.keyboard.press("End")
    await tab.keyboard.type(" Second.")
    await tab.keyboard.press("Control+Enter")
    async with tab.expect_response(lambda r: "Second" in (r.request.post_data or "")):
        held.free.set()
    await expect(caption).to_have_value("First. Second.")

    assert (pictures / "bad 0.txt").read_text() == "First. Second."


async def test_words_typed_while_others_are_saved_stay_though_nobody_saves_them(
    tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    held, caption = await holding(tab, page_at, "edit")
    await caption.fill("First.")
    await tab.get_by_role("button", name="Save").click()
    await held.arrived.wait()
    await caption.fill("Second.")
    async with tab.expect_response("**/edit"):
        held.free.set()
    await expect(tab.locator("#say")).to_have_text("Saved.")

    await expect(caption).to_have_value("Second.")
    assert (pictures / "bad 0.txt").read_text() == "First."
    await tab.keyboard.press("Escape")
    await expect(caption).to_have_value("First.")


async def test_write_mine_writes_what_the_box_says_by_then(
    open_tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    await open_tab.goto(f"{page_at}?text=good+0")
    caption = open_tab.get_by_label("Caption", exact=True)
    await expect(caption).to_have_value(GOOD)
    (pictures / "good 0.txt").write_text("Somebody else's.")
    await caption.fill("Mine.")
    await open_tab.get_by_role("button", name="Save").click()
    await expect(open_tab.locator("#conflict-text")).to_have_text("Somebody else's.")
    await caption.fill("Mine, and better.")
    await open_tab.get_by_role("button", name="Write mine").click()
    await expect(open_tab.locator("#say")).to_have_text("Saved.")

    assert (pictures / "good 0.txt").read_text() == "Mine, and better."


async def test_an_answer_kept_while_words_were_typed_loses_neither(
    tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    held, caption = await holding(tab, page_at, "again")
    await tab.get_by_role("button", name="Ask").click()
    await held.arrived.wait()
    await caption.fill("My own words.")
    held.free.set()
    await expect(tab.locator("#offer-text")).to_have_text(CAPTION)
    await expect(caption).to_be_focused()
    await expect(caption).to_have_value("My own words.")
    await tab.get_by_role("button", name="Keep this one").click()
    await expect(tab.locator("#say")).to_have_text("The new answer is kept.")
    await expect(caption).to_have_value(CAPTION)
    assert (pictures / "bad 0.txt").read_text() == CAPTION
    await tab.get_by_role("button", name="Undo").click()

    await expect(caption).to_have_value("My own words.")
    assert (pictures / "bad 0.txt").read_text() == "My own words."


async def test_an_answer_waits_where_it_was_asked_for(
    tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    held = Held()
    await tab.route("**/again", held)
    await tab.goto(page_at)
    await expect(tab.get_by_label("Caption", exact=True)).to_have_value(LOOP)
    await tab.keyboard.press("r")
    await held.arrived.wait()
    await tab.keyboard.press("j")
    held.free.set()
    await expect(tab.locator("#say")).to_have_text("Bad 0.png: there is a new answer.")
    await expect(tab.locator("#offer")).to_be_hidden()
    await tab.keyboard.press("k")

    await expect(tab.locator("#offer-text")).to_have_text(CAPTION)


async def test_a_second_tab_may_undo_what_the_first_one_does_not_know_of(
    open_tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    other = await open_tab.context.new_page()
    news = Held()
    await open_tab.route("**/status", news)  # however long the steps below take
    for page in (open_tab, other):
        await page.goto(page_at)
    await open_tab.get_by_label("Caption", exact=True).fill("One.")
    await open_tab.get_by_role("button", name="Save").click()
    await expect(open_tab.locator("#say")).to_have_text("Saved.")
    await other.keyboard.press("j")
    await other.get_by_label("Caption", exact=True).fill("Two.")
    await other.keyboard.press("Control+Enter")
    await expect(other.locator("#say")).to_have_text("Saved.")
    await open_tab.get_by_role("button", name="Undo").click()
    await expect(open_tab.locator("#say")).to_contain_text("take back that of bad 1.png")
    assert (pictures / "bad 1.txt").read_text() == "Two."
    await open_tab.get_by_role("button", name="Undo").click()
    await expect(open_tab.locator("#say")).to_have_text("Undone: bad 1.png.")
    await open_tab.get_by_role("button", name="Undo").click()
    await expect(open_tab.locator("#say")).to_have_text("Undone: bad 0.png.")
    news.free.set()

    assert list(pictures.glob("bad *.txt")) == []


async def test_what_a_job_did_meanwhile_can_be_looked_at(
    tab: Page, page_at: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_job(pictures)
    monkeypatch.setattr("joycap_vllm.gateway.review.session._FRESH", 0.0)
    await tab.goto(page_at)
    await expect(tab.locator(".tile").filter(has_text="repetition")).to_have_count(2)
    look = tab.get_by_role("button", name="Look again")
    await expect(look).to_be_hidden()
    async with Journal(settings.state):
        await expect(look).to_be_visible(timeout=20_000)
        write_journal(pictures, [row("bad 0.png", settings, t=time.time())], number=2)
        await look.click()
        await expect(tab.locator(".tile").filter(has_text="repetition")).to_have_count(1)
    await expect(tab.locator("#busy")).to_be_hidden(timeout=20_000)
    await look.click()

    await expect(look).to_be_hidden()


async def test_undo_may_be_pressed_faster_than_it_is_done(
    tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures, bad=3)
    await tab.goto(page_at)
    await expect(tab.get_by_label("Caption", exact=True)).to_have_value(LOOP)
    for key in "ajajauuu":
        await tab.keyboard.press(key)

    await expect(tab.locator("#say")).to_have_text("Undone: bad 0.png.")
    await expect(tab.locator("#undo")).to_be_disabled()
    await expect(tab.locator(".tile").filter(has_text="repetition")).to_have_count(3)
    assert list(pictures.glob("bad *.txt")) == []
    assert latest(pictures, "bad 0.png")["outcome"] == "glitched"


async def test_keys_right_after_a_save_are_no_words_of_the_caption(
    tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    held, caption = await holding(tab, page_at, "edit")
    await expect(caption).to_have_value(LOOP)
    await tab.keyboard.press("e")
    await caption.fill("Typed by hand.")
    for key in ("Control+Enter", "j", "k", "u"):
        await tab.keyboard.press(key)
    await held.arrived.wait()
    await expect(caption).to_have_value("Typed by hand.")
    held.free.set()

    await expect(tab.locator("#say")).to_have_text("Undone: bad 0.png.")
    await expect(caption).to_have_value(LOOP)


async def test_words_that_could_not_be_saved_are_led_back_to(
    open_tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    await open_tab.route("**/edit", lambda route: route.abort())
    await open_tab.goto(page_at)
    caption = open_tab.get_by_label("Caption", exact=True)
    await caption.fill("Not lost.")
    await open_tab.get_by_role("button", name="Next").click()
    await expect(open_tab.locator("#name")).to_have_text("bad 1.png")
    await expect(open_tab.locator("#say")).to_contain_text("The gateway cannot be reached.")
    await open_tab.get_by_label("Outcome").select_option("ok")
    await expect(open_tab.locator("#count")).to_have_text("3 captions")
    await open_tab.unroute("**/edit")
    await open_tab.get_by_role("button", name="1 not saved").click()
    await expect(caption).to_have_value("Not lost.")
    await open_tab.get_by_role("button", name="Save").click()
    await expect(open_tab.locator("#say")).to_have_text("Saved.")

    await expect(open_tab.locator("#left")).to_be_hidden()
    assert (pictures / "bad 0.txt").read_text() == "Not lost."


async def test_words_outlive_the_session_that_they_were_typed_in(
    open_tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    await open_tab.goto(page_at)
    for door in ("edit", "status"):
        await open_tab.route(f"**/{door}", lambda route: route.fulfill(status=401, body="{}"))
    caption = open_tab.get_by_label("Caption", exact=True)
    await caption.fill("Not lost.")
    await open_tab.get_by_role("button", name="Save").click()
    await expect(open_tab.locator("#say")).to_have_text("You are logged out.")
    login = open_tab.get_by_role("link", name="Log in")
    await expect(login).to_have_attribute("target", "_blank")
    await open_tab.unroute_all()
    await open_tab.get_by_role("button", name="Save").click()
    await expect(open_tab.locator("#say")).to_have_text("Saved.")

    await expect(login).to_be_hidden()
    assert (pictures / "bad 0.txt").read_text() == "Not lost."


async def test_who_has_typed_nothing_is_led_to_the_login(
    open_tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    await open_tab.goto(page_at)
    await open_tab.route("**/login**", lambda route: route.fulfill(status=200, body="log in"))
    await open_tab.route("**/view?**", lambda route: route.fulfill(status=401, body="{}"))
    await open_tab.get_by_label("Search").fill("good")

    await open_tab.wait_for_url("**/login?next=%2Freview%2F*")


async def test_after_a_search_the_grid_lies_beside_the_detail(
    tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures, good=12)
    await tab.goto(page_at)
    await tab.get_by_label("Search").fill("good")
    await expect(tab.locator("#count")).to_have_text("12 captions")
    await expect(tab.locator("#name")).to_have_text("good 0.png")
    pane = await tab.locator("#pane").bounding_box()
    boxes = [await tile.bounding_box() for tile in await tab.locator(".tile").all()]

    assert pane is not None
    assert max(box["x"] + box["width"] for box in boxes if box) <= pane["x"] + pane["width"]


async def test_on_a_phone_back_closes_the_caption_and_then_leaves(
    browser: Browser, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    phone = await browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    page = await phone.new_page()
    await page.goto(page_at.removesuffix("/review"))
    await page.goto(page_at)
    for _ in range(2):
        await page.get_by_role("option", name="bad 0.png").tap()
        await expect(page.locator("#detail")).to_be_visible()
        await page.get_by_label("Caption", exact=True).fill("From a phone.")
        await page.go_back()
        await expect(page.locator("#detail")).to_be_hidden()
        await expect(page.get_by_role("option", name="bad 0.png")).to_be_visible()
    await page.get_by_role("option", name="bad 0.png").tap()
    await page.get_by_role("button", name="Back").tap()
    await expect(page.locator("#detail")).to_be_hidden()
    assert (pictures / "bad 0.txt").read_text() == "From a phone."
    await page.go_back()
    await expect(page).to_have_title("Studio · joycap")
    await phone.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_very_long_names_and_texts_leave_the_controls_in_sight(
    tab: Page, page_at: str, pictures: Path, size: ViewportSize
) -> None:
    name = "a_very_long_name_that_never_ends_" * 6 + ".png"
    picture(pictures / name)
    settings = job_of(pictures, [name])
    write_journal(pictures, [glitched(name, settings, caption="x" * 2000, why="y" * 2000)])
    (pictures / name).with_suffix(".txt").write_text("z" * 2000)
    await tab.set_viewport_size(size)
    await tab.goto(page_at)
    await tab.locator(".tile").click()
    await expect(tab.locator("#caption")).to_have_value("z" * 2000)
    box = await tab.get_by_role("button", name="Accept").bounding_box()

    assert box is not None
    assert box["y"] + box["height"] <= size["height"]
    assert await tab.evaluate("document.documentElement.scrollWidth") == size["width"]


async def test_a_search_that_finds_nothing_leads_back_to_all(
    tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    await tab.goto(f"{page_at}?outcome=glitched&text=nothing+like+it")
    await expect(tab.locator("#empty")).to_contain_text("No caption is like that.")
    await tab.get_by_role("button", name="Show all captions").click()

    await expect(tab.locator("#count")).to_have_text("5 captions")
    await expect(tab.locator("#empty")).to_be_hidden()
