"""What to do next, by cause: no I/O at all."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.glitch import (
    GLITCHES,
    REPETITION_DETECTION,
    Ending,
    Glitch,
    Means,
    Next,
    Question,
    Tried,
    best_of,
    find_ending,
    next_request,
    tag_list_regex,
)
from joycap_vllm.prompts import Prompt, Sampling, Style, build_prompt, load_table

PLAIN = Means()
VLLM = Means((0, 32, 0), 4096)
OLD_VLLM = Means((0, 16, 3), 4096)
SECOND_SYSTEM = load_table().system_prompts[1]


def question(
    text: str = "What is on it?",
    style: Style = "prose",
    words: int | None = None,
    system: str = "Be brief.",
    sampling: Sampling | None = None,
) -> Question:
    prompt = Prompt("custom", text, system, style, words, sampling=sampling or Sampling())
    return Question(prompt, text, 7)


def tried(*kinds: Glitch, finish: str = "") -> list[Tried]:
    return [Tried("some text", kind, finish) for kind in kinds]


def times(count: int, kind: Glitch) -> list[Glitch]:
    return [kind] * count


def after(*kinds: Glitch, asked: Question | None = None, means: Means = PLAIN) -> Next:
    return next_request(asked or question(), tried(*kinds), means, retries=4)


def test_the_first_request_is_what_was_asked_for() -> None:
    sampling = Sampling(temperature=0, top_p=0.5, top_k=3, max_tokens=99)

    assert after(asked=question(sampling=sampling)) == Next(
        7, 0, 99, "Be brief.", "What is on it?", {"top_p": 0.5}
    )


def test_only_a_vllm_that_knows_them_gets_vllms_own_fields() -> None:
    loops: tuple[Glitch, ...] = ("repetition",) * 4
    tags = question(style="tags")

    assert set(after(*loops, asked=tags).fields) == {"top_p", "frequency_penalty"}
    assert set(after(*loops, asked=tags, means=OLD_VLLM).fields) == {
        "top_p", "top_k", "frequency_penalty",
    }  # fmt: skip
    assert set(after(*loops, asked=tags, means=VLLM).fields) == {
        "top_p", "top_k", "frequency_penalty", "repetition_detection", "structured_outputs",
    }  # fmt: skip


def test_a_new_vllm_stops_loops_from_the_first_request_on() -> None:
    assert after(means=VLLM).fields["repetition_detection"] == REPETITION_DETECTION


def stopped_at(tokens: list[str]) -> int | None:
    """The token at which vLLM's rule stops an answer: the last `min_count` stretches are equal."""
    rule = REPETITION_DETECTION
    for end in range(1, len(tokens) + 1):
        for size in range(rule["min_pattern_size"], rule["max_pattern_size"] + 1):
            length = size * rule["min_count"]
            stretch = tokens[end - length : end] if length <= end else []
            if stretch and stretch[size:] == stretch[:-size]:
                return end
    return None


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 24])
def test_a_new_vllm_stops_a_loop_after_a_few_dozen_tokens(size: int) -> None:
    head = [f"head{n}" for n in range(50)]
    loop = [f"unit{n}" for n in range(size)] * 200

    assert 32 <= (stopped_at(head + loop) or 0) - len(head) <= max(32, 4 * size)


@pytest.mark.parametrize(
    "text",
    [
        "He cheers hurray " + "! " * 20,
        "A long number 1 " + "000 " * 20,
        "no no no no no no no no no no , says the sign",
        " ".join(f"{color} hair , {color} eyes ," for color in ("red", "blue", "green", "gray")),
        "ho ho ho , " * 6,
        "row row row your boat gently down the stream , " * 3,
    ],
)
def test_it_stops_no_cheer_no_number_no_refrain_and_no_list_of_alike_tags(text: str) -> None:
    assert stopped_at(text.split()) is None


@pytest.mark.parametrize("kind", ["empty", "prompt_echo", "template_leak", "bad_format"])
def test_every_attempt_is_warmer_up_to_a_bound(kind: Glitch) -> None:
    steps = [after(*times(n, kind)) for n in range(5)]

    assert [step.temperature for step in steps] == [0.6, 0.75, 0.9, 1.05, 1.1]


