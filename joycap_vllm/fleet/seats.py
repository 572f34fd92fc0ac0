"""How many requests a server works on at once, as far as it says so itself: pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

CAPTION_TOKENS = 1050  # of the KV cache: a picture's 729, the prompt, and a usual answer
USUAL_SEATS = 64  # every plan for a GPU has more, and a few rounds double it; a small CPU has less
_MOST = 1_000_000
_INFO = re.compile(r"^vllm:cache_config_info\{(.*)\} 1(?:\.0)?\s*$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_NAMES = ("max_num_seqs", "max_running_requests", "total_slots")


def captions_in_memory(metrics: str) -> int | None:
    """Captions that a vLLM's KV cache holds at once; None where it does not say.

    It is the sum over its engines of `vllm:cache_config_info`'s label `kv_cache_size_tokens`, or,
    before vLLM had that, of `num_gpu_blocks` times `block_size`, over the tokens of a caption. So
    much fits into its memory; its `max_num_seqs` may be less, or more.

    Args:
        metrics: The text of `/metrics`.
    """
    tokens = 0
    for line in _INFO.findall(metrics):
        labels = dict(_LABEL.findall(line))
        blocks = _whole(labels.get("num_gpu_blocks")) * _whole(labels.get("block_size"))
        tokens += _whole(labels.get("kv_cache_size_tokens")) or blocks
    return max(1, tokens // CAPTION_TOKENS) if tokens else None


def first_seats(metrics: str, models: Iterable[Mapping[str, Any]]) -> int | None:
    """A first guess at the requests that a server works on at once; None where nothing is said.

    vLLM 0.32 shows `max_num_seqs` neither in `/metrics` nor in `/v1/models` (only in
    `/server_info`, which is there in its development mode alone), so the guess is what its memory
    holds, and no more than a cautious number of seats. A server that names a number in the rows of
    its models is believed.

    Args:
        metrics: The text of `/metrics`, empty where there is none.
        models: The rows of `/v1/models`.
    """
    for row in models:
        for name in _NAMES:
            value = row.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST:
                return value
    held = captions_in_memory(metrics)
    return None if held is None else min(held, USUAL_SEATS)


def _whole(text: str | None) -> int:
    """A label's number; 0 for None, as the server writes what is not known."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0
