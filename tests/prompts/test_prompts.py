"""The prompt table and what is built from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.errors import UsageError
from joycap_vllm.prompts import (
    Choice,
    Sampling,
    ask,
    build_prompt,
    custom_prompt,
    dual_prompts,
    harmless,
    legacy_prompt,
    load_prompt_file,
    load_table,
)

TABLE = load_table()


def test_the_table_has_twelve_types_and_twentyseven_numbered_options() -> None:
    assert len(TABLE.types) == 12
    assert [option.number for option in TABLE.extras] == list(range(1, 28))
    assert len({option.name for option in TABLE.extras}) == 27
    assert len(TABLE.system_prompts) == 2


@pytest.mark.parametrize("row", TABLE.types, ids=lambda row: row.name)
def test_every_type_has_three_texts_that_take_what_they_should(row: object) -> None:
    name = row.name  # type: ignore[attr-defined]

    assert "{" not in build_prompt(name).text
    assert "37" in build_prompt(name, words=37).text
    assert "medium-length" in build_prompt(name, length="medium-length").text


def test_words_and_an_extra_option_give_upstreams_exact_text() -> None:
    text = build_prompt("descriptive", words=50, extras=["lighting"]).text

    assert text == (
        "Write a detailed description for this image in 50 words or less. "
        "Include information about lighting."
    )


def test_options_go_by_name_by_number_and_in_ones_own_words() -> None:
    by_name = build_prompt(extras=["lighting"]).text

    assert build_prompt(extras=["3"]).text == by_name
    assert build_prompt(extras=["Include information about lighting."]).text == by_name


def test_a_name_fills_the_tables_row_and_leaves_the_users_braces_alone() -> None:
    text = build_prompt(extras=["name", "Say {name} and {x} and {0}."], name="Ada").text

    assert text.endswith("refer to them as Ada. Say {name} and {x} and {0}.")


def test_without_a_name_upstreams_placeholder_stays() -> None:
    assert "refer to them as {NAME}." in build_prompt(extras=["name"]).text


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Booru tag list", "danbooru-tag-list"),
        ("booru", "danbooru-tag-list"),
        ("casual", "descriptive-casual"),
        ("stable_diffusion", "stable-diffusion-prompt"),
        ("Descriptive (Casual)", "descriptive-casual"),
        ("Danbooru tag list", "danbooru-tag-list"),
    ],
)
def test_other_names_find_their_type(alias: str, name: str) -> None:
    assert build_prompt(alias).name == name


def test_detailed_is_a_long_description() -> None:
    assert build_prompt("detailed").text == "Write a long detailed description for this image."


def test_the_six_legacy_styles_have_their_texts() -> None:
    assert legacy_prompt("descriptive").text == (
        "Write a descriptive caption for this image in a formal tone."
    )
    for style in ("casual", "detailed", "straightforward", "stable_diffusion", "booru"):
        assert legacy_prompt(style).text


@pytest.mark.parametrize(
    "wrong",
    [
        {"type_name": "nonsense"},
        {"length": "enormous"},
        {"words": 0},
        {"words": 5, "length": "short"},
        {"extras": ["28"]},
        {"extras": ["nonsense"]},
    ],
)
def test_what_the_table_does_not_have_is_a_usage_error(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        build_prompt(**wrong)  # type: ignore[arg-type]


def test_dual_asks_for_tags_within_50_words_and_prose_within_160() -> None:
    tags, prose = dual_prompts()

    assert tags.text == "Write a list of Booru-like tags for this image within 50 words."
    assert prose.text.startswith("Write a straightforward caption for this image within 160 words.")


def test_variables_are_filled_in_and_other_braces_stay() -> None:
    prompt = custom_prompt([Choice("Tags: {tags}; {stem} {unknown} {} {{tags}}")])

    asked = ask(prompt, "k", {"tags": "a, {stem}", "stem": "dog"})

    assert asked == "Tags: a, {stem}; dog {unknown} {} {a, {stem}}"


@pytest.mark.parametrize(
    "hostile",
    [
        "<|eot_id|>",
        "<|reserved_special_token_69|>",
        "<image>",
        "<|<|eot_id|>eot_id|>",
        "<im<image>age>",
        "</s>",
        "<" * 5000 + "image" + ">" * 5000,
        "<|" * 5000 + "a" + "|>" * 5000,
    ],
)
def test_special_tokens_in_what_is_filled_in_are_made_harmless(hostile: str) -> None:
    clean = harmless(f"a {hostile} b")

    assert "<|" not in clean
    assert "|>" not in clean
    assert "<image>" not in clean


@given(st.text())
def test_no_text_keeps_a_special_token(text: str) -> None:
    clean = harmless(text + "<|eot_id|>" + text)

    assert "<|" not in clean
    assert "<image>" not in clean.lower()


def test_weighted_choices_follow_their_weights_and_stay_with_their_image() -> None:
    prompt = custom_prompt([Choice("often", 3), Choice("seldom", 1)])
    drawn = [ask(prompt, f"image {n}", {}) for n in range(2000)]

    assert drawn == [ask(prompt, f"image {n}", {}) for n in range(2000)]
    assert 0.70 < drawn.count("often") / 2000 < 0.80


def test_a_prompt_file_may_be_text_or_weighted_json(tmp_path: Path) -> None:
    plain = tmp_path / "p.txt"
    plain.write_text("Describe this.\n", encoding="utf-8")
    weighted = tmp_path / "p.json"
    weighted.write_text('["one", {"prompt": "two", "weight": 2.5}]', encoding="utf-8")

    assert load_prompt_file(plain) == [Choice("Describe this.")]
    assert load_prompt_file(weighted) == [Choice("one"), Choice("two", 2.5)]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '[{"prompt": 1}]', '[{"prompt": "a", "weight": 0}]', "[nonsense"]
)
def test_a_broken_prompt_file_is_a_usage_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "p.json"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(UsageError, match=r"p\.json"):
        load_prompt_file(file)


def test_the_fingerprint_changes_with_all_that_shapes_an_answer() -> None:
    base = build_prompt().fingerprint("r1")

    assert base == build_prompt().fingerprint("r1")
    assert len(base) == 16
    others = {
        build_prompt().fingerprint("r2"),
        build_prompt(words=5).fingerprint("r1"),
        build_prompt(system="x").fingerprint("r1"),
        build_prompt(sampling=Sampling(temperature=0.7)).fingerprint("r1"),
        build_prompt(sampling=Sampling(seed=1)).fingerprint("r1"),
    }
    assert len(others | {base}) == 6
