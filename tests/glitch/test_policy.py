"""What to do next, by cause: no I/O at all."""

from __future__ import annotations

from joycap_vllm.glitch import Glitch, Tried, best_of, first_request, what_next

VLLM = (0, 32, 0)


START = first_request(seed=7, temperature=0.6, max_tokens=512, top_p=0.9, top_k=0, vllm=None)


def tried(*kinds: Glitch) -> list[Tried]:
    return [Tried("text", kind) for kind in kinds]


def test_the_first_request_is_what_was_asked_for() -> None:
    assert what_next(START, [], retries=4) == START


def test_only_a_vllm_that_knows_them_gets_vllms_own_fields() -> None:
    old = first_request(
        seed=1, temperature=1, max_tokens=9, top_p=1, top_k=5, vllm=(0, 16, 0)
    ).fields
    new = first_request(seed=1, temperature=1, max_tokens=9, top_p=1, top_k=5, vllm=VLLM).fields

    assert set(START.fields) == {"top_p"}
    assert set(old) == {"top_p", "top_k"}
    assert set(new) == {"top_p", "top_k", "repetition_detection"}


def test_every_attempt_has_a_new_seed_and_is_warmer() -> None:
    empties = tried("empty", "empty", "empty", "empty")
    steps = [what_next(START, empties[:n], retries=4) for n in range(5)]

    assert [s.seed for s in steps if s] == [7, 8, 9, 10, 11]
    assert [s.temperature for s in steps if s] == [0.6, 0.75, 0.9, 1.05, 1.1]


def test_attempts_end_with_the_retries() -> None:
    assert what_next(START, tried("empty", "empty"), retries=1) is None
    assert what_next(START, tried("empty"), retries=0) is None


def test_a_loop_brings_a_penalty_that_grows() -> None:
    once = what_next(START, tried("repetition"), retries=4)
    twice = what_next(START, tried("repetition", "repetition"), retries=4)

    assert once is not None
    assert twice is not None
    assert once.fields["frequency_penalty"] == 0.3
    assert twice.fields["frequency_penalty"] == 0.6


def test_a_refusal_brings_the_second_system_prompt_then_other_words() -> None:
    once = what_next(START, tried("refusal"), retries=4)
    twice = what_next(START, tried("refusal", "refusal"), retries=4)

    assert once is not None
    assert twice is not None
    assert once.system is not None
    assert (once.suffix, bool(twice.suffix)) == ("", True)


def test_a_cut_off_brings_more_tokens_while_the_context_allows() -> None:
    free = what_next(START, tried("truncated"), retries=4)
    tight = what_next(START, tried("truncated"), retries=4, context=1200)

    assert free is not None
    assert tight is not None
    assert (free.max_tokens, tight.max_tokens) == (1024, 600)


def test_the_least_bad_answer_is_kept() -> None:
    answers = [Tried("", "empty"), Tried("half a capt", "truncated"), Tried("no", "refusal")]

    assert best_of(answers) == 1
