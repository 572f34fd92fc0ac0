"""Loops of every shape, and what only looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm import judge

SENTENCE = "The quiet street is lined with tall trees whose yellow leaves cover the pavement."
LOOPS = {
    "one character": "wow" + "!" * 60,
    "letters without spaces": "The sign says Lu" + "Lu" * 40,
    "a word": "a photo of no " + "no " * 60,
    "a tag": "1girl, " * 30,
    "a few tags": "glowing orbs, surreal art, cosmic scene, bright stars, " * 8,
    "a phrase without signs": "on the left side of the image " * 5,
    "a sentence": (SENTENCE + " ") * 5,
    "forty words": ("A " + " ".join(f"w{chr(97 + i % 26)}{i // 26}x" for i in range(40)) + ". ")
    * 3,
    "in the middle": "A dog. " + "The dog is brown. " * 12 + "It sits on a chair by the window.",
    "a list that counts": "".join(
        f"{i}. The tower is made of stone and glass.\n" for i in range(9)
    ),
    "tags that count": ", ".join(f"{i}girls" for i in range(1, 60)),
    "ideograms": "一只猫坐在沙发上" * 12,
    "digits": "The value is 0.3" + "3" * 200,
    "digits in a circle": "1234567890" * 20,
    "with two in turn": "The collar is red. The leash is blue and long. " * 7,
    "drifting": "This picture shows a small blue square "
    + "picture shows a small blue square " * 2
    + "".join(f"picture shows a small {c} square " for c in ("red", "blue", "red", "blue") * 5),
    "with others between": "".join(
        f"{SENTENCE} Behind it stands a {colour} house of three floors with a flat roof. "
        for colour in ("red", "white", "grey", "green")
    ),
    "alike but for a word": "".join(
        f"The collage is made up of different shades of {colour}. "
        for colour in ("red", "blue", "gold", "grey", "pink", "jade", "plum", "rust")
    ),
    "phrases that differ in a word": " ".join(
        f"In the background, there are {things}."
        for things in ("trees", "cars", "dogs", "cats", "boats", "birds", "hills", "roads") * 2
    ),
    "all of it twice": "A brown dog sleeps on a red sofa beside a window with green curtains. " * 2,
    "twice with a label": f"{SENTENCE} A dog waits.\n\nCaption: {SENTENCE} A dog waits.",
}


@pytest.mark.parametrize("finish", ["stop", "length", None])
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_found_with_its_evidence(name: str, finish: str | None) -> None:
    verdict = judge(LOOPS[name], style="mixed", finish_reason=finish)

    assert verdict.glitch == "repetition"
    assert any(character.isdigit() for character in verdict.why)  # how often, or from where


def test_the_evidence_names_the_unit_how_often_and_where_it_starts() -> None:
    why = judge("A lamp. " + "red car, " * 10, style="mixed").why

    assert why.startswith("'red car ,' stands")
    assert "in a row from word 4 on" in why


_THINGS = ("hair", "eyes", "dress", "shoes", "sky", "sea", "bird", "car", "house", "door")
_MONTHS = ("January", "February", "March", "April", "May", "June", "July")
NO_LOOPS = {
    "alike tags": ", ".join(f"{c} {thing}" for c in ("blue", "dark") for thing in _THINGS),
    "a refrain": (
        "Oh the river runs low\nAnd the willow trees know\nAs the ferryman sings to the moon\n"
        "We will cross it in June\n\nOh the river runs high\nUnder copper-red sky\n"
        "As the ferryman sings to the moon\nWe will cross it in June\n\nOh the river stands still\n"
        "By the old paper mill\nAs the ferryman sings to the moon\nWe will cross it in June\n"
    ),
    "a pattern": "The rug has a pattern of red stripe, blue stripe, red stripe, blue stripe, then "
    "a wide green border, and the fringe repeats red, blue, red, blue along the edge.",
    "a table": "\n".join(f"* {m}: {n} units, {n * 2}%" for n, m in enumerate(_MONTHS, 11)),
    "sizes": "Sizes: S: 40 cm, M: 44 cm, L: 48 cm, XL: 52 cm, XXL: 56 cm, 3XL: 60 cm.",
    "quoted laughter": 'A comic in which a man shouts "HA HA HA HA HA HA HA HA HA HA HA" aloud.',
    "a ruled line": f"Coffee and cake\n{'-' * 120}\nA menu with a drawing of a cup at its foot.",
    "stars": f"{'⭐ ' * 10}A review card with ten stars above a line of small print.",
    "left and right": "The woman on the left wears a red hat and a blue coat. The woman on the "
    "right wears a red hat and a grey coat. The man on the left wears a black hat and a grey coat. "
    "The man on the right wears no hat and a blue coat.",
    "title and keywords": "Title: mill, river, boats, mud, sky\n\nDescription: A mill by a river "
    "at low tide, with boats on the mud and a wide sky.\n\nKeywords: mill, river, boats, mud, sky",
}


def test_a_list_put_together_from_a_few_words_is_a_loop() -> None:
    colours = ("red", "blue", "green", "black", "white", "grey")
    things = ("shirt", "skirt", "shoes", "hat", "bag", "coat")
    tags = ", ".join(f"{colour}_{thing}" for thing in things for colour in colours)

    assert judge(tags, style="tags").glitch == "repetition"


@pytest.mark.parametrize("name", NO_LOOPS)
def test_what_repeats_for_a_reason_is_no_loop(name: str) -> None:
    assert judge(NO_LOOPS[name], style="mixed", finish_reason="stop").why == ""


def test_a_loop_that_was_cut_is_a_repetition_not_a_truncation() -> None:
    assert judge("red, blue, " * 100, finish_reason="length").glitch == "repetition"


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=25).map(" ".join))
def test_whatever_is_said_a_dozen_times_in_a_row_is_a_loop(unit: str) -> None:
    assert judge(f"{unit}, " * 12, finish_reason="stop").glitch == "repetition"


@given(st.permutations([f"{a}{b}" for a in "bdfgklmnprst" for b in ("ado", "emi", "ilu", "osa")]))
def test_words_that_all_differ_are_no_loop(words: list[str]) -> None:
    assert judge(", ".join(words), style="tags").ok
