"""What the studio shows without being scrolled: words that fit, and what was just unfolded."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, ViewportSize, expect

from pages.studios import unfold

from .conftest import DESKTOP, PHONE

_ROOM_LEFT = """select => {
  const style = getComputedStyle(select), pen = document.createElement("canvas").getContext("2d");
  pen.font = style.font;
  const longest = Math.max(...[...select.options].map(o => pen.measureText(o.text).width));
  const padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
  return select.clientWidth - padding - longest;
}"""
_ARROW = 16  # pixels at the right of a select

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),  # the browser's
    pytest.mark.usefixtures("studio"),  # first of all, so that it outlives the tab
]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_every_length_can_be_read_whole(tab: Page, studio: str, size: ViewportSize) -> None:
    await tab.set_viewport_size(size)
    await tab.goto(studio)
    if size == PHONE:
        await tab.get_by_role("button", name="Asked: Descriptive").click()

    assert await tab.get_by_label("Length").evaluate(_ROOM_LEFT) >= _ARROW


async def test_what_is_unfolded_and_found_is_in_sight(tab: Page, studio: str) -> None:
    await tab.goto(studio)
    for part in ("Side by side", "Extra options"):
        await unfold(tab, part)
    await tab.get_by_label("Search the extra options").fill("lighting")

    await expect(tab.locator(".option:visible").first).to_be_in_viewport(ratio=1)
    await unfold(tab, "Sampling")
    await expect(tab.get_by_label("System prompt")).to_be_in_viewport(ratio=1)
