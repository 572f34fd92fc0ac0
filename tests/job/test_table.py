"""Tables of digests: like a dictionary, without the texts."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.job.table import Seen, Table, digest_of

TEXTS = st.text(st.characters(), max_size=4)  # lone surrogates too


@given(st.lists(TEXTS))
def test_what_was_seen_is_known_and_nothing_else(texts: list[str]) -> None:
    seen, model = Seen(), set[str]()
    for text in texts:
        assert (text in seen) == (text in model)
        assert seen.add(text) == (text not in model)
        model.add(text)

    assert len(seen) == len(model)
    assert all(text in seen for text in model)


@given(st.lists(st.lists(st.sampled_from("abcdefgh"))))
def test_a_table_gives_the_newest_row_and_says_which_there_was(groups: list[list[str]]) -> None:
    table, model, rows = Table(), dict[str, int](), 0
    for group in groups:
        expected = []
        for text in group:
            rows += 1
            if text in model:
                expected.append((model[text], rows))
            model[text] = rows
        assert table.extend(b"".join(map(digest_of, group))) == expected

    assert len(table) == len(model)
    assert {text: table.find(digest_of(text)) for text in model} == model
    assert table.find(digest_of("z")) == 0


def test_a_table_grows_and_forgets_nothing() -> None:
    seen, texts = Seen(), [f"key {number}" for number in range(5000)]

    assert all(map(seen.add, texts))
    assert not any(map(seen.add, texts))
    assert (len(seen), "key 5000" in seen) == (5000, False)


def test_equal_heads_are_told_apart_by_their_tails() -> None:
    table = Table()
    one, two = b"same hea" + b"1234", b"same hea" + b"5678"

    assert [table.add(each) for each in (one, two, one, two)] == [0, 0, 1, 2]
    assert (table.find(one), table.find(two)) == (1, 2)
    assert table.extend(one + two) == [(1, 3), (2, 4)]


@given(st.tuples(TEXTS, TEXTS), st.tuples(TEXTS, TEXTS))
def test_keys_and_prompts_do_not_run_into_each_other(
    one: tuple[str, str], two: tuple[str, str]
) -> None:
    assert (digest_of(*one) == digest_of(*two)) == (one == two)
    assert digest_of("b", "a") != digest_of("ab")
    assert digest_of("1 a", "") != digest_of("a", "1")


def test_a_key_takes_few_bytes() -> None:
    seen = Seen()
    for number in range(20_000):
        seen.add(f"a folder with quite a long name/and a file with another {number}.jpg")
    table = seen._table
    columns = (table._heads, table._tails, table._slots)

    assert sum(map(sys.getsizeof, columns)) / len(seen) < 24
