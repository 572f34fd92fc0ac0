"""What sidecars and rows are judged by, and that many processes say what one says."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joycap_vllm.errors import JoycapError
from joycap_vllm.job.guess import guess_style
from joycap_vllm.job.lint_rows import Rows, cut_rows, judge_rows, lint_rows
from joycap_vllm.job.lint_sidecars import Look, judge_text
from joycap_vllm.job.pool import in_order
from joycap_vllm.job.stored import StoredJob
from joycap_vllm.outputs import Dressing, SidecarOptions
from joycap_vllm.prompts import Prompt, Style, build_prompt, dual_prompts

GOOD = "A dog sleeps on a blue blanket."
TAGS = "dog, blanket, blue, sleeping, indoors"
LOOP = "a red car, " * 40


@pytest.mark.parametrize(
    ("text", "style"),
    [
        (TAGS, "tags"),
        ("1girl, solo", "tags"),
        ("artist:someone, long_hair, looking at viewer, rating:safe", "tags"),
        ("dog\nblanket\nblue", "tags"),
        ("A dog, a cat, and a bird.", "prose"),
        ("A dog sleeps. It is blue, soft, warm", "prose"),
        ("A woman in a red dress stands on a beach, holding a", "prose"),
        ("A dog", "prose"),
        ("", "prose"),
        ("Photograph of a man in a dark coat, standing beside an old car, looking away", "prose"),
        ("portrait of a man in a dark coat, standing beside an old car, soft light", "mixed"),
        ("dog, cat, a very long phrase that goes on for a while, bird", "mixed"),
    ],
)
def test_the_style_is_guessed_from_the_looks(text: str, style: str) -> None:
    assert guess_style(text) == style


def look(*prompts: Prompt, together: bool = False, dressing: Dressing | None = None) -> Look:
    sidecars = SidecarOptions(
        prompts=tuple(prompt.name for prompt in prompts),
        root=Path("/in"),
        together=together,
        dressing=dressing or Dressing(),
    )
    return Look(job=StoredJob(Path("/in/.joycap"), prompts, sidecars))


def test_each_prompt_of_a_job_is_told_by_the_end_of_the_name() -> None:
    prompts = (build_prompt("straightforward"), build_prompt("booru-like-tag-list"))
    seen = look(*prompts)

    assert seen.prompts_of(Path("a.png.txt")) == prompts[:1]
    assert seen.prompts_of(Path("a.booru-like-tag-list.txt")) == prompts[1:]
    assert Look(extension=".cap", job=seen.job).prompts_of(Path("a.cap")) == ()


def test_a_name_that_ends_like_a_prompt_may_be_an_images_own(tmp_path: Path) -> None:
    prompts = (build_prompt("booru-like-tag-list"), build_prompt("straightforward"))
    for name in ("a.straightforward.png", "b.JPG"):
        (tmp_path / name).touch()
    seen = look(*prompts)

    assert seen.prompts_of(tmp_path / "a.straightforward.txt") == prompts[:1]
    assert seen.prompts_of(tmp_path / "a.straightforward.straightforward.txt") == prompts[1:]
    assert seen.prompts_of(tmp_path / "b.straightforward.txt") == prompts[1:]


def test_the_lines_of_a_dual_file_are_judged_each_in_its_style() -> None:
    tags, prose = dual_prompts()
    seen = look(tags, prose, together=True)

    assert judge_text(f"{TAGS}\n{GOOD}", seen, Path("a.txt")).verdict.ok
    found = judge_text(f"{LOOP}\n{GOOD}", seen, Path("a.txt"))
    assert (found.verdict.glitch, found.prompts) == ("repetition", (tags.name,))
    assert found.verdict.why.startswith("line 1: ")
    found = judge_text(TAGS, seen, Path("a.txt"))
    assert (found.verdict.glitch, found.prompts) == ("empty", (prose.name,))


def test_without_a_job_tags_over_prose_are_two_captions() -> None:
    found = judge_text(f"{TAGS}\nA dog sleeps on a", Look(), Path("a.txt"))

    assert (found.verdict.glitch, found.prompts) == ("truncated", ())
    assert found.verdict.why.startswith("line 2: ")
    assert judge_text(f"{TAGS}\n{GOOD}", Look(), Path("a.txt")).verdict.ok


def test_what_was_put_around_captions_is_not_judged() -> None:
    dressing = Dressing(prefix="photo of ", suffix=" <lora:x>", trigger="ohwx")
    seen = look(build_prompt(), dressing=dressing)

    assert judge_text("photo of ohwx, A dog <lora:x>", seen, Path("a.txt")).verdict.ok
    assert judge_text("photo of ohwx,  <lora:x>", seen, Path("a.txt")).verdict.glitch == "empty"
    assert (
        judge_text("photo of ohwx, A dog on a <lora:x>", seen, Path("a.txt")).verdict.glitch
        == "truncated"
    )


texts = st.sampled_from([GOOD, TAGS, LOOP, "", "I'm sorry, but I can't help with that."])
lines = st.one_of(
    st.builds(lambda text: orjson.dumps({"text": text}), texts | st.text(max_size=30)),
    st.sampled_from([b"", b"  ", b"{", b"null", b'{"text": 1}']),
)


@given(st.lists(lines, max_size=30).map(b"\n".join), st.integers(1, 80))
def test_rows_keep_their_numbers_whatever_the_blocks(data: bytes, block: int) -> None:
    blocks = [data[at : at + block] for at in range(0, len(data), block)]
    numbered = [
        (number, line)
        for rows in cut_rows(blocks)
        for number, line in enumerate(rows.data.split(b"\n"), rows.first)
        if line
    ]

    assert numbered == [(n, line) for n, line in enumerate(data.split(b"\n"), 1) if line]


@settings(max_examples=3, deadline=None)
@given(st.lists(lines, min_size=5, max_size=40), st.sampled_from([None, "prose", "tags"]))
def test_many_processes_say_what_one_by_one_is_judged(
    tmp_path_factory: pytest.TempPathFactory, rows: list[bytes], style: Style | None
) -> None:
    file = tmp_path_factory.mktemp("lint") / "rows.jsonl"
    many = [*rows, orjson.dumps({"text": GOOD * 40})] * 2000
    file.write_bytes(b"\n".join(many[:4000]))
    found = b"".join(
        findings.rows for findings in lint_rows([file], style, bad_only=False, workers=3)
    )
    one_by_one = b"".join(
        judge_rows(Rows(row, number), style=style, bad_only=False).rows
        for number, row in enumerate(many[:4000], 1)
        if row
    )

    assert found == one_by_one


def test_only_as_much_is_taken_as_comes_out() -> None:
    taken = 0

    def endless() -> Iterator[Rows]:
        nonlocal taken
        while True:
            taken += 1
            yield Rows(b'{"text": "A dog."}\n' * 2000, 1)

    work = partial(judge_rows, style="prose", bad_only=True)
    with closing(in_order(endless(), work, workers=2, home="joycap_vllm.job.lint_rows")) as found:
        for _ in range(40):
            assert next(found).ok == 2000

    assert taken < 40 + 20


def test_a_judge_that_is_killed_is_told() -> None:
    rows = [Rows(b" " * (1 << 18), 1)] * 8
    with pytest.raises(JoycapError, match="--workers"):
        list(in_order(rows, _die_elsewhere, workers=2, home="joycap_vllm.job.lint_rows"))


def _die_elsewhere(_: Rows) -> None:
    if multiprocessing.parent_process() is not None:
        os._exit(9)
