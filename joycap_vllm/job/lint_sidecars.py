"""Sidecars in folders, judged by what their own job asked for."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from joycap_vllm.errors import UsageError
from joycap_vllm.glitch import Verdict, judge
from joycap_vllm.job.authors import has_image, is_accepted, is_foreign
from joycap_vllm.job.guess import guess_style
from joycap_vllm.job.lint import Bad, Findings, Notes
from joycap_vllm.job.pool import in_order
from joycap_vllm.job.stored import JOB_FILE, StoredJob, absolute, find_job, load_job
from joycap_vllm.outputs import undress
from joycap_vllm.prompts import Prompt, Style

_TOGETHER = 256  # files that are judged together
_LONGEST = 1 << 24  # bytes
_FILE = 1024  # bytes of a sidecar, about
_MANNERS = ("bad_format", "too_long", "wrong_language")  # a user's own may be so on purpose


@dataclass(frozen=True, slots=True)
class Look:
    """How sidecars are to be read.

    Args:
        style: What all of them should look like; None asks the job, else guesses.
        extension: Theirs; None takes the job's, else `.txt`.
        job: The job that made them, as far as it is known.
    """

    style: Style | None = None
    extension: str | None = None
    job: StoredJob | None = None

    @property
    def ending(self) -> str:
        """What sidecars' names end in."""
        return self.extension or (self.job.sidecars.extension if self.job else ".txt")

    def prompts_of(self, path: Path) -> tuple[Prompt, ...]:
        """The prompts whose captions stand in a file, line by line."""
        if self.job is None or self.job.sidecars.extension != self.ending:
            return ()
        endings, name = self.job.sidecars.endings(), path.name
        fitting = sorted({e for e in endings.values() if name.endswith(e)}, key=len, reverse=True)
        mine = fitting[0] if fitting else None
        if len(fitting) > 1:
            stems = {e: name.removesuffix(e) for e in fitting}
            mine = next((e for e in fitting if has_image(self.job, path, stems[e])), mine)
        return tuple(prompt for prompt in self.job.prompts if endings[prompt.name] == mine)


@dataclass(frozen=True, slots=True)
class Files:
    """Sidecars that are read alike; `trouble` tells why a folder among them has none."""

    look: Look
    paths: tuple[Path, ...]
    trouble: str = ""

    @property
    def size(self) -> int:
        """Bytes in them, about."""
        return _FILE * len(self.paths)


def lint_sidecars(
    paths: Sequence[Path], look: Look, *, bad_only: bool, workers: int
) -> Generator[Findings]:
    """Findings on sidecars, some at a time; folders are walked in the order of names.

    Args:
        paths: Sidecars, and folders of them.
        look: How they are to be read; each folder's own job is looked up.
        bad_only: Whether rows of captions without a glitch are left out.
        workers: Processes.

    Raises:
        UsageError: A path is not there.
    """
    for path in paths:
        if not os.path.lexists(path):
            raise UsageError(f"{path} does not exist")
    pieces = _pieces(paths, look)
    with closing(pieces):
        work = partial(judge_files, bad_only=bad_only)
        yield from in_order(pieces, work, workers=workers, home=__name__)


def _pieces(paths: Sequence[Path], look: Look) -> Generator[Files]:
    held: list[Path] = []
    now = look
    for files in (found for path in paths for found in _found(path, look)):
        if held and (files.trouble or files.look != now or len(held) >= _TOGETHER):
            yield Files(now, tuple(held))
            held = []
        now = files.look
        if files.trouble:
            yield files
            continue
        held += files.paths
    if held:
        yield Files(now, tuple(held))


def _found(path: Path, look: Look) -> Iterator[Files]:
    state = find_job(path)
    look = Look(look.style, look.extension, None if state is None else known_job(state))
    if path.is_dir():
        yield from _walk(path, look, set())
    else:
        yield Files(look, (path,))


def known_job(state: Path) -> StoredJob | None:
    """The job of a state folder; None where it does not tell what was asked."""
    try:
        return load_job(state)
    except UsageError:
        return None


def _walk(folder: Path, look: Look, seen: set[tuple[int, int]]) -> Iterator[Files]:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return  # a link back to where the walk has been
        seen.add((status.st_dev, status.st_ino))
        own = absolute(folder) / ".joycap"
        if (own / JOB_FILE).is_file():
            look = Look(look.style, look.extension, known_job(own))
        names, folders = _names(folder, look.ending)
    except OSError as error:
        yield Files(look, (folder,), f"the folder cannot be read: {error.strerror or error}")
        return
    for at in range(0, len(names), _TOGETHER):
        yield Files(look, tuple(folder / name for name in names[at : at + _TOGETHER]))
    for name in folders:
        yield from _walk(folder / name, look, seen)


def _names(folder: Path, ending: str) -> tuple[list[str], list[str]]:
    """Names of the sidecars and of the folders in a folder, each in order."""
    names, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append(entry.name)
            elif entry.name.endswith(ending):
                names.append(entry.name)
    return sorted(names, key=os.fsencode), sorted(folders, key=os.fsencode)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself; reading it as a sidecar will tell


