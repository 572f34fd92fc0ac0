"""Whatever JSON comes by Ollama's way is read or refused."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from joycap_vllm.errors import UsageError
from joycap_vllm.gateway.ollama.ask import read_chat, read_generate
from joycap_vllm.gateway.reply import RefusedError

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
fields = st.sampled_from(
    ["model", "messages", "images", "prompt", "system", "options", "format", "stream"]
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(fields, json_values))
def test_any_json_is_read_or_refused(data: dict[str, Any]) -> None:
    for read in (read_chat, read_generate):
        with contextlib.suppress(RefusedError, UsageError):
            read(orjson.dumps(data))
