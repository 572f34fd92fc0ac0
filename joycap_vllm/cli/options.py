"""The flags of `joycap caption` as one frozen value, and the settings that follow from them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from joycap_vllm.errors import UsageError

if TYPE_CHECKING:
    from joycap_vllm.captioner import CaptionerOptions
    from joycap_vllm.job import JobSettings
    from joycap_vllm.outputs import Dressing, Form
    from joycap_vllm.prompts import Prompt
    from joycap_vllm.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class AskFlags:
    """The flags of every command that asks servers."""

    base_urls: list[str] | None
    serve: str | None
    model: str | None
    api_key_file: Path | None
    concurrency: str
    timeout: float
    patience: float
    check: bool
    retries: int
    max_pixels: int
    allow_private_urls: bool = False
    url_timeout: float = 30.0
    wire: Literal["auto", "jpeg", "png", "png0", "bmp", "original"]
    recipe: Literal["default", "exact", "fast"] | None = None
    max_glitch_rate: str
    accept_changes: bool
    as_json: bool
    log_format: str = "text"
    metrics_port: str | None = None
    endpoints: str | None = None
    ray: str | None = None
    ray_workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionFlags(AskFlags):
    """What was typed; `joycap caption --help` explains each."""

    inputs: list[str]
    types: list[str] | None
    length: str
    words: int | None
    extras: list[str] | None
    name: str
    prompt: str | None
    prompt_file: Path | None
    system_prompt: str | None
    dual: bool
    dual_split: bool
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    seed: int | None
    on_glitch: Literal["skip", "keep"]
    out: Path | None
    form: Form
    ext: str
    prefix: str
    suffix: str
    trigger: str
    underscores: Literal["keep", "spaces"]
    tag_separator: str | None
    always_first: list[str] | None
    undesired: list[str] | None
    dedupe_tags: bool
    strip_lead_in: bool
    existing: Literal["skip", "overwrite", "append", "prepend"]
    journal: Path | None
    again: list[str] | None
    shard: str
    limit: int | None
    sample: int | None
    dry_run: bool


def api_key(file: Path | None) -> str | None:
    """The key from a file, else from OPENAI_API_KEY.

    Raises:
        UsageError: The file cannot be read or is empty.
    """
    if file is None:
        return _sendable(os.environ.get("OPENAI_API_KEY", "").strip(), "OPENAI_API_KEY") or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the API key file {file} cannot be read: {error}") from error
    if not key:
        raise UsageError(f"the API key file {file} is empty")
    return _sendable(key, f"the API key file {file}")


def _sendable(key: str, where: str) -> str:
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"{where} holds no API key: only printable ASCII can be sent")
    return key


def prompts_of(flags: CaptionFlags) -> tuple[Prompt, ...]:
    """The prompts that the flags ask for.

    Raises:
        UsageError: Flags contradict each other, or name what is not there.
    """
    from joycap_vllm.prompts import (
        Choice,
        Sampling,
        build_prompt,
        custom_prompt,
        dual_prompts,
        load_prompt_file,
    )

    for flag, value in (
        ("--prompt", flags.prompt),
        ("--system-prompt", flags.system_prompt),
        ("--prefix", flags.prefix),
        ("--suffix", flags.suffix),
        ("--trigger", flags.trigger),
        ("--tag-separator", flags.tag_separator),
        *(("--always-first", tag) for tag in flags.always_first or []),
        *(("--undesired", tag) for tag in flags.undesired or []),
    ):
        if value is not None and not value.isprintable() and _is_no_unicode(value):
            raise UsageError(f"{flag} is not valid UTF-8")
    sampling = Sampling(flags.temperature, flags.top_p, flags.top_k, flags.max_tokens, flags.seed)
    own = [f for f, v in (("--prompt", flags.prompt), ("--prompt-file", flags.prompt_file)) if v]
    dual = flags.dual or flags.dual_split
    asked = [*own, *(["--type"] if flags.types else []), *(["--dual"] if dual else [])]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} cannot be given together")
    if own or dual:
        given = flags.length != "any" or flags.words is not None or flags.extras
        if given:
            raise UsageError(
                f"--length, --words and --extra belong to caption types, not to {asked[0]}"
            )
    if dual:
        return tuple(dual_prompts(system=flags.system_prompt, sampling=sampling))
    if flags.prompt is not None:
        choices = [Choice(flags.prompt)]
        return (custom_prompt(choices, system=flags.system_prompt, sampling=sampling),)
    if flags.prompt_file is not None:
        choices = load_prompt_file(flags.prompt_file)
        return (custom_prompt(choices, system=flags.system_prompt, sampling=sampling),)
    return tuple(
        build_prompt(
            name,
            length=flags.length,
            words=flags.words,
            extras=flags.extras or (),
            name=flags.name,
            system=flags.system_prompt,
            sampling=sampling,
        )
        for name in flags.types or ["descriptive"]
    )


def _is_no_unicode(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def urls_of(flags: AskFlags) -> tuple[str, ...]:
    """The fleet, but for those that --endpoints names and --serve will start."""
    from joycap_vllm.captioner import DEFAULT_URL
    from joycap_vllm.cli.launched import fleet_of

    if flags.serve is not None:
        return (DEFAULT_URL,)  # until its servers have ports
    return () if flags.endpoints and not flags.base_urls else (*fleet_of(flags.base_urls),)


def captioner_of(flags: AskFlags) -> CaptionerOptions:
    """How images are captioned.

    Raises:
        UsageError: A value cannot be, or there is no API key where one should be.
    """
    from joycap_vllm.captioner import CaptionerOptions
    from joycap_vllm.cli.raying import seen_from_anywhere
    from joycap_vllm.fleet import FleetOptions
    from joycap_vllm.images import Limits

    endpoints = flags.endpoints or ""
    return CaptionerOptions(
        model=flags.model,
        api_key=api_key(flags.api_key_file),
        retries=flags.retries,
        wire=None if flags.wire == "auto" else flags.wire,
        recipe=flags.recipe,
        limits=Limits(pixels=flags.max_pixels),
        check=flags.check,
        endpoints=seen_from_anywhere(endpoints) if flags.ray else endpoints,
        fleet=FleetOptions(_concurrency(flags.concurrency), flags.timeout, flags.patience),
    )


def settings_of(flags: CaptionFlags) -> JobSettings:
    """The job that the flags describe.

    Raises:
        UsageError: Something in them cannot be.
    """
    from joycap_vllm.job import JobSettings, state_folder
    from joycap_vllm.outputs import SidecarOptions, folder_of, place_of, require

    prompts = prompts_of(flags)
    source = source_of(flags.inputs, flags)
    place = None if flags.out is None else place_of(flags.form, flags.out)
    require(flags.form)
    if place is None and not source.beside and flags.form == "txt":
        raise UsageError(
            "these images are no files of this machine, so nothing can be put beside them: --out "
            "names a folder for their captions, or --format another form"
        )
    home = source.root if place is None else folder_of(flags.form, place)
    sidecars = SidecarOptions(
        prompts=tuple(prompt.name for prompt in prompts),
        tag_prompts=frozenset(p.name for p in prompts if p.style == "tags"),
        root=source.root,
        extension=extension_of(flags.ext),
        out=place if flags.form == "txt" else None,
        together=flags.dual and not flags.dual_split,
        existing=flags.existing,
        dressing=_dressing(flags),
    )
    return JobSettings(
        source=source,
        prompts=prompts,
        sidecars=sidecars,
        state=_folder(flags.journal) or state_folder(home),
        form=flags.form,
        out=None if flags.form == "txt" else place,
        urls=urls_of(flags),
        captioner=captioner_of(flags),
        on_glitch=flags.on_glitch,
        shard=_shard(flags.shard),
        limit=flags.limit,
        sample=flags.sample,
        again=_again(flags.again or []),
        max_glitch_rate=rate_of(flags.max_glitch_rate),
        accept_changes=flags.accept_changes,
    )


def source_of(inputs: Sequence[str], flags: AskFlags) -> Source:
    """What is read.

    Raises:
        UsageError: An input is missing, or of no kind that can be read.
    """
    from joycap_vllm.sources import WebRules, open_source

    rules = WebRules(seconds=flags.url_timeout, private=flags.allow_private_urls)
    return open_source(inputs, rules)


def _dressing(flags: CaptionFlags) -> Dressing:
    from joycap_vllm.outputs import Dressing, TagOptions, one_line, read_tags

    separator = flags.tag_separator
    if separator == "" or (separator and one_line(f"-{separator}-") != f"-{separator}-"):
        raise UsageError(f"--tag-separator is a text without line breaks, not {separator!r}")
    tags = TagOptions(
        underscores=flags.underscores,
        separator=separator,
        first=read_tags(flags.always_first or []),
        undesired=read_tags(flags.undesired or []),
        dedupe=flags.dedupe_tags,
    )
    return Dressing(flags.prefix, flags.suffix, flags.trigger, tags, flags.strip_lead_in)


def _folder(path: Path | None) -> Path | None:
    if path is None:
        return None
    whole = path.expanduser().absolute()
    if whole.exists() and not whole.is_dir():
        raise UsageError(f"{path} is a file, and a folder is needed")
    return whole


def extension_of(text: str) -> str:
    """The extension of sidecars, with its dot.

    Raises:
        UsageError: It is none, or one of pictures.
    """
    from joycap_vllm.sources import IMAGE_SUFFIXES

    extension = text if text.startswith(".") else f".{text}"
    if not re.fullmatch(r"(\.[\w-]+)+", extension):
        raise UsageError(f"--ext is an extension such as .caption, not {text!r}")
    if extension.lower() in IMAGE_SUFFIXES:
        raise UsageError(f"--ext {text} would overwrite pictures")
    return extension


def _again(wanted: list[str]) -> frozenset[str]:
    from joycap_vllm.glitch import GLITCHES

    known = ("glitched", "failed", "all", *GLITCHES)
    for name in wanted:
        if name not in known:
            raise UsageError(f"--again takes one of {', '.join(known)}, not {name!r}")
    return frozenset(wanted)


def _concurrency(text: str) -> int | None:
    if text == "auto":
        return None
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise UsageError(f"--concurrency is auto or a number of requests, not {text!r}")
    return int(text)


def rate_of(text: str) -> float:
    """The part of tasks that may get a bad answer; 1 where it is `off`.

    Raises:
        UsageError: It is none.
    """
    try:
        rate = 1.0 if text == "off" else float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1:
        raise UsageError(f"--max-glitch-rate is above 0 and at most 1, or off, not {text!r}")
    return rate


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and text.isascii() and part.isdecimal() and parts.isdecimal()):
        raise UsageError(f"--shard is I/N, such as 1/4, not {text!r}")
    return int(part), int(parts)