@pytest.mark.parametrize("kind", GLITCHES)
def test_a_greedy_request_is_sampled_when_it_is_asked_again(kind: Glitch) -> None:
    greedy = question(sampling=Sampling(temperature=0))

    assert after(asked=greedy).temperature == 0
    assert after(kind, asked=greedy).temperature >= 0.3


def test_a_temperature_above_the_bound_stays_where_the_user_put_it() -> None:
    hot = question(sampling=Sampling(temperature=1.7))

    assert [after(*times(n, "empty"), asked=hot).temperature for n in (0, 1, 3)] == [1.7] * 3


def test_gibberish_is_asked_again_cooler_and_without_rare_words() -> None:
    hot = question(sampling=Sampling(temperature=1.5, top_p=1.0))
    steps = [after(*times(n, "gibberish"), asked=hot) for n in range(5)]

    assert [step.temperature for step in steps] == [1.5, 0.9, 0.54, 0.32, 0.3]
    assert [step.fields["top_p"] for step in steps] == [1.0, 0.9, 0.9, 0.9, 0.9]


def test_a_loop_brings_a_penalty_that_grows_to_a_bound_and_less_of_it_for_tags() -> None:
    def penalties(style: Style) -> list[float]:
        asked = question(style=style)
        return [
            after(*times(n, "repetition"), asked=asked).fields["frequency_penalty"]
            for n in (1, 2, 3, 4)
        ]

    assert penalties("prose") == [0.2, 0.4, 0.6, 0.6]
    assert penalties("tags") == [0.1, 0.2, 0.3, 0.3]


def test_a_refusal_brings_the_second_system_prompt_then_a_trained_request_then_a_purpose() -> None:
    first, second, third, fourth = (after(*times(n, "refusal")) for n in (1, 2, 3, 4))

    assert (first.system, first.text) == (SECOND_SYSTEM, "What is on it?")
    assert second.text == "Write a detailed description for this image. What is on it?"
    assert third.text.startswith(second.text)
    assert len(third.text) > len(second.text)
    assert {step.system for step in (second, third, fourth)} == {SECOND_SYSTEM}
    assert third.text == fourth.text


def test_a_prompt_that_has_the_second_system_prompt_already_is_reworded_at_once() -> None:
    step = after("refusal", asked=question(system=SECOND_SYSTEM))

    assert step.system == SECOND_SYSTEM
    assert step.text.startswith("Write a detailed description")


def test_a_trained_request_is_not_put_before_itself() -> None:
    prompt = build_prompt("descriptive", system=SECOND_SYSTEM)
    step = after("refusal", asked=Question(prompt, prompt.text, 7))

    assert step.text.startswith(prompt.text)
    assert step.text.count("Write") == 1
    assert step.text != prompt.text


def test_rewording_a_refused_list_of_tags_asks_for_tags() -> None:
    step = after("refusal", "refusal", asked=question(style="tags"))

    assert step.text.startswith("Write a list of Booru-like tags for this image.")


def test_a_cut_off_brings_more_tokens_and_then_asks_for_a_shorter_text() -> None:
    steps = [after(*times(n, "truncated")) for n in (1, 2, 3)]

    assert [step.max_tokens for step in steps] == [1024, 2048, 2048]
    assert [step.text for step in steps[:2]] == ["What is on it?"] * 2
    assert steps[2].text == "What is on it? Finish within 150 words."


def test_the_tokens_never_exceed_what_the_prompt_leaves_of_the_context() -> None:
    cut = [Tried("some text", "truncated", "length", prompt_tokens=800)]
    step = next_request(question(), cut, Means((0, 32), 1600), retries=4)

    assert step.max_tokens == 1600 - 800 - 64


def test_where_the_context_holds_no_more_a_shorter_text_is_asked_for_at_once() -> None:
    cut = [Tried("some text", "truncated", "length", prompt_tokens=800)]
    step = next_request(question(), cut, Means((0, 32), 1100), retries=4)

    assert step.max_tokens == 512
    assert step.text.endswith(" Finish within 118 words.")


