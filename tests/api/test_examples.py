"""Examples of the public API and the README run as they stand, but for the address."""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import joycap_vllm
from api.coloured import caption_of, picture

from fault_server import FaultServer

README = Path(__file__).parents[2] / "README.md"
_BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_ADDRESS = "http://gpu:8000/v1"


def blocks(text: str) -> list[str]:
    return [textwrap.dedent(found[2]) for found in _BLOCK.finditer(text)]


def examples() -> dict[str, str]:
    """Every example by where it stands."""
    found = {}
    for name in joycap_vllm.__all__:
        thing = getattr(joycap_vllm, name)
        parts = {name: thing}
        if inspect.isclass(thing):
            parts |= {f"{name}.{part}": value for part, value in vars(thing).items()}
        for part, value in parts.items():
            for number, code in enumerate(blocks(getattr(value, "__doc__", "") or "")):
                found[f"{part} {number}"] = code
    section = README.read_text(encoding="utf-8").partition("## In Python")[2].partition("\n## ")[0]
    return found | {f"README {n}": code for n, code in enumerate(blocks(section))}


EXAMPLES = examples()


def test_what_people_begin_with_has_an_example() -> None:
    wanted = {"Captioner", "Captioner.caption_many", "SyncCaptioner", "SyncCaptioner.caption_many"}

    assert wanted | {"README"} <= {name.split(" ")[0] for name in EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_captions_pictures(
    name: str,
    server: FaultServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "photos").mkdir()
    for number, path in enumerate(["dog.jpg", "photos/a.jpg", "photos/b.jpg"]):
        picture(number).save(tmp_path / path, "PNG")
    monkeypatch.chdir(tmp_path)
    assert _ADDRESS in EXAMPLES[name]
    source = EXAMPLES[name].replace(_ADDRESS, server.url)
    code = compile(source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    ending = eval(code, {"__name__": "__main__"})  # noqa: S307
    if inspect.iscoroutine(ending):
        asyncio.run(ending)
    printed = capsys.readouterr().out

    wanted = [0] * ("dog.jpg" in source) + [1, 2] * ("photos" in source)
    tags = "danbooru-tag-list" in source
    captions = [caption_of(number) for number in wanted]
    assert wanted
    for caption in captions:
        assert caption in printed or (tags and f"plain picture, {caption[-7:-1]}" in printed)


@pytest.mark.parametrize("name", ["build_prompt", "custom_prompt", "judge"])
def test_the_docstring_tells_the_truth(name: str) -> None:
    thing = getattr(joycap_vllm, name)
    room = importlib.import_module(thing.__module__)
    (found,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs=vars(room).copy())
    result = doctest.DocTestRunner().run(found)

    assert (result.attempted > 0, result.failed) == (True, 0)
