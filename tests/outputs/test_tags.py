"""Lists of tags: spelling, order, what is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.outputs import Dressing, TagOptions, dress, polish_tags, read_tags
from joycap_vllm.outputs.tags import split_tags

SPACES = TagOptions(underscores="spaces")
FACES = ["^_^", ">_<", "o_o", "0_0", "|_|", "3_3", "6_9", "(o)_(o)", "||_||", "@_@", ":3", "._."]
tags = st.lists(
    st.sampled_from(
        ["1girl", "long_hair", "Long Hair", "solo", "^_^", "artist:a_name", "saber_\\(fate\\)"]
    ),
    min_size=1,
)
any_options = st.builds(
    TagOptions,
    underscores=st.sampled_from(["keep", "spaces"]),
    separator=st.sampled_from([None, ", ", ",", " | "]),
    first=st.lists(st.sampled_from(["solo", "SOLO", "long hair", "^_^"])).map(tuple),
    undesired=st.lists(st.sampled_from(["1GIRL", "long_hair", "none"])).map(tuple),
    dedupe=st.booleans(),
)


@pytest.mark.parametrize("text", ["a,b ,  c", "1girl,\nsolo", "a, a, b_c.", " x ", "", ", ,"])
def test_by_default_nothing_changes(text: str) -> None:
    assert polish_tags(text, TagOptions()) == text


@pytest.mark.parametrize("face", FACES)
def test_faces_keep_their_underscores(face: str) -> None:
    assert polish_tags(f"long_hair, {face}, solo", SPACES) == f"long hair, {face}, solo"


@pytest.mark.parametrize(
    ("tag", "spaced"),
    [
        ("artist:some_name", "artist:some name"),
        ("artist:o_o", "artist:o_o"),
        ("character:hatsune_miku_(vocaloid)", "character:hatsune miku (vocaloid)"),
        ("saber_\\(fate\\)", "saber \\(fate\\)"),
        ("(blue_eyes:1.2)", "(blue eyes:1.2)"),
        ("re:zero_kara", "re:zero kara"),
        ("t-shirt", "t-shirt"),
        ("année_zéro", "année zéro"),
    ],
)
def test_underscores_become_spaces_in_words(tag: str, spaced: str) -> None:
    assert polish_tags(tag, SPACES) == spaced


def test_undesired_tags_go_whatever_their_spelling() -> None:
    options = TagOptions(undesired=("Long Hair", "saber_(fate)"))

    assert polish_tags("solo, long_hair, LONG HAIR, saber \\(fate\\)", options) == "solo"
    assert polish_tags("long_hair, very_long_hair", options) == "very_long_hair"


def test_always_first_tags_come_in_the_order_given_and_only_where_they_are() -> None:
    options = TagOptions(first=("solo", "1girl", "absent"))

    assert polish_tags("blue_eyes, 1girl, smile, Solo", options) == "Solo, 1girl, blue_eyes, smile"


def test_of_equal_tags_the_first_stays_where_it_is() -> None:
    options = TagOptions(dedupe=True)

    assert polish_tags("a_b, c, A B, d, c", options) == "a_b, c, d"


@pytest.mark.parametrize(
    ("text", "separator", "expected"),
    [
        ("a,b,c", None, "a,b,c"),
        ("a, b, c", None, "a, b, c"),
        ("a\nb\nc", None, "a, b, c"),
        ("a,b,c", ", ", "a, b, c"),
        ("a, b,, c,", "; ", "a; b; c"),
    ],
)
def test_the_separator_is_the_answers_own_or_the_one_given(
    text: str, separator: str | None, expected: str
) -> None:
    assert polish_tags(text, TagOptions(separator=separator, dedupe=True)) == expected


def test_a_full_stop_behind_the_list_belongs_to_no_tag() -> None:
    options = TagOptions(undesired=("solo",), first=("smile",))

    assert polish_tags("1girl, solo, smile.", options) == "smile, 1girl"
    assert polish_tags("1girl, ._.", TagOptions(dedupe=True)) == "1girl, ._."


def test_an_emptied_list_gives_no_caption_whatever_would_stand_around_it() -> None:
    dressing = Dressing("<", ">", "ohwx", TagOptions(undesired=("solo",)))

    assert dress("Solo.", dressing, tags=True) == ""
    assert dress("Solo.", dressing) == "<ohwx, Solo.>"


def test_the_trigger_comes_before_the_tags_that_always_come_first() -> None:
    dressing = Dressing("", "!", "ohwx", TagOptions(first=("solo",)))

    assert dress("1girl, solo", dressing, tags=True) == "ohwx, solo, 1girl!"


def test_users_may_give_tags_one_by_one_or_with_commas() -> None:
    assert read_tags(["a", "b_c, d\ne", ""]) == ("a", "b_c", "d", "e")


@given(tags, any_options)
def test_polishing_twice_is_polishing_once_and_makes_no_tag_up(
    given_tags: list[str], options: TagOptions
) -> None:
    once = polish_tags(", ".join(given_tags), options)
    told = {t.replace("_", " ") for t in given_tags}

    if options.separator != " | ":  # which the next one would not split at
        assert polish_tags(once, options) == once
        assert {t.replace("_", " ") for t in split_tags(once)} <= told
    assert not any(line in once for line in "\r\n")


@given(st.text(alphabet=st.sampled_from("ab_,. \n():<>\\^|é"), max_size=40), any_options)
def test_no_text_breaks_it(text: str, options: TagOptions) -> None:
    polished = dress(text, Dressing(tags=options), tags=True)

    assert "\n" not in polished
    assert polished or not split_tags(text) or options != TagOptions()
