"""The good beginning of a glitched answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.glitch import Glitch, judge, trim
from joycap_vllm.prompts import Style

SENTENCE = "A red car with a black roof stands on a wet road at night."


@pytest.mark.parametrize(
    ("good", "rest"),
    [
        (SENTENCE, " A man in a dar"),
        (SENTENCE, " It was built by Dr."),
        (SENTENCE, " It was shot at f/2."),
        (SENTENCE, " It is about 3.5 meters long, and Mr. J. R. Smith of St. Ives"),
        (SENTENCE, ' A sign says "Stop. Wait here. Go'),
        (SENTENCE, " The road (which is wet. Very wet. And"),
        (SENTENCE, " The sky trails off... And then"),
        (f'{SENTENCE} A sign says "Stop. Now!"', " It is"),
        (f"{SENTENCE} A sign says “No. Never.”", " It is"),
        (f'{SENTENCE} A 24" wheel leans on it.', " The whe"),
        (f"{SENTENCE}\n\nIs it new? It may be!", "\n\nThe"),
        (f"Shot on film, e.g. at 5 p.m. in the U.S. by J. Doe, etc. and so on. {SENTENCE}", " T"),
        (f"1. {SENTENCE}", "\n2. A man waits"),
        (SENTENCE, ""),
    ],
)  # fmt: skip
def test_a_cut_off_keeps_its_whole_sentences(good: str, rest: str) -> None:
    assert trim(good + rest, "truncated", "prose") == good


def test_a_cut_off_list_loses_its_last_tag() -> None:
    text = "1girl, solo, artist:foo_(bar), blue_hair, open_mo"

    assert trim(text, "truncated", "tags") == "1girl, solo, artist:foo_(bar), blue_hair"


def test_a_cut_off_list_that_ends_with_a_comma_loses_no_tag() -> None:
    assert (
        trim("1girl, solo, hat, blue_hair,", "truncated", "tags") == "1girl, solo, hat, blue_hair"
    )


def test_a_mixed_text_is_cut_as_what_it_looks_like() -> None:
    listing = "masterpiece, best quality, 1girl, blue hair, sitting on a ben"

    assert trim(listing, "truncated", "mixed") == listing.removesuffix(", sitting on a ben")
    assert trim(f"{SENTENCE} A man, tall, in a dar", "truncated", "mixed") == SENTENCE


LIT = " The sign of shop {} is lit."
LOOPS = [
    (f"{SENTENCE} A man waits.", " A man waits." * 30),
    (f"{SENTENCE} It rains. A man waits there.", " It rains. A man waits there." * 20),
    (SENTENCE, " It is a red car" + " and a red car" * 40),
    (SENTENCE + LIT.format(1), "".join(LIT.format(number) for number in range(2, 40))),
]


@pytest.mark.parametrize(("good", "rest"), LOOPS)
def test_of_a_loop_its_first_round_stays(good: str, rest: str) -> None:
    assert trim(good + rest, "repetition", "prose") == good


def test_of_a_loop_of_tags_each_tag_stays_once() -> None:
    text = "1girl, solo, hat, bench, " + "blue_hair, red_eyes, " * 40 + "blue"

    assert trim(text, "repetition", "tags") == "1girl, solo, hat, bench, blue_hair, red_eyes"


@pytest.mark.parametrize("leak", ["assistant\n\nThe image", "<|eot_id|>", "</s>", "\n\nUSER: more"])
def test_what_stands_before_a_leak_stays(leak: str) -> None:
    assert trim(SENTENCE + leak, "template_leak", "prose") == SENTENCE


def test_an_overlong_text_keeps_the_sentences_within_its_limit() -> None:
    text = f"{SENTENCE} A man waits by it. He looks at his watch and then at the sky."

    assert trim(text, "too_long", "prose", words=20) == f"{SENTENCE} A man waits by it."


@pytest.mark.parametrize("kind", ["refusal", "empty", "gibberish", "prompt_echo", "bad_format"])
def test_what_is_bad_from_its_start_is_not_trimmed(kind: Glitch) -> None:
    assert trim(f"{SENTENCE} And so on", kind, "prose") is None


@pytest.mark.parametrize(
    ("text", "kind", "style"),
    [
        ("", "truncated", "prose"),
        ("A red car. It", "truncated", "prose"),
        (f"{SENTENCE} " + "a long stretch without any end " * 30, "truncated", "prose"),
        ("no end in sight " * 40, "repetition", "prose"),
        ("1girl, solo, ha", "truncated", "tags"),
        ("I'm sorry, but I can't help with that request about it. Perhaps", "truncated", "prose"),
    ],
)
def test_too_little_or_nothing_good_is_no_caption(text: str, kind: Glitch, style: Style) -> None:
    assert trim(text, kind, style) is None


words = st.sampled_from(
    'a the red car man dog hat, sky road. tree! 3.5 f/2.8 Dr. "so" (old) big… night? <|eot_id|> '
    "walks, slowly. blue_hair, solo, It Was. assistant\n\n no\n".split(" ")
)
texts = st.lists(words, max_size=120).map(" ".join) | st.text(max_size=300)


@given(
    texts,
    texts,
    st.integers(1, 40),
    st.sampled_from(["truncated", "repetition", "template_leak", "too_long"]),
    st.sampled_from(["prose", "tags", "mixed"]),
    st.none() | st.integers(1, 60),
)
def test_what_is_left_is_a_good_beginning_that_ends_well(
    head: str, unit: str, rounds: int, kind: Glitch, style: Style, limit: int | None
) -> None:
    text = head + unit * rounds
    left = trim(text, kind, style, words=limit)

    if left is None:
        return
    assert left == left.strip()
    assert text.strip().startswith(left)
    assert judge(left, style=style, finish_reason="stop", words=limit).ok
    rest = text.strip()[len(left) :].lstrip(" ")
    assert left[-1] in ".!?\"'”’)]*_" or style != "prose"
    assert style != "tags" or not rest or rest[0] in ",\n"
    assert kind != "too_long" or limit is None or len(left.split()) <= limit
