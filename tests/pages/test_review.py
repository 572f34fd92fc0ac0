"""Review in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from gateway.conftest import CAPTION
from gateway.reviewing import (
    GOOD,
    LOOP,
    job_of,
    journal_rows,
    latest,
    make_job,
    picture,
    row,
    write_journal,
)
from playwright.async_api import Browser, Page, expect

from .conftest import DESKTOP, PHONE

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


async def test_a_glitched_caption_is_found_edited_and_the_edit_undone(
    tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    await tab.goto(page_at)
    await expect(tab.locator("#count")).to_have_text("5 captions")
    await tab.get_by_label("Outcome").select_option("glitched")
    await expect(tab.locator("#count")).to_have_text("2 captions")
    await tab.get_by_role("option", name="bad 1.png").click()
    await tab.get_by_label("Caption", exact=True).fill("A red square on white.")
    await tab.get_by_role("button", name="Save").click()
    await expect(tab.locator("#say")).to_have_text("Saved.")

    file = pictures / "bad 1.txt"
    assert file.read_text() == "A red square on white."
    assert latest(pictures, "bad 1.png")["caption"] == "A red square on white."
    await expect(tab.get_by_role("option", name="bad 1.png: ok · by hand")).to_be_visible()

    await tab.reload()
    await tab.get_by_role("button", name="Undo").click()
    await expect(tab.locator("#say")).to_have_text("Undone: bad 1.png.")
    assert not file.exists()
    assert latest(pictures, "bad 1.png")["outcome"] == "glitched"


async def test_a_caption_is_asked_again_and_the_answer_kept(
    tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    await tab.goto(page_at)
    await tab.get_by_label("Caption type to ask").select_option("straightforward")
    await tab.get_by_role("button", name="Ask").click()
    await expect(tab.locator("#offer-text")).to_have_text(CAPTION)
    assert not (pictures / "bad 0.txt").exists()
    await tab.get_by_role("button", name="Keep this one").click()
    await expect(tab.locator("#chip")).to_have_text("ok · by hand")

    assert (pictures / "bad 0.txt").read_text() == CAPTION
    assert latest(pictures, "bad 0.png")["review"]["what"] == "again"


async def test_everything_goes_by_keys_alone(tab: Page, page_at: str, pictures: Path) -> None:
    make_job(pictures, good=2)
    press = tab.keyboard.press
    await tab.goto(page_at)
    caption = tab.get_by_label("Caption", exact=True)
    await expect(caption).to_have_value(LOOP)

    await press("a")
    await expect(tab.locator("#say")).to_have_text("Accepted.")
    await press("j")
    await expect(tab.locator("#name")).to_have_text("bad 1.png")
    await press("e")
    await expect(caption).to_be_focused()
    await press("Control+a")
    await tab.keyboard.type("By keys.")
    await press("Control+Enter")
    await expect(tab.locator("#say")).to_have_text("Saved.")
    assert (pictures / "bad 1.txt").read_text() == "By keys."
    await press("Control+z")
    await expect(tab.locator("#say")).to_have_text("Undone: bad 1.png.")
    await press("u")
    await expect(tab.locator("#say")).to_have_text("Undone: bad 0.png.")
    assert not (pictures / "bad 0.txt").exists()

    await press("r")
    await expect(tab.locator("#offer")).to_be_visible()
    await press("Escape")
    await expect(tab.locator("#offer")).to_be_hidden()
    await press("r")
    await expect(tab.locator("#offer")).to_be_visible()
    await press("y")
    await expect(tab.locator("#say")).to_have_text("The new answer is kept.")
    await press("/")
    await tab.keyboard.type("good 1")
    await expect(tab.locator("#count")).to_have_text("1 caption")
    await press("Escape")
    await press("?")
    await expect(tab.get_by_role("dialog")).to_be_visible()
    await press("Escape")
    await expect(tab.get_by_role("dialog")).to_be_hidden()
    await expect(tab.locator("#name")).to_have_text("good 1.png")


async def test_keys_may_come_faster_than_answers(tab: Page, page_at: str, pictures: Path) -> None:
    make_job(pictures, good=1, bad=6)
    await tab.goto(page_at)
    await expect(tab.get_by_label("Caption", exact=True)).to_have_value(LOOP)
    for _ in range(6):
        await tab.keyboard.press("a")
        await tab.keyboard.press("j")
    await expect(tab.get_by_role("option", name="ok · by hand")).to_have_count(6)

    assert len(list(pictures.glob("bad *.txt"))) == 6


async def test_escape_leaves_the_text_as_it_was(tab: Page, page_at: str, pictures: Path) -> None:
    make_job(pictures)
    await tab.goto(page_at)
    await tab.keyboard.press("e")
    await tab.keyboard.type("never said")
    await tab.keyboard.press("Escape")

    await expect(tab.get_by_label("Caption", exact=True)).to_have_value(LOOP)
    assert len(list(journal_rows(pictures))) == 5


async def test_words_that_somebody_else_wrote_meanwhile_are_shown_before_anything_is_lost(
    window: Any, tab: Page, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    quiet = await window.new_page()  # a refused edit is an error in the browser's own log
    await quiet.goto(f"{page_at}?text=good+0")
    caption = quiet.get_by_label("Caption", exact=True)
    await expect(caption).to_have_value(GOOD)
    (pictures / "good 0.txt").write_text("Somebody else's.")
    await caption.fill("Mine.")
    await quiet.get_by_role("button", name="Save").click()
    await expect(quiet.locator("#conflict-text")).to_have_text("Somebody else's.")
    assert (pictures / "good 0.txt").read_text() == "Somebody else's."
    await quiet.get_by_role("button", name="Write mine").click()
    await expect(quiet.locator("#say")).to_have_text("Saved.")

    assert (pictures / "good 0.txt").read_text() == "Mine."


async def test_only_what_is_in_sight_is_loaded_of_many(
    tab: Page, page_at: str, pictures: Path
) -> None:
    names = [f"{number:05}.png" for number in range(20_000)]
    picture(pictures / names[-1])
    settings = job_of(pictures, names[-1:])
    write_journal(pictures, [row(name, settings) for name in names])
    asked: list[str] = []
    tab.on("request", lambda sent: asked.append(sent.url))
    await tab.goto(page_at)
    await expect(tab.locator("#count")).to_have_text("20,000 captions")
    await tab.keyboard.press("End")
    await expect(tab.locator("#name")).to_have_text(names[-1])
    await expect(tab.locator("#large")).to_have_js_property("naturalWidth", 64)

    assert await tab.locator(".tile").count() < 60
    assert sum("/items?" in url for url in asked) <= 4
    assert sum("/picture/" in url for url in asked) < 120


async def test_on_a_phone_a_caption_is_opened_edited_and_closed(
    browser: Browser, page_at: str, pictures: Path
) -> None:
    make_job(pictures)
    phone = await browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    page = await phone.new_page()
    await page.goto(page_at)
    await page.get_by_role("option", name="bad 0.png").tap()
    caption = page.get_by_label("Caption", exact=True)
    await caption.fill("From a phone.")
    await page.get_by_role("button", name="Next").tap()
    await expect(page.locator("#name")).to_have_text("bad 1.png")
    await page.get_by_role("button", name="Back").tap()
    await expect(caption).to_be_hidden()
    await expect(page.get_by_role("option", name="bad 0.png: ok · by hand")).to_be_visible()
    wide = await page.evaluate("document.documentElement.scrollWidth")
    await phone.close()

    assert (pictures / "bad 0.txt").read_text() == "From a phone."
    assert wide <= PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_axe_finds_no_serious_fault(
    browser: Browser, page_at: str, pictures: Path, scheme: Any, size: Any
) -> None:
    make_job(pictures)
    context = await browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    page = await context.new_page()
    await page.goto(page_at)
    await page.get_by_role("option", name="bad 0.png").click()
    await page.get_by_role("button", name="Ask").click()
    await expect(page.locator("#offer")).to_be_visible()
    await page.add_script_tag(content=AXE)
    found = await page.evaluate("axe.run()")
    await context.close()

    bad = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    told = [(each["id"], [node["html"] for node in each["nodes"]]) for each in bad]
    assert told == []
    assert found["passes"]


async def test_the_shelf_has_every_folder(tab: Page, page_at: str, pictures: Path) -> None:
    make_job(pictures / "one")
    make_job(pictures / "two")
    await tab.goto(page_at)
    await tab.get_by_role("link", name="/two").click()
    await expect(tab.locator("#count")).to_have_text("5 captions")
    await tab.get_by_role("link", name="All folders").click()
    await expect(tab.get_by_role("heading", name="Review")).to_be_visible()
