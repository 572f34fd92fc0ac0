"""The studio in a real browser, on a real gateway."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import pytest
from gateway.conftest import CAPTION, Upstream, serving
from PIL import Image
from playwright.async_api import Browser, FilePayload, Locator, Page, expect

from joycap_vllm import Captioner, CaptionerOptions, build_prompt
from joycap_vllm.fleet import FleetOptions
from joycap_vllm.gateway.app import make_app
from joycap_vllm.gateway.context import Context, Limits
from pages.conftest import DESKTOP, PHONE

LOOP = "red circle, " * 60
TAGS = "1boat, lake, dusk, no_humans, outdoors, reflection"
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
async def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def studio(upstream: Upstream) -> AsyncIterator[str]:
    """The address of a gateway that takes 200 kB."""
    options = CaptionerOptions(
        retries=2, workers=1, check=False, fleet=FleetOptions(concurrency=8, patience=0.5)
    )
    async with (
        serving(upstream.app) as url,
        Captioner(f"{url}/v1", options=options) as captioner,
        serving(make_app(Context(captioner, limits=Limits(body=200_000)))) as gateway,
    ):
        yield gateway


@pytest.fixture
def tab(studio: str, tab: Page) -> Page:  # the gateway must outlive it
    """A tab that must log no error, on a gateway that is there until it is closed."""
    return tab


@pytest.fixture
async def open_tab(browser: Browser) -> AsyncIterator[Page]:
    """A tab whose console may hold refused requests, which Chromium logs as errors."""
    context = await browser.new_context(viewport=DESKTOP)
    page, faults = await context.new_page(), list[str]()
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    await context.close()
    assert faults == []


def picture(name: str = "boat.png", colour: str = "red") -> FilePayload:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, "PNG")
    return FilePayload(name=name, mimeType="image/png", buffer=buffer.getvalue())


async def drop(tab: Page, *names: str) -> None:
    """Drops pictures on the page as a file manager does."""
    await tab.evaluate(
        """async (names) => {
          const transfer = new DataTransfer();
          for (const name of names) {
            const canvas = new OffscreenCanvas(64, 48);
            canvas.getContext("2d").fillRect(9, 9, 20, 20);
            transfer.items.add(new File([await canvas.convertToBlob()], name, {type: "image/png"}));
          }
          for (const kind of ["dragover", "drop"]) {
            const how = {bubbles: true, cancelable: true, dataTransfer: transfer};
            document.querySelector("#drop").dispatchEvent(new DragEvent(kind, how));
          }
        }""",
        list(names),
    )


async def choose(tab: Page, *files: FilePayload) -> None:
    await tab.set_input_files("#files", list(files))


async def unfold(tab: Page, part: str) -> None:
    """Opens a part of the settings, or closes it."""
    await tab.locator("summary").filter(has_text=part).click()


def card(tab: Page, name: str) -> Locator:
    return tab.get_by_role("listitem").filter(has=tab.get_by_role("heading", name=name, exact=True))


async def test_a_dropped_picture_is_captioned(tab: Page, studio: str) -> None:
    await tab.goto(studio)
    await drop(tab, "boat at dusk.png")

    boat = card(tab, "boat at dusk.png")
    await expect(boat.locator(".text")).to_have_text(CAPTION)
    await expect(boat.locator(".chip")).to_have_text("ok")
    await expect(boat.locator(".about .facts")).to_contain_text("64 × 48")
    assert await boat.locator("img").evaluate("image => image.naturalWidth") == 64
    await expect(tab.get_by_role("status")).to_have_text("1 of 1 done · 1 caption")


async def test_a_picture_in_the_clipboard_is_pasted(tab: Page, studio: str) -> None:
    await tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await tab.goto(studio)
    await tab.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(32, 16);
          canvas.getContext("2d").fillRect(1, 1, 9, 9);
          const blob = await canvas.convertToBlob();
          await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
        }"""
    )
    for _ in range(2):
        await tab.keyboard.press("Control+v")

    for name in ("pasted-1.png", "pasted-2.png"):
        await expect(card(tab, name).locator(".text")).to_have_text(CAPTION)


