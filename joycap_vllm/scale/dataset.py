"""`caption_dataset`: a Ray dataset of pictures becomes one with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from joycap_vllm.captioner import CaptionerOptions
from joycap_vllm.errors import MissingExtraError, UsageError
from joycap_vllm.prompts import Prompt, build_prompt
from joycap_vllm.scale.actor import CaptionActor, Columns

if TYPE_CHECKING:
    from ray.data import Dataset


def caption_dataset(
    ds: Dataset,
    prompts: str | Prompt | Sequence[str | Prompt] = "descriptive",
    *,
    urls: Sequence[str],
    options: CaptionerOptions | None = None,
    path_column: str = "path",
    bytes_column: str | None = None,
    concurrency: int | None = None,
    actors: int = 2,
    batch_size: int = 64,
    num_cpus: float = 0.5,
) -> Dataset:
    """Adds captions to a Ray dataset, lazily, as all of Ray Data works.

    Each row gets the columns `caption` (null unless the outcome is ok), `outcome`, `glitch`,
    `why` and `attempts`; with several prompts each of them ends in `_<prompt name>`. A picture
    that cannot be used is a row with the outcome `failed`, never an error of the job.

    ```python
    ds = ray.data.read_parquet("s3://bucket/manifest")
    caption_dataset(ds, ["descriptive", "danbooru-tag-list"], urls=["http://gpu:8000/v1"])
    ```

    Args:
        ds: The dataset.
        prompts: Caption types by name, or prompts; all of them are asked about each picture.
        urls: Base URLs of the fleet, as each actor reaches them.
        options: How the fleet is asked; its concurrency is replaced.
        path_column: Column with a path or an fsspec URL, readable where the actors run.
        bytes_column: Column with the bytes of picture files, taken in place of the path.
        concurrency: Requests in flight over all actors, shared evenly between them; None lets
            each actor find out what the servers can take.
        actors: Processes that prepare pictures and wait for answers; each has its own connections.
        batch_size: Rows that an actor takes at once, of which it works on four batches.
        num_cpus: Cores that Ray sets aside for an actor, which mostly waits; what reads the
            dataset needs cores too, and a cluster whose actors hold all of them never begins.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: No endpoint, no prompt, or two prompts of one name. While the job runs, a
            missing column, or one that captions would overwrite, ends it as a UsageError inside
            Ray's own error; so does NoEndpointError.
    """
    try:
        from ray.data import ActorPoolStrategy
    except ModuleNotFoundError as error:
        raise MissingExtraError("caption_dataset", "ray") from error
    if not urls:
        raise UsageError("give at least one base URL: urls=['http://gpu:8000/v1']")
    if actors < 1 or (concurrency is not None and concurrency < actors):
        raise UsageError("each actor needs at least one request in flight")
    columns = Columns(path_column, bytes_column)
    made = _prompts(prompts)
    return ds.map_batches(
        CaptionActor,
        fn_constructor_args=(tuple(urls), _share(options, concurrency, actors), made, columns),
        compute=ActorPoolStrategy(size=actors),
        batch_size=batch_size,
        batch_format="pyarrow",
        num_cpus=num_cpus,
    )


def _prompts(prompts: str | Prompt | Sequence[str | Prompt]) -> tuple[Prompt, ...]:
    asked = [prompts] if isinstance(prompts, str | Prompt) else prompts
    made = tuple(build_prompt(p) if isinstance(p, str) else p for p in asked)
    names = [prompt.name for prompt in made]
    if not names:
        raise UsageError("give at least one prompt")
    if len(set(names)) < len(names):
        raise UsageError(f"two prompts have one name, which columns are named by: {names}")
    return made


def _share(
    options: CaptionerOptions | None, concurrency: int | None, actors: int
) -> CaptionerOptions:
    """The options of one actor; the shares never add up to more than was asked for."""
    options = options or CaptionerOptions()
    share = None if concurrency is None else concurrency // actors
    return replace(options, fleet=replace(options.fleet, concurrency=share))
