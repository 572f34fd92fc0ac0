"""What those are told whose request is wrong: the field, and words of this API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

CHAT = "/v1/chat/completions"
Ask = Callable[..., Any]


async def refused(gateway: str, status: int = 400, **body: Any) -> dict[str, Any]:
    async with httpx2.AsyncClient(base_url=gateway) as client:
        answer = await client.post(CHAT, json={"model": "joycaption", **body})
    assert answer.status_code == status
    error: dict[str, Any] = answer.json()["error"]
    return error


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image_url", "image_url": {}}, "messages.0.content.0.image_url.url: "),
        ({"type": "image_url", "image_url": {"url": None}}, "messages.0.content.0.image_url.url: "),
        ({"image_url": {"url": "data:"}}, "messages.0.content.0.type: "),
        ({"type": "text", "text": 5}, "messages.0.content.0.text: "),
    ],
)
async def test_a_part_that_is_wrong_is_named(
    gateway: str, part: dict[str, Any], words: str
) -> None:
    error = await refused(gateway, messages=[{"role": "user", "content": [part]}])

    assert error["message"].startswith(words)


@pytest.mark.parametrize("wrong", ["silly", "0-words", "-5-words", "99999-words"])
async def test_a_length_that_is_none_is_repeated_as_it_came_with_what_can_be_sent(
    gateway: str, ask: Ask, wrong: str
) -> None:
    by_name = await refused(gateway, messages=ask(), model=f"joycaption:{wrong}")
    by_field = await refused(gateway, messages=ask(), caption_length=wrong)

    assert (by_name["param"], by_field["param"]) == ("model", "caption_length")
    for error in (by_name, by_field):
        assert f"no length is called '{wrong}'" in error["message"]
        assert "very-short" in error["message"]
        assert "50-words" in error["message"]
        assert "--" not in error["message"]


@pytest.mark.parametrize("path", ["/chat/completions", "/models", "/batches"])
async def test_a_base_url_without_v1_is_told_where_the_api_is(gateway: str, path: str) -> None:
    async with httpx2.AsyncClient(base_url=gateway) as client:
        answer = await client.get(path)

    assert answer.status_code == 404
    assert f"/v1{path}" in answer.json()["error"]["message"]