def judge_files(files: Files, *, bad_only: bool) -> Findings:
    """Judges some sidecars; what cannot be read is noted as that."""
    notes, job = Notes(bad_only=bad_only), files.look.job
    for path in files.paths:
        ref = os.fsencode(path).decode("utf-8", "backslashreplace")
        if files.trouble:
            notes.unreadable(ref, files.trouble)
            continue
        try:
            found = judge_text(_text_of(path), files.look, path)
        except _UnreadableError as error:
            notes.unreadable(ref, str(error))
            continue
        notes.judged(ref, found.verdict)
        if not found.verdict.ok:
            state = job.state if job else None
            bad = Bad(path, found.prompts, state, found.foreign, found.left)
            notes.findings.bad.append(bad)
    return notes.done()


def still_bad(bad: Sequence[Bad], look: Look) -> int:
    """How many sidecars that were bad are no good captions yet."""
    states = {each.state for each in bad}
    jobs = {state: None if state is None else known_job(state) for state in states}
    looks = {state: replace(look, job=job) for state, job in jobs.items()}
    return sum(
        judge_files(Files(looks[each.state], (each.path,)), bad_only=True).ok == 0 for each in bad
    )


class _UnreadableError(Exception):
    """A file that holds no text."""


def _text_of(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _UnreadableError("it is no regular file")
        if status.st_size > _LONGEST:
            raise _UnreadableError(f"the file is longer than {_LONGEST >> 20} MiB")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _UnreadableError(f"the file is no UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise _UnreadableError(f"the file cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True)
class Judged:
    """What a sidecar is worth.

    Args:
        verdict: The first bad one, or a good one.
        prompts: The prompts whose captions are bad, where the job tells them.
        foreign: Whether somebody else than the job wrote something that is bad.
        left: Whether nothing but how somebody else put it is bad.
    """

    verdict: Verdict
    prompts: tuple[str, ...] = ()
    foreign: bool = False
    left: bool = False


def judge_text(text: str, look: Look, path: Path) -> Judged:
    """Judges what a sidecar says.

    A line that the job did not write is held to what its looks promise, not to what was asked.

    Args:
        text: All of it.
        look: How it is to be read.
        path: The file, which tells the prompts.
    """
    prompts = look.prompts_of(path) if look.style is None else ()
    if prompts:
        lines = [*text.strip().split("\n", len(prompts) - 1), *[""] * len(prompts)]
        lines = lines[: len(prompts)]
        verdicts = [_judge(line, p, look) for line, p in zip(lines, prompts, strict=True)]
    elif look.style is not None:
        lines, verdicts = [text], [judge(text, style=look.style)]
    else:
        lines = _parts(text)
        verdicts = [judge(part, style=guess_style(part)) for part in lines]
    bad = [at for at, verdict in enumerate(verdicts) if not verdict.ok]
    foreign = _foreign(lines, bad, look)
    if prompts and look.job is not None:
        for at in foreign:
            plain = undress(lines[at], look.job.sidecars.dressing)
            verdicts[at] = judge(plain, style=guess_style(plain))
        bad = [at for at in bad if not verdicts[at].ok]
    if not bad:
        return Judged(verdicts[0])
    own = {at for at in foreign if verdicts[at].glitch in _MANNERS or not lines[at].strip()}
    asked = [at for at in bad if at not in own]
    first = verdicts[(asked or bad)[0]]
    where = f"line {(asked or bad)[0] + 1}: " if len(verdicts) > 1 else ""
    return Judged(
        Verdict(False, first.glitch, where + first.why),
        tuple(prompts[at].name for at in asked or bad) if prompts else (),
        foreign=not foreign.isdisjoint(bad),
        left=not asked,
    )


def _foreign(lines: Sequence[str], bad: Sequence[int], look: Look) -> set[int]:
    """Which bad lines the job did not write; blank ones are as foreign as those beside them."""
    job = look.job
    if job is None or not bad:
        return set()
    foreign = {at for at, line in enumerate(lines) if is_foreign(line, job)}
    return {at for at in bad if at in foreign or (foreign and not lines[at].strip())}


def _judge(text: str, prompt: Prompt, look: Look) -> Verdict:
    plain = text if look.job is None else undress(text, look.job.sidecars.dressing)
    asked = None if prompt.template or prompt.choices else prompt.text
    verdict = judge(plain, style=prompt.style, prompt=asked, words=prompt.words)
    if not verdict.ok and look.job is not None and is_accepted(text, look.job):
        return Verdict(True, why="a person accepted it")
    return verdict


def _parts(text: str) -> list[str]:
    """The whole text, or its two lines where they look like dual_caption's tags and prose."""
    lines = text.strip().split("\n")
    dual = len(lines) == 2 and [guess_style(line) for line in lines] == ["tags", "prose"]
    return lines if dual else [text]
