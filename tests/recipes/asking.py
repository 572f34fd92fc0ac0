"""Clients of the OpenAI API, run by the lines of the README."""

from __future__ import annotations

from typing import Any

from .reading import Row, block, rows

CLIENTS = [row for row in rows("client") if row.checked == "test"]
HERE = "http://127.0.0.1:8080/v1"
TEXT = "Describe it."


def asked_by(row: Row, url: str, model: str, text: str = TEXT) -> str:
    """What a client's line gives for `dog.jpg` in the working directory."""
    import litellm
    from langchain_openai import ChatOpenAI
    from openai import OpenAI

    litellm.suppress_debug_info = True
    names: dict[str, Any] = {"OpenAI": OpenAI, "ChatOpenAI": ChatOpenAI, "litellm": litellm}
    exec(block("python").replace(HERE, url).replace(TEXT, text), names)  # noqa: S102
    (line,) = row.code
    return str(eval(line.replace("joycaption", model), names))  # noqa: S307
