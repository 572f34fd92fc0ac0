"""Ollama's way, through its own client and as curl would send it."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import ollama
import orjson
import pytest
from PIL import Image

from joycap_vllm import Captioner, build_prompt

CAPTION = "A red circle lies in the middle of a plain white ground."
LOOP = "red circle, " * 60
COUNTS = ["total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"]
COUNTS += ["eval_count", "eval_duration"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A picture, as scripts have them."""
    path = tmp_path / "a picture.jpg"
    Image.new("RGB", (64, 48), (200, 30, 40)).save(path)
    return path


@pytest.fixture
async def client(gateway: str) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=gateway) as client:
        yield client


@pytest.fixture
async def plain(gateway: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=gateway, timeout=20) as client:
        yield client


def question(content: str, *images: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, "images": list(images)}]


def encoded() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 40)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


async def test_a_script_that_captions_a_folder_with_llava_captions_through_the_gateway(
    gateway: str, tmp_path: Path, upstream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As dougbtv/ollama-llava-captioner asks, one picture after the other; only OLLAMA_HOST is
    another."""
    monkeypatch.setenv("OLLAMA_HOST", gateway)
    upstream.script += [CAPTION, LOOP, CAPTION]
    prompt = "SYSTEM Your job is to caption images.\n\nCaption this image."
    for number in range(2):
        Image.new("RGB", (64, 48), (number * 90, 0, 0)).save(tmp_path / f"{number}.jpg")

    def script() -> None:
        # The module's own client was made when it was imported.
        with ollama.Client() as client:
            for path in sorted(tmp_path.glob("*.jpg")):
                image = base64.b64encode(path.read_bytes()).decode()
                answer = client.chat(model="llava:13b", messages=question(prompt, image))
                path.with_suffix(".llava.txt").write_text(answer["message"]["content"])

    await asyncio.to_thread(script)

    written = [path.read_text() for path in sorted(tmp_path.glob("*.llava.txt"))]
    assert written == [CAPTION, CAPTION]
    system, user = upstream.bodies[0]["messages"]
    assert system["content"] == "You are a helpful image captioner."
    assert user["content"][1]["text"] == prompt


@pytest.mark.parametrize("kind", [str, Path, Path.read_bytes], ids=["name", "path", "bytes"])
async def test_pictures_may_be_files_and_bytes(
    client: ollama.AsyncClient, file: Path, kind: Callable[[Path], Any]
) -> None:
    answer = await client.chat("llava:13b", question("What is it?", kind(file)))

    assert answer.message.role == "assistant"
    assert answer.message.content == CAPTION


async def test_an_answer_has_ollamas_fields(client: ollama.AsyncClient, file: Path) -> None:
    answer = await client.generate("llava", "What is it?", images=[str(file)])

    assert answer.response == CAPTION
    assert (answer.model, answer.done, answer.done_reason) == ("llava", True, "stop")
    assert answer.created_at is not None
    assert answer.created_at.endswith("Z")
    assert (answer.prompt_eval_count, answer.eval_count) == (800, 20)
    assert answer.total_duration is not None
    assert answer.prompt_eval_duration is not None
    assert answer.eval_duration is not None
    assert answer.total_duration >= answer.eval_duration > 0
    assert answer.prompt_eval_duration > 0


async def test_a_stream_is_the_judged_caption_and_its_end(
    client: ollama.AsyncClient, file: Path, upstream: Any
) -> None:
    upstream.script += [LOOP, CAPTION, CAPTION]

    chat = [c async for c in await client.chat("llava", question("?", file), stream=True)]
    parts = [p async for p in await client.generate("llava", "?", images=[str(file)], stream=True)]

    assert [c.message.content for c in chat] == [CAPTION, ""]
    assert [p.response for p in parts] == [CAPTION, ""]
    for first, last in (chat, parts):
        assert (first.done, last.done, last.done_reason) == (False, True, "stop")
        assert first.eval_count is None
        assert last.eval_count is not None
    assert chat[-1].eval_count == 40


async def test_without_stream_in_the_request_the_answer_is_lines(plain: httpx2.AsyncClient) -> None:
    body = {"model": "llava", "prompt": "?", "images": [encoded()]}
    reply = await plain.post("/api/generate", json=body)

    assert reply.headers["content-type"] == "application/x-ndjson"
    first, last = map(orjson.loads, reply.content.splitlines())
    assert list(first) == ["model", "created_at", "response", "done"]
    assert list(last) == ["model", "created_at", "response", "done", "done_reason", *COUNTS]


async def test_curl_as_in_ollamas_examples_needs_no_content_type(plain: httpx2.AsyncClient) -> None:
    body = orjson.dumps({"model": "llava", "prompt": "?", "images": [encoded()]})
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    for headers in ({}, form):
        reply = await plain.post("/api/generate", content=body, headers=headers)
        assert reply.status_code == 200


@pytest.mark.parametrize(
    "said",
    [{"Origin": "https://example.org"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
)
async def test_pages_of_other_origins_cannot_drive_it(
    plain: httpx2.AsyncClient, upstream: Any, said: dict[str, str]
) -> None:
    body = orjson.dumps({"model": "llava", "prompt": "?", "images": [encoded()]})
    for path in ("/api/generate", "/api/chat", "/api/show", "/api/pull"):
        reply = await plain.post(path, content=body, headers={"Content-Type": "text/plain", **said})

        assert reply.status_code in (403, 415)
    assert upstream.bodies == []


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        ("llava", "", build_prompt()),
        ("joycaption", "", build_prompt()),
        ("joycaption:latest", "", build_prompt()),
        ("joycaption/straightforward", "Hello", build_prompt("straightforward")),
        ("joycaption/straightforward:latest", "", build_prompt("straightforward")),
        ("joycaption/descriptive:50-words", "", build_prompt(words=50)),
    ],
)
async def test_the_gateways_own_models_ask_with_their_prompts(
    client: ollama.AsyncClient, file: Path, upstream: Any, model: str, text: str, expected: Any
) -> None:
    await client.chat(model, question(text, file))

    assert upstream.bodies[0]["messages"][1]["content"][1]["text"] == expected.text


@pytest.mark.parametrize("model", ["llava:13b", "bakllava", "x/llama3.2-vision:11b", "gpt-4o"])
async def test_any_other_name_asks_with_the_scripts_own_words(
    client: ollama.AsyncClient, file: Path, upstream: Any, model: str
) -> None:
    answer = await client.generate(
        model, "What is it?", images=[str(file)], system="You see little."
    )

    system, user = upstream.bodies[0]["messages"]
    assert (answer.model, answer.response) == (model, CAPTION)
    assert (system["content"], user["content"][1]["text"]) == ("You see little.", "What is it?")


async def test_options_and_the_system_message_are_used(
    client: ollama.AsyncClient, file: Path, upstream: Any
) -> None:
    options = {"temperature": 0.25, "top_p": 0.5, "num_predict": 77, "seed": 4711, "num_ctx": 2048}
    messages = [{"role": "system", "content": "You see little."}, *question("?", file)]
    await client.chat("llava", messages, options=options, keep_alive="5m")
    await client.chat("llava", messages, options={"num_predict": -1, "seed": -1, "temperature": 0})

    first, second = upstream.bodies
    assert first["messages"][0]["content"] == "You see little."
    assert (first["temperature"], first["top_p"]) == (0.25, 0.5)
    assert (first["max_tokens"], first["seed"]) == (77, 4711)
    assert (second["temperature"], second["max_tokens"]) == (0, 512)
    assert second["seed"] >= 0


async def test_a_data_url_and_broken_lines_are_taken_too(
    plain: httpx2.AsyncClient, upstream: Any
) -> None:
    image = encoded()
    lines = "\n".join(image[at : at + 76] for at in range(0, len(image), 76))
    for form in (f"data:image/png;base64,{image}", lines):
        body = {"model": "llava", "prompt": "?", "images": [form], "stream": False}
        reply = await plain.post("/api/generate", json=body)

        assert reply.json()["response"] == CAPTION


async def test_a_glitch_that_stays_is_an_error_and_never_a_caption(
    client: ollama.AsyncClient, file: Path, upstream: Any
) -> None:
    upstream.script += [LOOP] * 9

    with pytest.raises(ollama.ResponseError, match="no caption after 3 attempts") as caught:
        await client.chat("llava", question("?", file), stream=False)

    assert caught.value.status_code == 502
    assert "red circle, red circle, red circle" not in caught.value.error


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"images": ["aaaa", "aaaa"]}, 400, "this request holds 2"),
        ({"images": ["!!!!"]}, 400, "base64"),
        ({"images": [""]}, 400, "empty"),
        ({"images": ["aGVsbG8gd29ybGQ="]}, 400, "looks like text"),
        ({"format": "json"}, 400, "format is not supported"),
        ({"options": {"temperature": -1}}, 400, "options.temperature"),
        ({"model": ""}, 400, "model"),
        ({"model": "joycaption/poem"}, 404, "poem"),
        ({"model": "joycaption:tiny"}, 400, "no length is called 'tiny'"),
        ({"images": "aaaa"}, 400, "images"),
    ],
)
async def test_what_cannot_be_is_told_in_ollamas_shape(
    plain: httpx2.AsyncClient, fields: dict[str, Any], status: int, words: str
) -> None:
    body = {"model": "llava", "prompt": "?", "images": [encoded()], **fields}
    reply = await plain.post("/api/generate", json=body)

    assert reply.status_code == status
    assert list(reply.json()) == ["error"]
    assert words in reply.json()["error"]


async def test_talk_without_a_picture_is_passed_on_as_it_is(
    client: ollama.AsyncClient, upstream: Any
) -> None:
    upstream.script += ["Hello to you.", "Fine.", "Well."]
    talk = [
        {"role": "system", "content": "You are polite."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "How are you?"},
    ]
    options = {"temperature": 0.25, "num_predict": 77, "seed": 4711}

    whole = await client.chat("llama3", talk, options=options)
    parts = [part async for part in await client.chat("llama3", talk[:2], stream=True)]
    generated = await client.generate("llama3", "Hi", system="You are polite.")

    assert whole.message.content == "Hello to you."
    assert (whole.model, whole.done_reason, whole.eval_count) == ("llama3", "stop", 20)
    assert [part.message.content for part in parts] == ["Fine.", ""]
    assert generated.response == "Well."
    first, second, third = upstream.bodies
    assert first["messages"] == talk
    assert (first["model"], first["temperature"]) == ("stub", 0.25)
    assert (first["max_tokens"], first["seed"]) == (77, 4711)
    assert second["messages"] == third["messages"] == talk[:2]


async def test_a_question_after_a_caption_keeps_its_picture(
    client: ollama.AsyncClient, file: Path, upstream: Any
) -> None:
    talk = [
        *question("What is it?", file),
        {"role": "assistant", "content": CAPTION},
        {"role": "user", "content": "Which colour has the ground?"},
    ]
    upstream.script.append("White.")

    answer = await client.chat("llava", talk)

    assert answer.message.content == "White."
    [body] = upstream.bodies
    part, text = body["messages"][0]["content"]
    assert part["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "What is it?"}
    assert body["messages"][1:] == talk[1:]


async def test_a_new_picture_after_a_talk_is_captioned_by_itself(
    client: ollama.AsyncClient, file: Path, upstream: Any
) -> None:
    upstream.script += [LOOP, CAPTION]
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        *question("What is it?", file),
    ]

    answer = await client.chat("llava", talk)

    assert answer.message.content == CAPTION
    assert len(upstream.bodies) == 2
    assert len(upstream.bodies[0]["messages"]) == 2


async def test_a_caption_types_model_and_no_picture_is_refused_in_words(
    client: ollama.AsyncClient, upstream: Any
) -> None:
    with pytest.raises(ollama.ResponseError, match="no picture"):
        await client.chat("joycaption/straightforward", [{"role": "user", "content": "Hi"}])
    assert upstream.bodies == []


async def test_what_the_server_refuses_in_a_talk_is_told_in_its_words(
    client: ollama.AsyncClient, upstream: Any
) -> None:
    upstream.script.append(400)

    with pytest.raises(ollama.ResponseError, match="as told") as caught:
        await client.chat("llama3", [{"role": "user", "content": "Hi"}])
    assert caught.value.status_code == 400


async def test_asking_for_nothing_loads_the_model(
    client: ollama.AsyncClient, upstream: Any
) -> None:
    chat, generated = await client.chat("llava", []), await client.generate("llava")

    assert (chat.done, chat.done_reason, chat.message.content) == (True, "load", "")
    assert (generated.done, generated.done_reason, generated.response) == (True, "load", "")
    assert upstream.bodies == []


async def test_clients_that_look_first_find_what_they_look_for(
    client: ollama.AsyncClient, plain: httpx2.AsyncClient, captioner: Captioner
) -> None:
    listed = [model.model for model in (await client.list()).models]
    shown = await client.show("llava:13b")
    [loaded] = (await client.ps()).models
    pulled = await client.pull("llava:13b")
    version = (await plain.get("/api/version")).json()
    look = await plain.head("/")

    assert listed[0] == "joycaption:latest"
    assert "joycaption/danbooru-tag-list:latest" in listed
    assert len(listed) == 13
    assert shown.capabilities is not None
    assert "vision" in shown.capabilities
    assert loaded.model == "joycaption:latest"
    assert pulled.status == "success"
    assert version["version"].count(".") == 2
    assert (look.status_code, look.content) == (200, b"")


async def test_a_caller_that_leaves_ends_its_request_at_the_server(
    client: ollama.AsyncClient, file: Path, upstream: Any
) -> None:
    upstream.hold = asyncio.Event()
    task = asyncio.create_task(client.chat("llava", question("?", file)))
    await upstream.arrived.wait()
    task.cancel()

    async with asyncio.timeout(10):
        await upstream.left.wait()
    await asyncio.gather(task, return_exceptions=True)
