"""The same server asked by `vllm bench serve`, in turns with our client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joycap_vllm.bench.pictures import Pictures
from joycap_vllm.errors import ImageError, JoycapError, UsageError
from joycap_vllm.prompts import Prompt, ask
from joycap_vllm.server import BenchCommand

NOTE = (
    "both got as many pictures of the same kind, counted from the first request to the last answer;"
    " the best of each counts. vllm bench serve sends whole files in base64, streams every token, "
    "and sends no system message"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One run: who, requests in flight, pictures, and answers a second."""

    who: str
    level: int
    pictures: int
    answers_per_second: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All turns, in order."""

    turns: tuple[Turn, ...]

    def best(self, who: str) -> Turn:
        """The best turn of a contestant."""
        return max((t for t in self.turns if t.who == who), key=lambda t: t.answers_per_second)

    @property
    def ratio(self) -> float:
        """Our best rate over theirs."""
        theirs = self.best("vllm bench serve").answers_per_second
        return self.best("joycap").answers_per_second / theirs if theirs else float("inf")

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        turns = [
            {"who": t.who, "level": t.level, "pictures": t.pictures,
             "answers_per_second": round(t.answers_per_second, 3)}
            for t in self.turns
        ]  # fmt: skip
        return {"turns": turns, "ratio": round(self.ratio, 3), "note": NOTE}


async def compare(
    command: BenchCommand,
    ours: Callable[[], Awaitable[float]],
    pictures: Pictures,
    *,
    url: str,
    model: str,
    prompt: Prompt,
    api_key: str | None,
    knee: int,
    count: int,
    say: Callable[[str], None],
) -> Comparison:
    """Our client and `vllm bench serve` in turns: at the knee, and they at twice the knee too.

    Args:
        command: How `vllm bench serve` is started.
        ours: One turn of our client; gives answers a second.
        pictures: What they are sent: always the next ones, so that no turn finds its pictures in
            the server's cache.
        url: Base URL of the server.
        model: The name to ask for.
        prompt: What is asked.
        api_key: The server's key.
        knee: Requests in flight.
        count: Pictures of a turn.
        say: Takes lines for people.

    Raises:
        UsageError: None of the pictures can be read.
        JoycapError: `vllm bench serve` failed.
    """
    turns: list[Turn] = []
    for level in (knee, 2 * knee):
        say(f"in turns with vllm bench serve: {count} pictures each, they {level} in flight")
        turns.append(Turn("joycap", knee, count, await ours()))
        with tempfile.TemporaryDirectory(prefix="joycap-bench-") as name:
            folder = Path(name)
            sent = await asyncio.to_thread(write_pictures, folder, pictures, prompt, count)
            words = bench_words(folder, url, model, prompt, level, sent)
            rate = await vllm_bench_rate(command, words, folder, api_key)
        turns.append(Turn("vllm bench serve", level, sent, rate))
    return Comparison(tuple(turns))


def write_pictures(folder: Path, pictures: Pictures, prompt: Prompt, count: int) -> int:
    """Writes the next pictures into a folder, with the rows that `custom_image` reads; how many.

    Raises:
        UsageError: None of them can be read.
    """
    rows = []
    for number in range(count):
        shot = pictures.take()
        file = folder / f"{number:06}.jpg"
        with contextlib.suppress(ImageError):
            file.write_bytes(shot.read())
            text = ask(prompt, shot.key, {})
            rows.append(json.dumps({"prompt": text, "image_files": [str(file)]}))
    if not rows:
        raise UsageError("none of the pictures can be read")
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return len(rows)


def bench_words(
    folder: Path, url: str, model: str, prompt: Prompt, level: int, count: int
) -> list[str]:
    """The arguments of `vllm bench serve` for the pictures of a folder."""
    drawn = prompt.sampling
    root, version, _ = url.rpartition("/v1")
    return [
        "--backend", "openai-chat", "--base-url", root if version else url,
        "--endpoint", "/v1/chat/completions" if version else "/chat/completions",
        "--model", model, "--skip-tokenizer-init",
        "--dataset-name", "custom_image", "--dataset-path", str(folder / "rows.jsonl"),
        "--custom-output-len", str(drawn.max_tokens), "--custom-ensure-client-side-data",
        "--disable-shuffle", "--no-oversample", "--num-prompts", str(count),
        "--max-concurrency", str(level), "--temperature", str(drawn.temperature),
        "--top-p", str(drawn.top_p), "--disable-tqdm",
        "--save-result", "--result-dir", str(folder), "--result-filename", "result.json",
    ]  # fmt: skip


def read_result(file: Path) -> float:
    """Answers a second by a result of `vllm bench serve`.

    Raises:
        OSError, ValueError, KeyError, TypeError: There is none.
    """
    result = json.loads(file.read_bytes())
    return float(result["completed"]) / float(result["duration"])


async def vllm_bench_rate(
    command: BenchCommand, words: Sequence[str], folder: Path, api_key: str | None
) -> float:
    """Answers a second by one run of `vllm bench serve`.

    Args:
        command: How it is started.
        words: As `bench_words` makes them.
        folder: Where its pictures are and its result will be.
        api_key: The server's key.

    Raises:
        JoycapError: It failed, or none of its requests was answered.
    """
    environment = {**os.environ, **command.env}
    if api_key:
        environment["OPENAI_API_KEY"] = api_key
    process = await asyncio.create_subprocess_exec(
        *command.argv, *words, env=environment, start_new_session=True,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        rate = read_result(folder / "result.json")
    except (OSError, ValueError, KeyError, TypeError) as error:
        lines = told.decode("utf-8", "replace").strip().splitlines() or ["no word why"]
        raise JoycapError(f"vllm bench serve failed: {lines[-1][:300]}") from error
    if not rate:
        raise JoycapError(
            "vllm bench serve got no answer that it could read: it streams, which this server may "
            "not do"
        )
    return rate
