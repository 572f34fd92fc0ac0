"""The studio when pictures are asked about again, and when its page is left."""

from __future__ import annotations

import asyncio

import pytest
from gateway.conftest import CAPTION, Upstream
from playwright.async_api import Dialog, Page, expect

from pages.studios import LOOP, choose, picture

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),  # the browser's
    pytest.mark.usefixtures("studio"),  # first of all, so that it outlives the tab
]
OTHER = "A blue square stands on the left of a wide green field."


async def captioned(tab: Page, studio: str) -> None:
    await tab.goto(studio)
    await choose(tab, picture())
    await expect(tab.locator(".text")).to_have_text(CAPTION)
    await expect(tab.locator(".chip")).to_have_text("ok")


async def again(tab: Page) -> None:
    await tab.get_by_role("button", name="Caption boat.png again").click()


async def test_a_caption_stays_in_sight_until_there_is_a_new_one_and_can_be_gone_back_to(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    await captioned(tab, studio)
    upstream.hold = asyncio.Event()
    upstream.script += [OTHER]
    await again(tab)
    await expect(tab.locator(".chip")).to_have_text("asking")
    await expect(tab.locator(".text")).to_have_text(CAPTION)
    await expect(tab.locator(".state")).to_have_text("Asking…")
    await expect(tab.get_by_role("button", name="Download all")).to_be_enabled()
    upstream.hold.set()
    await expect(tab.locator(".text")).to_have_text(OTHER)
    await expect(tab.locator(".which")).to_have_text("2 of 2")
    await tab.get_by_role("button", name="The caption before").click()
    await expect(tab.locator(".text")).to_have_text(CAPTION)
    async with tab.expect_download() as started:
        await tab.locator(".answer").get_by_role("button", name="Download").click()

    assert (await (await started.value).path()).read_text() == CAPTION + "\n"


async def test_no_failure_and_no_glitch_loses_the_caption_before(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    await captioned(tab, studio)
    upstream.script += [LOOP] * 3
    await again(tab)
    await expect(tab.locator(".state")).to_have_text(
        "No attempt was good. The caption from before is kept."
    )
    await expect(tab.locator(".attempts li").first).to_contain_text("repetition")
    await expect(tab.locator(".text")).to_have_text(CAPTION)
    upstream.script += [400]
    await again(tab)
    await expect(tab.locator(".state")).to_contain_text("as told")
    await expect(tab.locator(".text")).to_have_text(CAPTION)
    upstream.hold = asyncio.Event()
    await again(tab)
    await expect(tab.locator(".chip")).to_have_text("asking")
    await tab.get_by_role("button", name="Cancel").click()
    await expect(tab.locator(".state")).to_have_text("Cancelled. The caption from before is kept.")
    await expect(tab.locator(".chip")).to_have_text("ok")
    await expect(tab.locator(".text")).to_have_text(CAPTION)
    upstream.hold.set()
    await expect(tab.get_by_role("status").first).to_contain_text("1 of 1 done · 1 caption")


async def test_a_gateway_that_is_gone_takes_no_caption_with_it(open_tab: Page, studio: str) -> None:
    await captioned(open_tab, studio)
    await open_tab.route("**/studio/caption", lambda route: route.abort())
    await again(open_tab)
    await expect(open_tab.locator(".fault")).to_contain_text("cannot be reached")

    await expect(open_tab.locator(".text")).to_have_text(CAPTION)
    await expect(open_tab.locator(".waiting")).to_have_count(0)


async def test_captions_of_types_that_are_asked_no_more_stay_until_they_are_removed(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    await captioned(tab, studio)
    await tab.get_by_label("Caption type", exact=True).select_option("straightforward")
    upstream.script += [OTHER]
    await again(tab)
    answers = tab.locator(".answer")
    await expect(answers.locator("h3")).to_have_text(["Straightforward", "Descriptive"])
    await expect(answers.locator(".text")).to_have_text([OTHER, CAPTION])
    await tab.get_by_role("button", name="Remove the answer to Descriptive").click()

    await expect(answers.locator("h3")).to_have_text(["Straightforward"])


async def asks_before_leaving(tab: Page) -> bool:
    """Whether the page asks when it is to be closed; it then stays open."""
    ends: asyncio.Queue[Dialog | None] = asyncio.Queue()
    tab.once("dialog", ends.put_nowait)
    tab.once("close", lambda _: ends.put_nowait(None))
    await tab.close(run_before_unload=True)
    dialog = await asyncio.wait_for(ends.get(), 10)
    if dialog is not None:
        assert dialog.type == "beforeunload"
        await dialog.dismiss()
    return dialog is not None


async def test_leaving_asks_only_while_something_would_be_lost(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    await tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await captioned(tab, studio)
    await tab.get_by_role("heading", name="boat.png").click()  # browsers ask only those who act
    assert await asks_before_leaving(tab)  # it was not copied
    await tab.locator(".answer").get_by_role("button", name="Copy").click()
    upstream.hold = asyncio.Event()
    await again(tab)
    await expect(tab.locator(".chip")).to_have_text("asking")
    assert await asks_before_leaving(tab)  # a request runs
    await tab.get_by_role("button", name="Cancel").click()
    await expect(tab.get_by_role("button", name="Cancel")).to_be_disabled()
    upstream.hold.set()

    assert not await asks_before_leaving(tab)


async def test_removing_asks_only_while_something_would_be_lost(tab: Page, studio: str) -> None:
    asked: list[str] = []
    answers = [False, True]

    async def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        await (dialog.accept() if answers.pop(0) else dialog.dismiss())

    await captioned(tab, studio)
    tab.on("dialog", answer)
    remove = tab.get_by_role("button", name="Remove all")
    await remove.click()
    await expect(tab.locator(".picture")).to_have_count(1)
    await remove.click()
    await expect(tab.locator(".picture")).to_have_count(0)
    assert asked == ["1 caption was neither copied nor downloaded. Remove it?"] * 2
    await choose(tab, picture())
    await expect(tab.locator(".chip")).to_have_text("ok")
    async with tab.expect_download():
        await tab.get_by_role("button", name="Download all").click()
    await remove.click()

    await expect(tab.locator(".picture")).to_have_count(0)
    assert len(asked) == 2
