"""What a server says of itself about how many requests it works on at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.fleet.seats import captions_in_memory, first_seats

INFO = (
    'vllm:cache_config_info{{block_size="16",cache_dtype="auto",engine="{engine}",'
    'kv_cache_size_tokens="{tokens}",num_gpu_blocks="{blocks}",num_cpu_blocks="None"}} 1.0\n'
)
OTHER = 'vllm:num_requests_running{engine="0",model_name="joycaption"} 3.0\n'


def test_the_cache_of_a_vllm_tells_how_many_captions_it_holds() -> None:
    assert captions_in_memory(OTHER + INFO.format(engine=0, tokens=105_000, blocks=1)) == 100
    assert captions_in_memory(INFO.format(engine=0, tokens="None", blocks=6563)) == 100


def test_the_engines_of_one_server_add_up() -> None:
    text = "".join(INFO.format(engine=n, tokens=105_000, blocks=1) for n in range(4))

    assert captions_in_memory(text) == 400


def test_the_guess_is_no_more_than_the_usual_seats() -> None:
    assert first_seats(INFO.format(engine=0, tokens=50_000, blocks=1), []) == 47
    assert first_seats(INFO.format(engine=0, tokens=2_000_000, blocks=1), []) == 64


def test_a_number_that_the_server_names_is_believed() -> None:
    rows = [{"id": "joycaption", "max_model_len": 4096}, {"id": "b", "max_num_seqs": 32}]

    assert first_seats(INFO.format(engine=0, tokens=2_000_000, blocks=1), rows) == 32


def test_nothing_is_guessed_of_a_server_that_says_nothing() -> None:
    assert first_seats("", [{"id": "m", "max_num_seqs": True, "total_slots": "8"}]) is None
    assert first_seats(OTHER, []) is None
    assert first_seats(INFO.format(engine=0, tokens="None", blocks="None"), []) is None


@given(st.text(max_size=200), st.text(max_size=200))
def test_no_text_breaks_it(labels: str, rest: str) -> None:
    seats = first_seats(f"vllm:cache_config_info{{{labels}}} 1.0\n{rest}", [])

    assert seats is None or seats >= 1
