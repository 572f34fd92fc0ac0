"""The studio where something is wrong, or where its user has no mouse."""

from __future__ import annotations

import asyncio
from importlib.resources import files

import pytest
from gateway.conftest import CAPTION, Upstream
from playwright.async_api import FilePayload, Page, expect

from joycap_vllm import Captioner, CaptionerOptions
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context
from pages.conftest import DESKTOP, PHONE, shared
from pages.studios import LOOP, card, choose, picture, unfold

from prompt_server import serving_app

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),  # the browser's
    pytest.mark.usefixtures("studio"),  # first of all, so that it outlives the tab
]
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


async def test_a_glitch_that_stays_is_shown_but_not_downloaded(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    upstream.script += [LOOP] * 3
    await tab.goto(studio)
    await choose(tab, picture())

    answer = tab.locator(".answer")
    await expect(answer.locator(".chip")).to_have_text("glitched: repetition")
    await expect(answer.locator(".text")).to_contain_text("red circle")
    await expect(answer.get_by_role("button", name="Download")).to_be_disabled()
    await expect(tab.get_by_role("button", name="Download all")).to_be_disabled()


async def test_cancelling_frees_the_server_and_leaves_what_is_done(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    await tab.goto(studio)
    await choose(tab, picture("done.png"))
    await expect(tab.locator(".chip")).to_have_text("ok")
    upstream.hold = asyncio.Event()
    await choose(tab, *[picture(f"{i}.png") for i in range(6)])
    await expect(tab.locator(".answer")).to_have_count(5)
    await tab.get_by_role("button", name="Cancel").click()

    await asyncio.wait_for(upstream.left.wait(), 5)
    await expect(tab.get_by_role("button", name="Cancel")).to_be_disabled()
    await expect(card(tab, "5.png")).to_contain_text("Cancelled.")
    await expect(card(tab, "0.png").locator(".chip")).to_have_text("cancelled")
    await expect(card(tab, "done.png").locator(".chip")).to_have_text("ok")
    upstream.hold.set()
    await tab.get_by_role("button", name="Caption 5.png again").click()
    await expect(card(tab, "5.png").locator(".text")).to_have_text(CAPTION)


async def test_again_while_it_is_asked_shows_only_the_new_answer(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    held = upstream.hold = asyncio.Event()
    await tab.goto(studio)
    await choose(tab, picture())
    await upstream.arrived.wait()
    upstream.hold = None
    await tab.get_by_role("button", name="Caption boat.png again").click()

    await expect(tab.locator(".text")).to_have_text([CAPTION])
    await expect(tab.locator(".fault")).to_be_hidden()
    held.set()


async def test_what_is_no_picture_or_too_large_is_said_in_its_card(
    open_tab: Page, studio: str, upstream: Upstream
) -> None:
    await open_tab.goto(studio)
    text = FilePayload(name="notes.txt", mimeType="text/plain", buffer=b"hello there")
    large = FilePayload(name="large.png", mimeType="image/png", buffer=b"\0" * 180_000)
    empty = FilePayload(name="empty.png", mimeType="image/png", buffer=b"")
    await choose(open_tab, text, large, empty, picture("good.png"))

    alert = "[role=alert]"
    await expect(card(open_tab, "notes.txt").locator(alert)).to_contain_text("Not an image")
    await expect(card(open_tab, "large.png").locator(alert)).to_contain_text("150 kB at most")
    await expect(card(open_tab, "empty.png").locator(alert)).to_contain_text("empty")
    await expect(card(open_tab, "good.png").locator(".text")).to_have_text(CAPTION)
    await expect(open_tab.get_by_role("status")).to_contain_text("4 of 4 done")


async def test_a_server_that_refuses_or_a_gateway_that_is_gone_is_said(
    open_tab: Page, upstream: Upstream
) -> None:
    options = CaptionerOptions(workers=1, check=False, fleet=FleetOptions(4, patience=0.3))
    async with (
        serving_app(upstream.app) as url,
        Captioner(f"{url}/v1", options=options) as captioner,
    ):
        async with serving_app(make_app(Context(captioner))) as gateway:
            await open_tab.goto(gateway)
            upstream.script += [400]
            await choose(open_tab, picture("refused.png"))
            refused = card(open_tab, "refused.png")
            await expect(refused.locator(".chip")).to_have_text("failed")
            await expect(refused.locator(".text")).to_contain_text("as told")
            upstream.hold = asyncio.Event()
            await choose(open_tab, picture("broken.png"))
            broken = card(open_tab, "broken.png")
            await expect(broken.locator(".chip")).to_have_text("asking")
        await expect(broken.locator(".chip")).to_have_text("failed")
        await expect(broken.locator(".text")).to_contain_text("broke off")
        await choose(open_tab, picture("late.png"))
        late = card(open_tab, "late.png")
        await expect(late.locator("[role=alert]")).to_contain_text("gateway cannot be reached")


async def test_a_full_gateway_is_asked_again_when_it_says(tab_full: Page, studio: str) -> None:
    await tab_full.goto(studio)
    await choose(tab_full, picture())

    await expect(tab_full.locator(".waiting")).to_contain_text("full")
    await expect(tab_full.locator(".text")).to_have_text(CAPTION)


@shared
async def tab_full(open_tab: Page) -> Page:
    """A tab whose first caption request meets a full gateway."""
    left = [1]

    async def refuse_once(route: object) -> None:
        if left and left.pop():
            body = '{"error": {"message": "too many requests"}}'
            await route.fulfill(status=429, headers={"Retry-After": "1"}, body=body)  # type: ignore[attr-defined]
        else:
            await route.continue_()  # type: ignore[attr-defined]

    await open_tab.route("**/studio/caption", refuse_once)
    return open_tab


async def test_who_is_not_logged_in_is_sent_to_the_login(open_tab: Page, studio: str) -> None:
    await open_tab.goto(studio)
    await open_tab.route("**/studio/caption", lambda route: route.fulfill(status=401, body="{}"))
    await open_tab.route("**/login**", lambda route: route.fulfill(status=200, body="log in"))
    await choose(open_tab, picture())

    await open_tab.wait_for_url("**/login?next=%2F")


async def test_captions_outlive_the_session_that_they_were_asked_in(
    open_tab: Page, studio: str
) -> None:
    await open_tab.goto(studio)
    await choose(open_tab, picture("first.png"))
    await expect(card(open_tab, "first.png").locator(".text")).to_have_text(CAPTION)
    await open_tab.route("**/studio/*", lambda route: route.fulfill(status=401, body="{}"))
    await choose(open_tab, picture("second.png", "blue"))

    await expect(card(open_tab, "second.png").locator(".fault")).to_have_text(
        "You are logged out. Log in at /login in another tab, then ask again."
    )
    await expect(card(open_tab, "first.png").locator(".text")).to_have_text(CAPTION)


async def test_an_empty_own_prompt_or_a_wrong_number_is_asked_for_first(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    await tab.goto(studio)
    await unfold(tab, "Sampling")
    await tab.get_by_label("Temperature").fill("3")
    await unfold(tab, "Sampling")
    await choose(tab, picture())

    await expect(tab.get_by_label("Temperature")).to_be_focused()
    await tab.get_by_label("Temperature").fill("0.5")
    await tab.get_by_label("Caption type", exact=True).select_option("custom")
    await expect(tab.locator("#prompt")).to_have_text("Write a prompt above.")
    await tab.get_by_role("button", name="Caption 1 picture").click()
    await expect(tab.locator("#text")).to_be_focused()
    assert upstream.bodies == []


async def test_the_keyboard_alone_is_enough(tab: Page, studio: str, upstream: Upstream) -> None:
    # Told early: Chromium is not waited for when it is told to hand choosers over.
    chooser = asyncio.get_running_loop().create_future()
    tab.on("filechooser", lambda opened: chooser.set_result(opened))
    await tab.goto(studio)
    await tab.keyboard.press("Tab")
    await expect(tab.get_by_role("link", name="Skip to the page")).to_be_focused()
    await tab.keyboard.press("Enter")
    await tab.keyboard.press("Tab")
    await expect(tab.get_by_label("Caption type", exact=True)).to_be_focused()
    await tab.keyboard.type("Straight")
    for _ in range(2):
        await tab.keyboard.press("Tab")
    await tab.keyboard.press("Enter")  # opens "Side by side"
    await tab.keyboard.press("Tab")
    await tab.keyboard.press("Space")
    await expect(tab.get_by_role("checkbox", name="Descriptive", exact=True)).to_be_checked()
    while not await tab.get_by_role("button", name="Choose pictures").evaluate(
        "button => button === document.activeElement"
    ):
        await tab.keyboard.press("Tab")
    await tab.keyboard.press("Enter")
    await (await chooser).set_files([picture()])
    await expect(tab.locator(".text")).to_have_text([CAPTION, CAPTION])
    await tab.keyboard.press("Control+Enter")

    await expect(tab.locator(".text")).to_have_text([CAPTION, CAPTION])
    await expect(tab.get_by_role("button", name="Cancel")).to_be_disabled()
    assert len(upstream.bodies) == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_axe_finds_no_serious_fault_and_nothing_hangs_over_the_edge(
    tab: Page, studio: str, upstream: Upstream, scheme: str, size: object
) -> None:
    await tab.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    await tab.set_viewport_size(size)  # type: ignore[arg-type]
    upstream.script += [LOOP, CAPTION, LOOP, LOOP, LOOP]
    await tab.goto(studio)
    if size == PHONE:
        await tab.get_by_role("button", name="Asked: Descriptive").click()
    for part in ("Side by side", "Extra options", "Sampling"):
        await unfold(tab, part)
    await tab.get_by_role("checkbox", name="{name}").check()
    await choose(tab, picture("good.png"))
    await expect(tab.locator(".chip")).to_have_text(["ok"])
    await choose(tab, picture("a_very_long_name_that_never_ends_" * 4 + ".png", "blue"))
    await expect(tab.locator(".chip")).to_have_text(["ok", "glitched: repetition"])
    upstream.hold = asyncio.Event()
    await choose(tab, picture("asking.png", "green"))
    await expect(tab.locator(".chip")).to_have_text(["ok", "glitched: repetition", "asking"])
    found = await tab.evaluate(f"{AXE}; axe.run()")
    upstream.hold.set()

    serious = [
        (fault["id"], [node["target"] for node in fault["nodes"]])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert len(found["passes"]) > 20
    assert await tab.evaluate("document.documentElement.scrollWidth") == size["width"]  # type: ignore[index]
