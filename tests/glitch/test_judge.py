"""Which answers are captions, and which are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm import judge
from joycap_vllm.glitch import GLITCHES

GOOD = [
    "A large red circle sits in the top left corner of a plain blue background.",
    "blue hair, blue eyes, blue dress, blue shoes, blue sky, blue sea, blue bird, blue car, "
    "blue house, blue door, blue flower, blue hat",
    'A hand-painted sign reads "I cannot live without coffee" above a wooden counter.',
    'A woman holds a card that says "I\'m sorry" in red letters.',
    "Photograph of a tiled floor: black tile, white tile, black tile, white tile, repeating.",
    "A poster with the words “As an AI, I dream” in bold type.",
    "ha ha ha, says the speech bubble over the laughing man.",
    "1girl, solo, long hair, smile, looking at viewer, outdoors, tree, sky",
    "Row, row, row your boat is written on the page in a child's hand.",
    "-" * 40 + " A ruled line above a heading.",
    "I can't believe how beautiful this sunset is! #sunset",
    "I can't get enough of this view!",
    "I'm not going to lie, this cake looks amazing.",
    "I'm so sorry to everyone who missed this party!",
    "Sorry, this beach is taken! Come back tomorrow.",
    "As an AI-generated digital artwork, this piece blends soft light and hard shadow.",
    "Unfortunately, I can't tell you what they said, but the concert was electric!",
    "human, solo, standing, short hair, blue shirt",
    'A web page shows the text "</s> is a tag" in a code editor.',
    "The menu lists coffee, tea, cocoa, juice; each drink has a small drawing beside it.",
]
BAD = [
    ("", "empty"),
    ("   \n", "empty"),
    ("...", "empty"),
    ("a red car, " * 30, "repetition"),
    ("glowing orbs, surreal art, cosmic scene, bright stars, " * 8, "repetition"),
    ("no " * 60, "repetition"),
    ("A dog. " + "The dog is brown. " * 12 + "It sits on a chair.", "repetition"),
    ("wow" + "!" * 60, "repetition"),
    ("I'm sorry, but I can't help with that request.", "refusal"),
    ("I cannot assist with that.", "refusal"),
    ("As an AI language model, I am unable to describe people.", "refusal"),
    ("Sorry, I can’t describe this image.", "refusal"),
    ("I’m not comfortable describing this image.", "refusal"),
    ("Sorry — I can't help with this one.", "refusal"),
    ("I cant help with that", "refusal"),
    ("I am currently unable to view the image.", "refusal"),
    ("I do not have the ability to view images.", "refusal"),
    ("We're unable to assist with this request.", "refusal"),
    ("I have to decline.", "refusal"),
    ("I'd rather not describe this.", "refusal"),
    ("null", "empty"),
    ("N/A", "empty"),
    ("<pad> A cat on a sofa.", "template_leak"),
    ("A cat on a sofa.<|eot_id", "template_leak"),
    ("A red square.<|eot_id|><|start_header_id|>user", "template_leak"),
    ("assistant\n\nA red square on white.", "template_leak"),
    ("A red square on white.\nUser: and the next one?", "template_leak"),
    ("<image>\nA red square.", "template_leak"),
]


@pytest.mark.parametrize("text", GOOD)
def test_a_caption_passes_as_prose_tags_and_mixed(text: str) -> None:
    verdicts = [judge(text, style=s, finish_reason="stop") for s in ("prose", "tags", "mixed")]

    assert [v.why for v in verdicts] == ["", "", ""]
    assert all(v.ok for v in verdicts)


@pytest.mark.parametrize(("text", "kind"), BAD)
def test_a_glitch_is_found_and_explained(text: str, kind: str) -> None:
    verdict = judge(text, style="mixed", finish_reason="stop")

    assert verdict.glitch == kind
    assert verdict.why


def test_the_servers_word_counts() -> None:
    text = "A red square on a white ground."

    assert judge(text, finish_reason="length").glitch == "truncated"
    assert judge(text, finish_reason="repetition").glitch == "repetition"
    assert judge(text, finish_reason="stop").ok


def test_a_filter_is_a_refusal() -> None:
    assert judge("A woman in", finish_reason="content_filter").glitch == "refusal"


def test_without_a_finish_reason_a_hanging_sentence_is_truncated() -> None:
    assert judge("A woman stands beside a table with a").glitch == "truncated"
    assert judge("tree, sky, house,", style="tags").ok


def test_a_caption_that_stands_there_twice_is_a_repetition() -> None:
    once = "A brown dog sleeps on a red sofa beside a window with green curtains. "

    assert judge(once * 2).glitch == "repetition"


def test_a_loop_that_was_cut_is_a_repetition_not_a_truncation() -> None:
    assert judge("red, blue, " * 100, finish_reason="length").glitch == "repetition"


@given(st.text())
def test_any_text_gets_a_verdict_with_a_reason(text: str) -> None:
    verdict = judge(text)

    assert verdict.ok == (verdict.glitch is None) == (not verdict.why)
    assert verdict.ok or verdict.glitch in GLITCHES


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=25).map(" ".join))
def test_whatever_is_said_a_dozen_times_in_a_row_is_a_loop(unit: str) -> None:
    assert judge(f"{unit}, " * 12, finish_reason="stop").glitch == "repetition"
