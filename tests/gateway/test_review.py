"""Review as its page sees it: looking through captions and changing them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from joycap_vllm.gateway import review_folder, review_session
from joycap_vllm.job.journal import Journal
from joycap_vllm.prompts import dual_prompts

from .reviewing import (
    GOOD,
    LOOP,
    Review,
    glitched,
    job_of,
    journal_rows,
    latest,
    make_job,
    picture,
    row,
    write_journal,
)


async def test_the_worst_come_first_and_can_be_filtered(review: Review, pictures: Path) -> None:
    settings = make_job(pictures)
    picture(pictures / "gone.png")
    lost = row("gone.png", settings, "failed", caption=None, why="the picture is damaged")
    write_journal(pictures, [lost])
    async with review(pictures) as reader:
        view = await reader.view()

        assert [item["outcome"] for item in view["items"]] == ["glitched"] * 2 + ["failed"] + [
            "ok"
        ] * 3
        assert view["facets"]["outcomes"] == {"glitched": 2, "failed": 1, "ok": 3}
        assert view["facets"]["glitches"] == {"repetition": 2}
        assert await reader.keys(outcome="failed") == ["gone.png"]
        assert await reader.keys(glitch="repetition") == ["bad 0.png", "bad 1.png"]
        assert await reader.keys(text="GOOD 2") == ["good 2.png"]
        assert await reader.keys(text="red circle, red") == ["bad 0.png", "bad 1.png"]
        assert (await reader.item("gone.png"))["why"] == "the picture is damaged"


async def test_an_edit_is_in_the_journal_and_in_the_sidecar(review: Review, pictures: Path) -> None:
    make_job(pictures)
    async with review(pictures) as reader:
        item = await reader.item("bad 0.png")
        done = await reader.edit(item, "A red square.")

        assert done.status_code == 200
        assert done.json()["item"]["outcome"] == "ok"
        assert done.json()["item"]["byHand"] is True
        assert done.json()["facets"]["outcomes"] == {"glitched": 1, "ok": 4}
    assert (pictures / "bad 0.txt").read_text() == "A red square."
    record = latest(pictures, "bad 0.png")
    assert (record["outcome"], record["caption"], record["glitch"]) == ("ok", "A red square.", None)
    assert record["fp"] == next(journal_rows(pictures))["fp"]


async def test_a_glitched_caption_can_be_accepted_as_it_is(review: Review, pictures: Path) -> None:
    make_job(pictures)
    async with review(pictures) as reader:
        item = await reader.item("bad 1.png")
        await reader.edit(item, item["caption"], what="accept")

        assert await reader.keys(outcome="glitched") == ["bad 0.png"]
        assert await reader.keys(outcome="edited") == ["bad 1.png"]
    assert (pictures / "bad 1.txt").read_text() == LOOP.strip()
    assert latest(pictures, "bad 1.png")["review"]["what"] == "accept"


async def test_edits_are_undone_step_by_step_also_after_a_restart(
    review: Review, pictures: Path
) -> None:
    make_job(pictures)
    async with review(pictures) as reader:
        for key, text in (("bad 0.png", "One."), ("good 0.png", "Two."), ("bad 0.png", "Three.")):
            await reader.edit(await reader.item(key), text)
    async with review(pictures) as reader:
        assert (await reader.view())["undos"] == 3
        assert (await reader.undo()).status_code == 200
        assert (pictures / "bad 0.txt").read_text() == "One."
        assert (await reader.undo()).status_code == 200
        assert (pictures / "good 0.txt").read_text() == GOOD
    async with review(pictures) as reader:
        assert (await reader.undo()).status_code == 200
        view = await reader.view(outcome="glitched")

        assert view["undo"] is None
        assert [item["caption"] for item in view["items"]] == [LOOP, LOOP]
        assert not any(item["byHand"] for item in view["items"])
    assert not (pictures / "bad 0.txt").exists()
    assert latest(pictures, "bad 0.png")["outcome"] == "glitched"


async def test_a_sidecar_that_was_changed_meanwhile_is_not_overwritten(
    review: Review, pictures: Path
) -> None:
    make_job(pictures)
    file = pictures / "good 0.txt"
    async with review(pictures) as reader:
        item = await reader.item("good 0.png")
        file.write_text("Somebody else's words.")
        refused = await reader.edit(item, "Mine.")

        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "conflict"
        assert refused.json()["item"]["caption"] == "Somebody else's words."
        assert file.read_text() == "Somebody else's words."
        assert len(list(journal_rows(pictures))) == 5
        await reader.edit(refused.json()["item"], "Mine.")
        assert file.read_text() == "Mine."


async def test_an_undo_leaves_what_somebody_else_wrote_since_unless_told(
    review: Review, pictures: Path
) -> None:
    make_job(pictures)
    file = pictures / "good 0.txt"
    async with review(pictures) as reader:
        await reader.edit(await reader.item("good 0.png"), "Mine.")
        file.write_text("Theirs.")
        refused = await reader.undo()

        assert (refused.status_code, file.read_text()) == (409, "Theirs.")
        assert (await reader.undo(force=True)).status_code == 200
        assert file.read_text() == GOOD
        assert latest(pictures, "good 0.png")["review"]["before"] == "Theirs."


async def test_an_undo_meant_for_another_edit_tells_which_one_is_next(
    review: Review, pictures: Path
) -> None:
    make_job(pictures)
    async with review(pictures) as reader:
        await reader.edit(await reader.item("good 0.png"), "First.")
        stale = (await reader.view())["undo"]["id"]
        await reader.edit(await reader.item("good 1.png"), "Second.")  # in another tab
        refused = await reader.post("undo", edit=stale)
        forced = await reader.post("undo", edit=stale, force=True)
        await reader.post("leave", edit=stale)  # of no use, and does no harm

        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "stale")
        assert forced.status_code == 409
        assert refused.json()["undo"]["key"] == "good 1.png"
        assert (pictures / "good 1.txt").read_text() == "Second."
        assert (await reader.undo()).status_code == 200
        assert (await reader.undo()).status_code == 200
    assert (pictures / "good 0.txt").read_text() == GOOD
    assert (pictures / "good 1.txt").read_text() == GOOD


async def test_edits_of_pictures_that_were_deleted_do_not_stand_in_the_way_of_undo(
    review: Review, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_folder, "_PAUSE", 0.0)
    monkeypatch.setattr(review_session, "_FRESH", 0.0)
    for name in ("a.png", "b.png"):
        picture(pictures / name).with_suffix(".txt").write_text(GOOD)
    async with review(pictures) as reader:
        await reader.edit(await reader.item("a.png"), "A.")
        await reader.edit(await reader.item("b.png"), "B.")
        (pictures / "b.png").unlink()
        while len(await reader.keys()) > 1:  # folders are looked at now and then
            await asyncio.sleep(0.01)
        assert (await reader.view())["undo"]["key"] == "a.png"
        assert (await reader.undo()).status_code == 200
        assert (await reader.view())["undo"] is None
    assert (pictures / "a.txt").read_text() == GOOD
    assert (pictures / "b.txt").read_text() == "B."


async def test_an_edit_whose_file_is_no_text_any_more_can_be_left_out_of_undo(
    review: Review, pictures: Path
) -> None:
    make_job(pictures)
    async with review(pictures) as reader:
        await reader.edit(await reader.item("good 0.png"), "First.")
        await reader.edit(await reader.item("good 1.png"), "Second.")
        (pictures / "good 1.txt").write_bytes(b"\xff\xfe\x00")
        refused = await reader.undo()
        last = (await reader.view())["undo"]

        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert "UTF-8" in refused.json()["error"]["message"]
        assert (await reader.undo(force=True)).status_code == 409
        await reader.post("leave", edit=last["id"])
        assert (await reader.undo()).status_code == 200
    assert (pictures / "good 0.txt").read_text() == GOOD
    assert (pictures / "good 1.txt").read_bytes() == b"\xff\xfe\x00"


async def test_while_a_job_is_at_work_captions_can_only_be_looked_at(
    review: Review, pictures: Path
) -> None:
    settings = make_job(pictures)
    async with review(pictures) as reader:
        item = await reader.item("bad 0.png")
        async with Journal(settings.state):
            refused = await reader.edit(item, "Mine.")
            busy = (await reader.view())["busy"]
            journals = len(list(settings.state.glob("journal-*.jsonl")))

        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "busy")
        assert "at work" in busy
        assert journals == 2  # nothing is left of what was refused
        assert (await reader.edit(item, "Mine.")).status_code == 200


async def test_what_a_job_adds_meanwhile_is_seen(
    review: Review, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_job(pictures)
    monkeypatch.setattr("joycap_vllm.gateway.review_session._FRESH", 0.0)
    async with review(pictures) as reader:
        before = (await reader.view())["total"]
        write_journal(pictures, [glitched("more.png", settings)], number=2)

        assert before == 5
        assert await reader.keys(glitch="repetition") == ["bad 0.png", "bad 1.png", "more.png"]


async def test_a_new_answer_is_offered_and_kept_only_if_it_is_taken(
    review: Review, pictures: Path, upstream: Any
) -> None:
    make_job(pictures)
    async with review(pictures) as reader:
        item = await reader.item("bad 0.png")
        asked = await reader.post("again", id=item["id"], type="straightforward", length="short")
        offer = asked.json()

        assert (offer["caption"], offer["outcome"], offer["attempts"]) == (GOOD, "ok", 1)
        assert not (pictures / "bad 0.txt").exists()
        taken = await reader.post("take", id=item["id"], offer=offer["offer"], seen=item["seen"])
        assert taken.json()["item"]["caption"] == GOOD
        again = await reader.post("take", id=item["id"], offer=offer["offer"], seen=item["seen"])
        assert again.status_code == 400
    assert (pictures / "bad 0.txt").read_text() == GOOD
    record = latest(pictures, "bad 0.png")
    assert record["review"]["what"] == "again"
    assert record["model"] == "stub"
    assert len(record["attempts"]) == 1
    assert "straightforward" in record["asked"]


async def test_glitches_of_a_new_answer_are_retried_and_told(
    review: Review, pictures: Path, upstream: Any
) -> None:
    make_job(pictures)
    upstream.script.extend([LOOP] * 3)
    async with review(pictures) as reader:
        item = await reader.item("bad 0.png")
        offer = (await reader.post("again", id=item["id"])).json()

        assert (offer["outcome"], offer["glitch"], offer["attempts"]) == (
            "glitched",
            "repetition",
            3,
        )


async def test_a_shared_sidecar_keeps_its_other_line(review: Review, pictures: Path) -> None:
    tags, prose = dual_prompts()
    picture(pictures / "a.png")
    settings = job_of(pictures, ["a.png"], prompts=(tags, prose), together=True)
    lines = {tags.name: "red, circle, white background", prose.name: GOOD}
    write_journal(pictures, [row("a.png", settings, prompt=n, caption=c) for n, c in lines.items()])
    file = pictures / "a.txt"
    file.write_text("\n".join(lines.values()))
    async with review(pictures) as reader:
        items = {item["prompt"]: item for item in (await reader.view())["items"]}
        await reader.edit(items[prose.name], "Only a circle.")

        assert file.read_text() == "red, circle, white background\nOnly a circle."
        done = await reader.edit(items[tags.name], "circle")  # as seen before the other edit
        assert (done.status_code, file.read_text()) == (200, "circle\nOnly a circle.")
        file.write_text("square\nOnly a circle.")
        assert (await reader.edit(done.json()["item"], "disc")).status_code == 409
        file.write_text("circle\nOnly a circle.")
        assert (await reader.undo()).status_code == 200
        assert (await reader.undo()).status_code == 200
        assert file.read_text() == "red, circle, white background\n" + GOOD


async def test_a_plain_folder_is_judged_and_its_files_are_edited(
    review: Review, pictures: Path
) -> None:
    for name, text in (("a", GOOD), ("b", LOOP), ("c", None), ("d", GOOD + "\n")):
        picture(pictures / "deep" / f"{name}.png")
        if text is not None:
            (pictures / "deep" / f"{name}.txt").write_text(text)
    async with review(pictures) as reader:
        view = await reader.view()
        assert [item["key"] for item in view["items"]] == [f"deep/{n}.png" for n in "bcad"]
        assert view["items"][0]["glitch"] == "repetition"
        assert "no caption" in view["items"][1]["why"]

        for item, text in zip(view["items"], ("B.", "C.", "A.", "D."), strict=True):
            assert (await reader.edit(item, text)).status_code == 200
        assert (pictures / "deep" / "c.txt").read_text() == "C."
        assert (pictures / "deep" / "d.txt").read_text() == "D.\n"
        for _ in range(4):
            assert (await reader.undo()).status_code == 200
        assert not (pictures / "deep" / "c.txt").exists()
        assert (pictures / "deep" / "b.txt").read_text() == LOOP


async def test_an_accepted_glitch_of_a_plain_folder_stays_accepted(
    review: Review, pictures: Path
) -> None:
    picture(pictures / "a.png")
    (pictures / "a.txt").write_text(LOOP)
    async with review(pictures) as reader:
        item = await reader.item("a.png")
        await reader.edit(item, item["caption"], what="accept")
        assert (await reader.item("a.png"))["outcome"] == "ok"
    async with review(pictures) as reader:
        assert (await reader.item("a.png"))["outcome"] == "ok"
        (pictures / "a.txt").write_text(LOOP + LOOP)
        assert (await reader.item("a.png"))["outcome"] == "glitched"