def test_a_cut_off_past_the_word_limit_is_asked_for_the_limit_and_not_for_more_tokens() -> None:
    asked = question(words=50)
    step = next_request(asked, [Tried("word " * 90, "truncated", "length")], PLAIN, retries=4)

    assert (step.max_tokens, step.text) == (512, "What is on it? Use at most 50 words.")


def test_a_text_that_broke_off_by_itself_gets_another_seed_and_no_more_tokens() -> None:
    step = next_request(question(), tried("truncated", finish="stop"), PLAIN, retries=4)

    assert (step.seed, step.max_tokens, step.text) == (8, 512, "What is on it?")


def test_an_overlong_text_is_asked_for_ever_fewer_words() -> None:
    asked = question(words=100)
    texts = [after(*times(n, "too_long"), asked=asked).text for n in (1, 2, 3, 4)]

    assert [text.removeprefix("What is on it? ") for text in texts] == [
        "Use at most 100 words.",
        "Use at most 80 words.",
        "Use at most 60 words.",
        "Use at most 60 words.",
    ]


def test_a_wrong_form_and_a_wrong_language_are_named() -> None:
    assert after("bad_format", asked=question(style="tags")).text.endswith(
        " Answer only with tags, separated by commas."
    )
    assert after("bad_format").text.endswith(" Answer in whole sentences, as plain text.")
    assert after("wrong_language").text.endswith(" Answer in English.")


def test_a_list_of_tags_is_held_to_its_form_in_the_last_two_attempts_only() -> None:
    tags = question(style="tags")

    def held(*kinds: Glitch, asked: Question = tags, retries: int = 4) -> bool:
        step = next_request(asked, tried(*kinds), VLLM, retries=retries)
        return "structured_outputs" in step.fields

    formless: tuple[Glitch, ...] = ("bad_format",) * 4
    assert [held(*formless[:n]) for n in range(5)] == [False, False, False, True, True]
    assert held("repetition", retries=1)
    assert not held("refusal", "refusal", "refusal", "refusal")
    assert not held(*formless, asked=question(style="mixed"))


def test_each_remedy_stays_when_another_glitch_follows() -> None:
    step = after("refusal", "repetition", "truncated", "wrong_language")

    assert step.system == SECOND_SYSTEM
    assert step.fields["frequency_penalty"] == 0.2
    assert step.max_tokens == 1024
    assert step.text.endswith("Answer in English.")


def test_a_caption_ends_a_task_and_so_do_used_up_attempts() -> None:
    good = [*tried("empty"), Tried("A red car.", None)]

    assert find_ending(question(), [], retries=0) is None
    assert find_ending(question(), good, retries=4) == Ending("ok", 1)
    assert find_ending(question(), tried("empty"), retries=1) is None
    assert find_ending(question(), tried("empty", "empty"), retries=1) == Ending("glitched", 0)


def test_the_least_bad_answer_is_kept() -> None:
    answers = [Tried("", "empty"), Tried("half a capt", "truncated"), Tried("no", "refusal")]

    assert best_of(question(), answers) == Ending("glitched", 1)


def test_the_longest_answer_that_trimming_mends_is_worth_most() -> None:
    loop = "A red car stands on a wet road at night. A man waits. " + "He waits there. " * 40
    longer = "A red car with a black roof stands on a wet road at night. A man waits by it. Its d"
    answers = [
        Tried("una macchina rossa sta sulla strada", "wrong_language"),
        Tried(loop, "repetition"),
        Tried(longer, "truncated", "length"),
        Tried("I cannot help with that.", "refusal"),
    ]

    assert best_of(question(), answers) == Ending("glitched", 2, longer.removesuffix(" Its d"))


