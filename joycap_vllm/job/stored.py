"""A job as `job.json` keeps it: all that it takes to ask again, or to read its sidecars."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import orjson

from joycap_vllm.errors import UsageError
from joycap_vllm.images import Recipe
from joycap_vllm.job.records import state_folder
from joycap_vllm.outputs import Form, SidecarOptions
from joycap_vllm.prompts import Prompt
from joycap_vllm.sources import escaped, unescaped

JOB_FILE = "job.json"


@dataclass(frozen=True, slots=True)
class StoredJob:
    """What of a job lasts beyond its command.

    Args:
        state: Folder of its journal.
        prompts: What is asked of each image.
        sidecars: Where captions go; its root is the folder that keys are relative to.
        on_glitch: What becomes of the best text when attempts are used up.
        inputs: What its last run read, as `escaped_text` writes it.
        form: The form of its output.
        out: The file or folder of an output that is no sidecars.
        recipe: How exactly pictures are prepared.
        original: Whether they travel as they are stored.
    """

    state: Path
    prompts: tuple[Prompt, ...]
    sidecars: SidecarOptions
    on_glitch: Literal["skip", "keep"] = "skip"
    inputs: tuple[str, ...] = ()
    form: Form = "txt"
    out: Path | None = None
    recipe: Recipe = "default"
    original: bool = False

    def entry(self) -> dict[str, Any]:
        """Plain data for `job.json`; folders that may move together with the state folder, since
        they share a folder around them, are relative to it."""

        def text_of(value: Any) -> Any:
            if not isinstance(value, Path):
                return sorted(value)
            near = os.path.commonpath([self.state, value]) != os.path.sep
            return escaped(Path(os.path.relpath(value, self.state)) if near else value)

        plain: dict[str, Any] = orjson.loads(orjson.dumps(asdict(self), default=text_of))
        return plain

    @staticmethod
    def of_entry(entry: Any, state: Path) -> StoredJob:
        """The job that `entry` described; what a newer version added is left out.

        Raises:
            TypeError: It describes none; so do ValueError, KeyError and AttributeError.
        """
        job: StoredJob = _made(StoredJob, entry, state)
        return job


def load_job(state: Path) -> StoredJob:
    """The job of a state folder; its folders are absolute, however this one is spelled.

    Raises:
        UsageError: There is none, or `job.json` is damaged or of an earlier version.
    """
    path, state = state / JOB_FILE, absolute(state)
    try:
        data = orjson.loads(path.read_bytes())
        return _where_images_are(StoredJob.of_entry(data["job"], state), data)
    except FileNotFoundError as error:
        raise UsageError(f"no job in {state}: {JOB_FILE} is missing") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} does not tell how the job was asked (it is damaged, or an earlier version "
            "wrote it): run the job's own `joycap caption` once more, which asks nothing that is "
            "captioned and writes it anew"
        ) from error


def _where_images_are(job: StoredJob, data: Any) -> StoredJob:
    """The job with the root of its settings, where it moved without its images."""
    root = data["settings"].get("root") if isinstance(data.get("settings"), dict) else None
    if not isinstance(root, str) or job.sidecars.root.is_dir():
        return job
    known = unescaped(root)
    return replace(job, sidecars=replace(job.sidecars, root=known)) if known.is_dir() else job


def _made(kind: Any, value: Any, state: Path) -> Any:
    """`value` as JSON gives it, as the type that it was."""
    if kind is Path:
        return Path(os.path.normpath(state / unescaped(value)))
    if get_origin(kind) is UnionType:
        (inner,) = (each for each in get_args(kind) if each is not NoneType)
        return None if value is None else _made(inner, value, state)
    if get_origin(kind) in (tuple, frozenset):
        return get_origin(kind)(_made(get_args(kind)[0], each, state) for each in value)
    if not is_dataclass(kind):
        return value
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind) if f.name in value]
    return kind(**{name: _made(hints[name], value[name], state) for name in known})  # type: ignore[operator]


def absolute(path: Path) -> Path:
    """The path from the top, without `..`; symlinks stay as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - keeps symlinks


def find_job(path: Path) -> Path | None:
    """The state folder of the job that a file or a folder belongs to, or None.

    That is the folder itself, `.joycap` in it or in the nearest folder around it, or the place in
    the user's state folder that stands for a folder that cannot be written.
    """
    whole = absolute(path)
    for folder in (whole, *(around / ".joycap" for around in (whole, *whole.parents))):
        if (folder / JOB_FILE).is_file() and (folder != whole or folder_holds_journal(whole)):
            return folder
    away = state_folder(whole)
    return away if (away / JOB_FILE).is_file() else None


def folder_holds_journal(folder: Path) -> bool:
    return next(folder.glob("journal-*.jsonl"), None) is not None