async def test_a_text_that_comes_with_a_picture_is_pasted_into_the_prompt(
    tab: Page, studio: str
) -> None:
    await tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await tab.goto(studio)
    await tab.get_by_label("Caption type", exact=True).select_option("custom")
    await tab.locator("#text").focus()
    await tab.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(32, 16);
          canvas.getContext("2d").fillRect(1, 1, 9, 9);
          const parts = {
            "text/plain": new Blob(["What is it?"], {type: "text/plain"}),
            "image/png": await canvas.convertToBlob(),
          };
          await navigator.clipboard.write([new ClipboardItem(parts)]);
        }"""
    )
    await tab.keyboard.press("Control+v")

    await expect(tab.locator("#text")).to_have_value("What is it?")
    await expect(tab.locator(".picture")).to_have_count(0)


async def test_a_dropped_folder_brings_its_pictures(tab: Page, studio: str, tmp_path: Path) -> None:
    for name in ("set/b.png", "set/deep/a.png", "set/notes.txt", "set/.hidden/c.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture()["buffer"])
    await tab.goto(studio)
    devtools = await tab.context.new_cdp_session(tab)
    data = {"items": [], "files": [str(tmp_path / "set")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": 700, "y": 300, "data": data}
        await devtools.send("Input.dispatchDragEvent", event)

    await expect(tab.locator(".file")).to_have_text(["set/b.png", "set/deep/a.png"])
    await expect(tab.locator(".text")).to_have_text([CAPTION, CAPTION])


async def test_a_glitch_is_shown_while_it_is_asked_again(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    upstream.script += [LOOP]
    upstream.hold = first
    await tab.goto(studio)
    await choose(tab, picture())
    answer = tab.locator(".answer")
    await upstream.arrived.wait()
    await expect(answer.locator(".chip")).to_have_text("asking")
    await expect(answer).to_have_attribute("aria-busy", "true")
    upstream.hold = second
    first.set()

    await expect(answer.locator(".chip")).to_have_text("asking again")
    await expect(answer.locator(".text")).to_contain_text("attempt 2 of at most 3")
    await expect(answer.locator(".attempts li")).to_contain_text(["repetition"])
    second.set()
    await expect(answer.locator(".text")).to_have_text(CAPTION)
    await expect(answer.locator(".attempts li")).to_contain_text(["repetition", "ok"])
    await expect(answer).to_have_attribute("aria-busy", "false")


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


async def test_several_types_stand_side_by_side_the_first_one_first(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    await tab.goto(studio)
    await tab.get_by_label("Caption type", exact=True).select_option("custom")
    await tab.get_by_label("Own prompt").first.fill("What is it?")
    await unfold(tab, "Side by side")
    await tab.get_by_role("checkbox", name="Straightforward").check()
    await expect(tab.locator("#prompt .asked")).to_have_text(
        ["What is it?", build_prompt("straightforward").text]
    )
    await choose(tab, picture())

    answers = tab.locator(".answer")
    await expect(answers.locator("h3")).to_have_text(["Own prompt", "Straightforward"])
    await expect(answers.locator(".text")).to_have_text([CAPTION, CAPTION])
    left, right = [await answers.nth(i).bounding_box() for i in range(2)]
    assert left is not None
    assert right is not None
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    texts = {body["messages"][1]["content"][1]["text"] for body in upstream.bodies}
    assert texts == {"What is it?", build_prompt("straightforward").text}


async def test_an_own_prompt_is_asked_as_it_is_written(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    await tab.goto(studio)
    await tab.get_by_label("Caption type", exact=True).select_option("custom")
    await tab.get_by_label("Own prompt").first.fill("How many boats are in {stem}?")
    await expect(tab.locator("#prompt .asked")).to_have_text("How many boats are in {stem}?")
    await choose(tab, picture())
    await expect(tab.locator(".text")).to_have_text([CAPTION])

    assert len(upstream.bodies) == 1
    assert (
        upstream.bodies[0]["messages"][1]["content"][1]["text"] == "How many boats are in {stem}?"
    )


async def test_the_prompt_shown_follows_every_change(tab: Page, studio: str) -> None:
    await tab.goto(studio)
    system, asked = tab.locator("#prompt .system"), tab.locator("#prompt .asked")
    await expect(asked).to_have_text(build_prompt().text)

    await tab.get_by_label("Caption type", exact=True).select_option("art-critic")
    await expect(asked).to_have_text(build_prompt("art-critic").text)
    await tab.get_by_label("Length").select_option("very long")
    await expect(asked).to_have_text(build_prompt("art-critic", length="very long").text)
    await tab.get_by_label("Length").select_option("words")
    await tab.get_by_label("Words at most").fill("45")
    await expect(asked).to_have_text(build_prompt("art-critic", words=45).text)
    await unfold(tab, "Extra options")
    await expect(tab.get_by_label("Name to refer to")).to_be_hidden()
    await tab.get_by_label("Search the extra options").fill("refer them")
    await expect(tab.locator(".option:visible")).to_have_count(1)
    await tab.locator(".option:visible").click()
    await tab.get_by_label("Name to refer to").fill("Ada")
    named = build_prompt("art-critic", words=45, extras=["name"], name="Ada")
    await expect(asked).to_have_text(named.text)
    await unfold(tab, "Sampling")
    await tab.get_by_label("System prompt").fill("Be brief.")
    await expect(system).to_have_text("Be brief.")


async def test_the_settings_are_asked_with_and_kept(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    await tab.goto(studio)
    await tab.get_by_label("Length").select_option("words")
    await tab.get_by_label("Words at most").fill("33")
    await unfold(tab, "Sampling")
    await tab.get_by_label("Temperature").fill("0.15")
    await tab.get_by_label("Top p").fill("0.4")
    await tab.get_by_label("Tokens at most").fill("99")
    await tab.get_by_label("Seed").fill("4711")
    await tab.reload()
    await choose(tab, picture())
    await expect(tab.locator(".chip")).to_have_text("ok")

    body = upstream.bodies[0]
    assert body["messages"][1]["content"][1]["text"] == build_prompt(words=33).text
    assert (body["temperature"], body["top_p"]) == (0.15, 0.4)
    assert (body["max_tokens"], body["seed"]) == (99, 4711)
    await tab.get_by_role("button", name="Reset settings").click()
    await expect(tab.locator("#prompt .asked")).to_have_text(build_prompt().text)


async def test_a_caption_is_copied_and_downloaded(tab: Page, studio: str) -> None:
    await tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await tab.goto(studio)
    await choose(tab, picture("a boat.v2.png"))
    await tab.locator(".answer").get_by_role("button", name="Copy").click()
    await expect(tab.locator(".answer").get_by_role("button", name="Copied")).to_be_visible()
    async with tab.expect_download() as started:
        await tab.locator(".answer").get_by_role("button", name="Download").click()
    download = await started.value

    assert await tab.evaluate("navigator.clipboard.readText()") == CAPTION
    assert download.suggested_filename == "a boat.v2.txt"
    assert (await download.path()).read_text("utf-8") == CAPTION + "\n"


async def test_all_captions_come_as_one_archive_under_their_pictures_names(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    upstream.script += ["Ein Boot\nauf dem See, das schön in der Sonne liegt."]
    await tab.goto(studio)
    await choose(tab, picture("été 日.png"))
    await expect(tab.get_by_role("status")).to_contain_text("1 of 1 done")
    await unfold(tab, "Side by side")
    await tab.get_by_role("checkbox", name="Straightforward").check()
    names = ["a.jpg", "A.png", "A.png", "a.straightforward.png"]
    await choose(tab, *[picture(name) for name in names])
    await expect(tab.get_by_role("status")).to_contain_text("5 of 5 done")
    async with tab.expect_download() as started:
        await tab.get_by_role("button", name="Download all").click()
    download = await started.value

    assert download.suggested_filename == "captions.zip"
    with zipfile.ZipFile(await download.path()) as archive:
        assert archive.testzip() is None
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert list(texts) == [
        "été 日.txt",
        "a.txt",
        "a.straightforward.txt",
        "A.png.txt",
        "A.png.straightforward.txt",
        "A.png (2).txt",
        "A.png (2).straightforward.txt",
        "a.straightforward.png.txt",
        "a.straightforward.png.straightforward.txt",
    ]
    first, *others = texts.values()
    assert first.count("\n") == 1
    assert set(others) == {CAPTION + "\n"}


async def test_pictures_stay_in_order_whichever_is_done_first(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    upstream.hold = asyncio.Event()
    names = [f"{i}.png" for i in range(6)]
    await tab.goto(studio)
    await choose(tab, *[picture(name) for name in names])
    await expect(tab.locator(".answer")).to_have_count(4)  # at once; the others wait
    await tab.get_by_role("button", name="Remove 1.png").click()
    upstream.hold.set()

    await expect(tab.get_by_role("status")).to_have_text("5 of 5 done · 5 captions")
    await expect(tab.locator(".file")).to_have_text([n for n in names if n != "1.png"])


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
        serving(upstream.app) as url,
        Captioner(f"{url}/v1", options=options) as captioner,
    ):
        async with serving(make_app(Context(captioner))) as gateway:
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


@pytest.fixture
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