TAGS = (
    "1girl, solo, long_hair, looking_at_viewer",
    "artist:foo_(bar), copyright:re:zero, character:d.va_(overwatch), meta:highres, 3:2_ratio",
    "it's_a_trap, >_<, :d, ^_^, half-closed_eyes, k/da_(league_of_legends), love_live!",
    "red circle, plain blue background, simple background, no humans",
    "café, naïve_art, 東方project, straße, l'oréal",
    "00s, 2girls, spoiler:the_end_(season_2), <3, !?, |_|, @_@, mr._game_&_watch",
)
NO_TAGS = (
    "The image shows a large red circle on a plain white background and nothing else at all.",
    "1girl",
    "1girl, solo",
    "1girl,, solo, hat",
    "1girl, solo, hat,",
    "1girl\nsolo\nhat",
    "This photograph shows an old man, who sits on a wooden bench in the park, and a dog.",
    ", ".join(f"tag{n}" for n in range(90)),
)


@pytest.mark.parametrize("text", TAGS)
def test_the_pattern_of_a_tag_list_takes_real_tags(text: str) -> None:
    assert re.fullmatch(tag_list_regex(), text)


@pytest.mark.parametrize("text", NO_TAGS)
def test_the_pattern_of_a_tag_list_takes_nothing_else_and_ends(text: str) -> None:
    assert not re.fullmatch(tag_list_regex(), text)


def test_the_pattern_of_a_tag_list_keeps_to_a_word_limit() -> None:
    four = "red, green, blue, white"

    assert re.fullmatch(tag_list_regex(4), four)
    assert not re.fullmatch(tag_list_regex(4), f"{four}, black")


questions = st.builds(
    question,
    style=st.sampled_from(["prose", "tags", "mixed"]),
    words=st.none() | st.integers(1, 500),
    system=st.sampled_from(["", "Be brief.", SECOND_SYSTEM]),
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0, 2),
        top_p=st.floats(0.01, 1),
        max_tokens=st.integers(1, 4096),
    ),
)
means = st.builds(
    Means,
    vllm=st.sampled_from([None, (0,), (0, 16), (0, 17), (0, 32, 0), (1, 0)]),
    context=st.none() | st.integers(16, 131072),
)
histories = st.lists(
    st.builds(
        Tried,
        text=st.text(max_size=200),
        glitch=st.sampled_from(GLITCHES),
        finish=st.sampled_from(["", "stop", "length", "repetition"]),
        prompt_tokens=st.sampled_from([0, 760, 900]),
    ),
    max_size=8,
)


@given(questions, means, histories)
def test_any_history_leads_to_a_request_within_its_bounds(
    asked: Question, endpoint: Means, answers: list[Tried]
) -> None:
    first = next_request(asked, [], endpoint, retries=8)
    steps = [next_request(asked, answers[:n], endpoint, retries=8) for n in range(len(answers) + 1)]
    last = steps[-1]

    assert [step.seed for step in steps] == list(range(7, 8 + len(answers)))
    assert all(0.3 <= step.temperature <= max(1.1, first.temperature) for step in steps[1:])
    assert first.max_tokens <= last.max_tokens <= 4 * first.max_tokens
    if endpoint.context is not None and last.max_tokens > first.max_tokens:
        assert last.max_tokens < endpoint.context
    assert asked.text in last.text
    assert last.system in (asked.prompt.system, SECOND_SYSTEM)
    assert 0 <= last.fields.get("frequency_penalty", 0) <= 0.6
    if not endpoint.own_fields:
        assert not {"repetition_detection", "structured_outputs"} & set(last.fields)
    if endpoint.vllm is None:
        assert set(last.fields) <= {"top_p", "frequency_penalty"}


@given(questions, histories, st.integers(0, 8))
def test_any_history_ends_exactly_when_its_attempts_are_used_up(
    asked: Question, answers: list[Tried], retries: int
) -> None:
    ending = find_ending(asked, answers, retries=retries)

    assert (ending is None) == (len(answers) <= retries)
    if ending is not None:
        assert ending.outcome == "glitched"
        assert 0 <= ending.index < len(answers)
        assert ending.trimmed is None or answers[ending.index].text.strip().startswith(
            ending.trimmed
        )
