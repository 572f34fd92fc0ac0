"""The studio in a real browser, on a real gateway."""

from __future__ import annotations

import asyncio
import zipfile
from pathlib import Path

import pytest
from gateway.conftest import CAPTION, Upstream
from playwright.async_api import Page, expect

from joycap_vllm import build_prompt
from pages.studios import LOOP, card, choose, drop, picture, unfold

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),  # the browser's
    pytest.mark.usefixtures("studio"),  # first of all, so that it outlives the tab
]


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


async def test_an_answer_is_shown_as_it_comes_and_judged_at_its_end(
    tab: Page, studio: str, upstream: Upstream
) -> None:
    upstream.half = asyncio.Event()
    await tab.goto(studio)
    await choose(tab, picture())
    answer = tab.locator(".answer")

    await expect(answer.locator(".text")).to_have_text(CAPTION[: len(CAPTION) // 2].strip())
    await expect(answer.locator(".chip")).to_have_text("asking")
    await expect(answer.get_by_role("button", name="Copy")).to_be_disabled()
    upstream.half.set()
    await expect(answer.locator(".text")).to_have_text(CAPTION)
    await expect(answer.locator(".chip")).to_have_text("ok")

    upstream.half.clear()
    await tab.locator(".again").click()
    await expect(answer.locator(".state")).to_contain_text(CAPTION[:20])
    await expect(answer.locator(".text")).to_have_text(CAPTION)
    upstream.half.set()
    await expect(answer.locator(".which")).to_have_text("2 of 2")
    await expect(answer.locator(".state")).to_have_text("")


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
