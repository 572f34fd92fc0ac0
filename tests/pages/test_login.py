"""Logging in, in a real browser."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.resources import files

import pytest
from playwright.async_api import Browser, Page
from stub_server import StubOptions, stub

from joycap_vllm import Captioner, CaptionerOptions
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context
from joycap_vllm.gateway.keys import Key, Keyring

from prompt_server import serving_app

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


@contextlib.asynccontextmanager
async def keyed_gateway() -> AsyncIterator[str]:
    with stub(StubOptions()) as upstream:
        async with Captioner(upstream.url, options=CaptionerOptions(check=False)) as captioner:
            app = make_app(Context(captioner, keys=Keyring(Key("me", b"alpha"))))
            async with serving_app(app) as url:
                yield url


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
async def test_a_person_logs_in_and_out(browser: Browser, scripts: bool) -> None:
    window = await browser.new_context(java_script_enabled=scripts)
    tab = await window.new_page()
    async with keyed_gateway() as url:
        await tab.goto(f"{url}/v1/models")
        asked_at = tab.url
        await tab.get_by_label("One of this gateway's keys").fill("wrong")
        await tab.keyboard.press("Enter")
        problem = await tab.get_by_role("alert").inner_text()
        await tab.get_by_label("One of this gateway's keys").fill("alpha")
        await tab.get_by_role("button", name="Log in").click()
        there = (tab.url, await tab.inner_text("body"))
        await tab.goto(f"{url}/login")
        name = await tab.locator("strong").inner_text()
        await tab.get_by_role("button", name="Log out").click()
        again = await tab.get_by_role("heading").inner_text()
        left = [cookie["name"] for cookie in await window.cookies()]
        await window.close()

    assert asked_at == f"{url}/login?next=/v1/models"
    assert problem == "That is none of the gateway's keys."
    assert there[0] == f"{url}/v1/models"
    assert "joycaption" in there[1]
    assert (name, again) == ("me", "Log in")
    assert left == []


async def test_the_form_can_be_used_by_everybody(tab: Page) -> None:
    async with keyed_gateway() as url:
        await tab.goto(f"{url}/login")
        found = await tab.evaluate(f"{AXE}; axe.run()")

        serious = [v["id"] for v in found["violations"] if v["impact"] != "minor"]
        assert serious == []
        assert await tab.evaluate("document.activeElement.id") == "key"
