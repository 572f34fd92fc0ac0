"""What `caption_dataset` refuses before any Ray is started."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from joycap_vllm.errors import MissingExtraError, UsageError
from joycap_vllm.scale import caption_dataset


class Dataset:
    """Stands for a dataset that must not be touched."""


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    ds: Any = Dataset()

    with pytest.raises(MissingExtraError, match=r"joycap-vllm\[ray\]"):
        caption_dataset(ds, urls=["http://gpu:8000/v1"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"urls": []}, "base URL"),
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": ["descriptive", "descriptive"]}, "one name"),
        ({"prompts": "poem"}, "no caption type"),
        ({"concurrency": 1}, "each actor"),
        ({"actors": 0}, "each actor"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], words: str
) -> None:
    # Nothing of Ray is used before the arguments are checked, so that this runs without it.
    module: Any = type(sys)("ray.data")
    module.ActorPoolStrategy = object
    monkeypatch.setitem(sys.modules, "ray", type(sys)("ray"))
    monkeypatch.setitem(sys.modules, "ray.data", module)
    ds: Any = Dataset()

    with pytest.raises(UsageError, match=words):
        caption_dataset(ds, **{"urls": ["http://gpu:8000/v1"], **arguments})
