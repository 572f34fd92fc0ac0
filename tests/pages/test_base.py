"""The parts that all pages share."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Page

import joycap_vllm.gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's
STATIC = Path(joycap_vllm.gateway.__file__).parent / "static"


async def test_the_style_is_one_that_a_browser_reads_whole(tab: Page) -> None:
    style = (STATIC / "base.css").read_text(encoding="utf-8")
    await tab.set_content("<button class=primary>caption</button>")
    await tab.add_style_tag(content=style)
    button = tab.get_by_role("button")

    assert await button.evaluate("e => getComputedStyle(e).fontWeight") == "600"
    assert await button.evaluate("e => getComputedStyle(e).color") == "rgb(255, 255, 255)"
