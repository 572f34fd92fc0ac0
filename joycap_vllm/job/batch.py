"""A job's requests as files of OpenAI's Batch API (and of `vllm run-batch`), and their results.

Each request's id names a line of a map in the state folder, which tells the task. Results are
judged and recorded as if they had been asked for one by one.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from joycap_vllm.captioner import Outcome, seed_of
from joycap_vllm.errors import ImageError, OutputError, UsageError
from joycap_vllm.fleet import request_body
from joycap_vllm.glitch import Means, Question, next_request
from joycap_vllm.images import Prepared, prepare
from joycap_vllm.job.filling import values_for
from joycap_vllm.job.journal import Journal, make_line
from joycap_vllm.job.plan import Plan, PlannedImage, Step
from joycap_vllm.job.settings import JobSettings
from joycap_vllm.outputs import replacing
from joycap_vllm.prompts import Prompt, ask

MOST_REQUESTS = 50_000  # of a file
MOST_BYTES = 190_000_000  # of a file; OpenAI takes 200 MB
URL = "/v1/chat/completions"
_TOGETHER = 16  # images that are prepared at once
_VLLM = (0, 17)  # what a batch for vLLM counts on


@dataclass(slots=True)
class Batch:
    """What a batch holds.

    Args:
        files: The files.
        requests: Requests in them.
        failed: Images that cannot be used; recorded as failed.
    """

    files: list[Path] = field(default_factory=list)
    requests: int = 0
    failed: int = 0


async def export_batch(
    plan: Plan, journal: Journal, out: Path, *, model: str, vllm: bool = False
) -> Batch:
    """Writes a request for each task that the plan has left to do.

    Args:
        plan: The tasks.
        journal: Where images that cannot be used are recorded as failed.
        out: The file; where one is not enough, `NAME-000.jsonl` and on take its place.
        model: The model's name by the server.
        vllm: Whether vLLM will answer, which gets its own fields too.

    Raises:
        UsageError: A file of that name is there, which may be on its way already.
        OutputError: A file cannot be written.
    """
    settings, batch = plan.settings, Batch()
    _require_new(out)
    prepared = Preparing(settings)
    with ExitStack() as stack:
        tasks = stack.enter_context(TaskMap(settings.state))
        files = stack.enter_context(_Files(out, batch, tasks))
        means = Means(_VLLM if vllm else None)
        for planned, image in prepared.images(plan.steps()):
            if isinstance(image, str):
                batch.failed += 1
                await _record_failed(journal, settings, planned, image)
                continue
            for prompt in planned.todo:
                question = _question(planned, prompt)
                entry = task_entry(settings, planned, prompt, question, image)
                request = _request(question, image, model, means, tasks.add(entry))
                files.add(request)
    return batch


class Preparing:
    """Prepares images a few at once, in order.

    Args:
        settings: The job.
    """

    def __init__(self, settings: JobSettings) -> None:
        self._limits = settings.captioner.limits
        self._wire = settings.captioner.wire or "jpeg"
        self._recipe = settings.captioner.recipe or "default"

    def images(self, steps: Iterator[Step]) -> Iterator[tuple[PlannedImage, Prepared | str]]:
        """Each image that has something to ask, prepared, or why it cannot be used."""
        waiting = (each for each in steps if isinstance(each, PlannedImage) and each.todo)
        with ThreadPoolExecutor(os.cpu_count() or 1, "joycap-image") as pool:
            while chunk := list(islice(waiting, _TOGETHER)):
                yield from zip(chunk, pool.map(self._prepared, chunk), strict=True)

    def _prepared(self, planned: PlannedImage) -> Prepared | str:
        try:
            data = planned.image.read(self._limits.file_bytes)
            return prepare(data, self._wire, self._limits, self._recipe)
        except ImageError as error:
            return str(error)


def task_entry(
    settings: JobSettings,
    planned: PlannedImage,
    prompt: Prompt,
    question: Question,
    image: Prepared,
) -> dict[str, Any]:
    """What it takes to judge and record the answer to a request."""
    facts = asdict(image)
    del facts["data"], facts["mime"]
    varies = prompt.template or bool(prompt.choices)
    return {
        "key": planned.image.key,
        "prompt": prompt.name,
        "fp": settings.fingerprints()[prompt.name],
        "text": question.text,
        "asked": question.text if varies else None,
        "stem": planned.stem,
        "seed": question.seed,
        "temperature": prompt.sampling.temperature,
        "image": facts,
        "t": time.time(),
    }


class TaskMap:
    """A file in the state folder whose lines say which task each request of a batch is; use it as
    a context manager.

    Args:
        state: The job's state folder.

    Raises:
        OutputError: The file cannot be written.
    """

    def __init__(self, state: Path) -> None:
        self._name = secrets.token_hex(6)
        self._path = map_of(state, self._name)
        self._offset = 0
        with self._told():
            self._file = self._path.open("xb")

    def __enter__(self) -> TaskMap:
        return self

    def __exit__(self, *_: object) -> None:
        with self._told():
            self._file.close()

    def add(self, entry: dict[str, Any]) -> str:
        """Notes a task; returns the id of its request, 64 characters at most."""
        line = orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
        with self._told():
            self._file.write(line)
        self._offset += len(line)
        return f"joycap-{self._name}-{self._offset - len(line)}"

    def sync(self) -> None:
        """Returns once all that was noted is safe; no request may be seen before."""
        with self._told():
            self._file.flush()
            os.fdatasync(self._file.fileno())

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written: {error.strerror}", error.errno
            ) from error


def map_of(state: Path, name: str) -> Path:
    """The map of a batch."""
    return state / f"batch-{name}.jsonl"


def _request(
    question: Question, image: Prepared, model: str, means: Means, custom_id: str
) -> bytes:
    asked = next_request(question, (), means, retries=0)
    body = request_body(
        model=model,
        system=asked.system,
        text=asked.text,
        picture=image.data,
        mime=image.mime,
        sampling={
            "temperature": asked.temperature,
            "max_tokens": asked.max_tokens,
            "seed": asked.seed,
            **asked.fields,
        },
    )
    head = {"custom_id": custom_id, "method": "POST", "url": URL}
    return orjson.dumps(head)[:-1] + b',"body":' + b"".join((*body.pieces(image.data), b"}\n"))


def _question(planned: PlannedImage, prompt: Prompt) -> Question:
    key = planned.image.key
    seed = seed_of(key) if prompt.sampling.seed is None else prompt.sampling.seed
    earlier = planned.earlier.get(prompt.name, 0)
    return Question(prompt, ask(prompt, key, values_for(planned, prompt)), seed + earlier)


async def _record_failed(
    journal: Journal, settings: JobSettings, planned: PlannedImage, why: str
) -> None:
    fingerprints = settings.fingerprints()
    for prompt in planned.todo:
        if prompt.name in planned.done:
            continue  # it failed before
        line = make_line(
            key=planned.image.key,
            prompt=prompt.name,
            fingerprint=fingerprints[prompt.name],
            outcome=Outcome("failed", None, why=why),
            image=None,
            asked=None,
            stem=planned.stem,
            now=time.time(),
        )
        await journal.append(line)


class _Files:
    """The files of a batch, each of as many requests as one may have."""

    def __init__(self, out: Path, batch: Batch, tasks: TaskMap) -> None:
        self._out, self._batch, self._tasks = out, batch, tasks
        self._open = ExitStack()
        self._file: BinaryIO | None = None
        self._requests = self._bytes = 0

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._tasks.sync()
        self._open.__exit__(kind, error, trace)
        if kind is None and len(self._batch.files) == 1:
            self._batch.files[0] = self._batch.files[0].replace(self._out)

    def add(self, request: bytes) -> None:
        """Writes a request."""
        full = self._requests >= MOST_REQUESTS or self._bytes + len(request) > MOST_BYTES
        if self._file is None or full:
            self._tasks.sync()
            self._open.close()
            path = self._out.with_name(f"{self._out.stem}-{len(self._batch.files):03}.jsonl")
            self._file = self._open.enter_context(replacing(path, make_folders=True))
            self._batch.files.append(path)
            self._requests = self._bytes = 0
        self._file.write(request)
        self._requests += 1
        self._bytes += len(request)
        self._batch.requests += 1


def _require_new(out: Path) -> None:
    others = out.parent.glob(f"{_escaped(out.stem)}-[0-9][0-9][0-9].jsonl")
    there = next((path for path in (out, *sorted(others)) if path.exists()), None)
    if there is not None:
        raise UsageError(
            f"{there} is there already, and may have been sent: remove it, or name another --out"
        )


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def read_map(state: Path, custom_id: str) -> dict[str, Any] | None:
    """The task of a request; None where no batch of this job had it.

    Raises:
        OutputError: The map cannot be read.
    """
    start, _, rest = custom_id.partition("-")
    name, _, offset = rest.partition("-")
    if start != "joycap" or not name.isalnum() or not (offset.isascii() and offset.isdecimal()):
        return None
    path = map_of(state, name)
    try:
        with path.open("rb") as file:
            file.seek(int(offset))
            entry = orjson.loads(file.readline())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}", error.errno) from error
    except (orjson.JSONDecodeError, OverflowError, ValueError):
        return None
    return entry if isinstance(entry, dict) and "key" in entry else None
