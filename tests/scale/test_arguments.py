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
    module.ActorPoolStrategy = dict
    monkeypatch.setitem(sys.modules, "ray", type(sys)("ray"))
    monkeypatch.setitem(sys.modules, "ray.data", module)
    ds: Any = Dataset()

    with pytest.raises(UsageError, match=words):
        caption_dataset(ds, **{"urls": ["http://gpu:8000/v1"], **arguments})


def test_where_ray_has_no_checkpoints_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = type(sys)("ray.data")
    module.ActorPoolStrategy = dict
    ray: Any = type(sys)("ray")
    ray.__version__ = "2.40.0"
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", module)
    monkeypatch.setitem(sys.modules, "ray.data.checkpoint", None)
    ds: Any = Dataset()

    asked: dict[str, Any] = {"urls": ["http://gpu:8000/v1"], "checkpoint": "folder"}
    with pytest.raises(UsageError, match=r"Ray 2\.40\.0 has no checkpoints of its own"):
        caption_dataset(ds, **asked)
    with pytest.raises(UsageError, match="needs key_column"):
        caption_dataset(ds, **asked, bytes_column="image")
