"""What a job was asked to do, resolved once; and whether it is the same job as last time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from joycap_vllm.captioner import DEFAULT_URL, CaptionerOptions
from joycap_vllm.errors import SettingsChangedError, UsageError
from joycap_vllm.images import recipe_name
from joycap_vllm.job.stored import JOB_FILE, StoredJob
from joycap_vllm.job.trouble import USUAL_MOST
from joycap_vllm.outputs import Form, SidecarOptions, write_atomically
from joycap_vllm.prompts import Prompt
from joycap_vllm.sources import Source, escaped, escaped_text

_VERSION = 1


@dataclass(frozen=True, slots=True)
class JobSettings:
    """One job.

    Args:
        source: The images.
        prompts: What is asked of each; their names differ.
        sidecars: Where captions go.
        state: Folder of the journal.
        form: The form of the output; all but `txt` are made from the journal at the job's end.
        out: The file or folder of an output that is no sidecars.
        urls: The fleet.
        captioner: How images are captioned.
        on_glitch: What becomes of the best text when attempts are used up.
        shard: This machine's part and the number of parts, from (1, 1).
        limit: Most images; None takes all.
        sample: So many images, drawn by their keys; None takes all.
        again: Outcomes or kinds of glitches that are asked again although the journal has them;
            `all` are all.
        only: Keys and prompts of the tasks that are asked, whatever the journal says of them; the
            job's other tasks are neither counted nor touched. None takes all.
        replace: Whether sidecars of these tasks give way to new captions, whoever wrote them; this
            run's wish alone, which the stored job knows nothing of.
        max_glitch_rate: Part of the tasks of late that may get a bad answer before the job stops;
            1 never stops it.
        accept_changes: Go on with settings that differ from the journal's.
    """

    source: Source
    prompts: tuple[Prompt, ...]
    sidecars: SidecarOptions
    state: Path
    form: Form = "txt"
    out: Path | None = None
    urls: tuple[str, ...] = (DEFAULT_URL,)
    captioner: CaptionerOptions = field(default_factory=CaptionerOptions)
    on_glitch: Literal["skip", "keep"] = "skip"
    shard: tuple[int, int] = (1, 1)
    limit: int | None = None
    sample: int | None = None
    again: frozenset[str] = frozenset()
    only: frozenset[tuple[str, str]] | None = None
    replace: bool = False
    max_glitch_rate: float = USUAL_MOST
    accept_changes: bool = False

    def __post_init__(self) -> None:
        names = [prompt.name for prompt in self.prompts]
        if len(set(names)) != len(names):
            raise UsageError(f"each caption type can be asked for once, not {', '.join(names)}")
        part, parts = self.shard
        if not 1 <= part <= parts:
            raise UsageError(f"a shard is I/N with I from 1 to N, not {part}/{parts}")

    @property
    def where(self) -> tuple[str, ...]:
        """The fleet, as users named it."""
        named = self.captioner.endpoints
        return (*self.urls, named) if named else self.urls

    @property
    def recipe(self) -> str:
        """The image recipe's name."""
        return recipe_name(self.captioner.recipe or "default", self.captioner.wire)

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each prompt, by name."""
        return {prompt.name: prompt.fingerprint(self.recipe) for prompt in self.prompts}

    def stored(self) -> StoredJob:
        """What it takes to ask again."""
        inputs = tuple(escaped_text(text) for text in self.source.inputs)
        return StoredJob(
            self.state,
            self.prompts,
            self.sidecars,
            self.on_glitch,
            inputs,
            self.form,
            self.out,
            self.captioner.recipe or "default",
            self.captioner.wire == "original",
        )

    def lasting(self) -> dict[str, Any]:
        """The settings that all runs of one job must share, as plain data."""
        options, home = self.sidecars, self.state.parent
        own = self.state.is_relative_to(options.root)
        data = {
            "root": None if own else escaped(options.root),  # a folder moves with its own journal
            "recipe": self.recipe,
            "prompts": _lasting_prompts(self.prompts),
            "sidecars": {
                "extension": options.extension,
                "out": escaped(Path(os.path.relpath(options.out, home))) if options.out else None,
                "together": options.together,
                **options.dressing.lasting(),
            },
        }
        plain: dict[str, Any] = orjson.loads(orjson.dumps(data))
        return plain


def _lasting_prompts(prompts: Sequence[Prompt]) -> dict[str, dict[str, Any]]:
    derived = ("name", "style", "words", "template")
    return {
        prompt.name: {k: v for k, v in asdict(prompt).items() if k not in derived}
        for prompt in prompts
    }


def differences_of(old: Sequence[Prompt], new: Sequence[Prompt]) -> Iterator[str]:
    """What two jobs ask differently, a line for each."""
    before, now = (orjson.loads(orjson.dumps(_lasting_prompts(some))) for some in (old, new))
    return _differences(before, now, "prompts")


def check_settings(settings: JobSettings) -> None:
    """Compares with `job.json` of the last run, and writes it where there is none.

    Raises:
        SettingsChangedError: Something differs and was not accepted; the text tells what.
        OutputError: The file cannot be written.
    """
    path = settings.state / JOB_FILE
    new, job = settings.lasting(), settings.stored().entry()
    old: Any = None
    stored: Any = None
    try:
        data = orjson.loads(path.read_bytes())
        old, stored = data["settings"], data.get("job")
    except FileNotFoundError:
        pass
    except (orjson.JSONDecodeError, KeyError, TypeError, OSError) as error:
        old = None if settings.accept_changes else {JOB_FILE: f"unreadable ({error})"}
    if settings.only is not None:
        job = stored or job  # a few tasks asked again do not tell how the job is asked
        if stored and isinstance(old, dict):
            old = old | {"root": new["root"]}  # it is the stored job's, wherever that has moved
    _share_sidecars(settings.form, old, stored, new)
    if (old, stored) == (new, job):
        return
    if old != new and old is not None and not settings.accept_changes:
        differences = "\n".join(f"  {line}" for line in _differences(old, new, ""))
        raise SettingsChangedError(
            f"the journal in {settings.state} was made with other settings:\n{differences}\n"
            "Run with the old settings, or accept the new ones with --accept-changes (what is "
            "captioned already stays unless --existing overwrite is given)."
        )
    whole = orjson.dumps({"v": _VERSION, "settings": new, "job": job}, option=orjson.OPT_INDENT_2)
    write_atomically(path, whole + b"\n")


def _share_sidecars(form: Form, old: Any, stored: Any, new: dict[str, Any]) -> None:
    """Leaves the folder of sidecars to those runs that write some: others do not tell of it."""
    before = old.get("sidecars") if isinstance(old, dict) else None
    if not isinstance(before, dict):
        return
    if form != "txt":
        new["sidecars"]["out"] = before.get("out")
    elif isinstance(stored, dict) and stored.get("form") != "txt" and before.get("out") is None:
        old["sidecars"] = before | {"out": new["sidecars"]["out"]}


def _differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            inner = f"{where}.{name}" if where else name
            yield from _differences(old.get(name), new.get(name), inner)
    elif old != new:
        yield f"{where}: {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "there"
    return "not there" if value is None else repr(value)
