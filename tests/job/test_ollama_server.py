"""Jobs at a server of Ollama's kind: it speaks the OpenAI API plainly, and knows none of vLLM's own
fields."""

from __future__ import annotations

from pathlib import Path

from .helping import REFUSAL, jobs_requests, joycap, make_pictures, sidecar
from fault_server import Asked, Reaction, name_of, say, serving

PLAIN = {"model", "messages", "stream", "temperature", "top_p", "max_tokens", "seed"}


def llava(asked: Asked) -> Reaction:
    """It answers as LLaVA does under Ollama, with a blank first; the first picture it refuses."""
    if asked.attempt == 1 and asked.body["seed"] % 2:
        return say(f" {REFUSAL}")
    return say(f" {name_of(asked.color)}")


def test_a_folder_is_captioned_at_ollamas_address_with_the_prompt_of_a_file(tmp_path: Path) -> None:
    """What `llava-caption-ollama.py FOLDER` does, with its prompt.txt in the current folder."""
    pictures = make_pictures(tmp_path / "images", 8)
    (tmp_path / "prompt.txt").write_text("Caption this image.\nBe detailed.\n")

    with serving(llava, model="llava:13b") as server:
        address = server.url.removesuffix("/v1")
        flags = ("--prompt-file", "prompt.txt", "--ext", ".llava.txt")
        joycap("caption", "images", "--base-url", address, *flags, cwd=tmp_path)

    written = {path.with_suffix(".llava.txt").read_text().strip() for path in pictures}
    assert written == {name_of(asked.color) for asked in jobs_requests(server)}
    assert len(written) == 8
    for asked in jobs_requests(server):
        assert asked.question == "Caption this image.\nBe detailed."
        assert asked.body["model"] == "llava:13b"
        assert set(asked.body) - {"frequency_penalty"} == PLAIN
        assert asked.image.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
    assert not any(sidecar(path).exists() for path in pictures)
