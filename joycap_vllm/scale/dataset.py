"""`caption_dataset`: a Ray dataset of pictures becomes one with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from joycap_vllm.captioner import CaptionerOptions
from joycap_vllm.errors import MissingExtraError, UsageError
from joycap_vllm.prompts import Prompt, build_prompts
from joycap_vllm.scale.actor import CaptionActor
from joycap_vllm.scale.cells import Columns
from joycap_vllm.sources import WebRules

if TYPE_CHECKING:
    from ray.data import ActorPoolStrategy, Dataset

_AT_ONCE = 4  # blocks in one actor, each with four batches: the end of one is no pause


def caption_dataset(
    ds: Dataset,
    prompts: str | Prompt | Sequence[str | Prompt] = "descriptive",
    *,
    urls: Sequence[str] = (),
    options: CaptionerOptions | None = None,
    path_column: str = "path",
    bytes_column: str | None = None,
    key_column: str | None = None,
    web: WebRules | None = None,
    concurrency: int | None = None,
    actors: int = 2,
    batch_size: int = 64,
    num_cpus: float = 0.5,
    checkpoint: str | None = None,
) -> Dataset:
    """Adds captions to a Ray dataset, lazily, as all of Ray Data works.

    Each row gets the columns `caption` (null unless the outcome is ok), `outcome`, `glitch`, `why`,
    `attempts`, `finish`, `model`, `prompt_tokens` and `completion_tokens`; with several prompts
    each of them ends in `_<prompt name>`. A picture that cannot be used is a row with the outcome
    `failed`, never an error of the job. What dead actors had is asked again, and each
    row comes out once.

    ```python
    ds = ray.data.read_parquet("s3://bucket/manifest")  # with a column `path` or others, as below
    own = custom_prompt([Choice("Describe this {animal}.")])
    captioned = caption_dataset(ds, ["descriptive", own], urls=["http://gpu:8000/v1"])
    captioned.write_parquet("s3://bucket/captions")
    ```

    Args:
        ds: The dataset.
        prompts: Caption types by name, or prompts, filled in from the row's columns; all are asked.
        urls: Base URLs of the fleet, as each actor reaches them; none are those that
            `options.endpoints` finds (a file that all actors see, or `dns+http://NAME:PORT`).
        options: How the fleet is asked; its concurrency is replaced.
        path_column: Column with a path, relative to where this is called, or a URL: http(s), or of
            a store that fsspec knows. Actors read it.
        bytes_column: Column with pictures themselves, taken in its place: bytes of files, arrays as
            `ray.data.read_images` gives them, or `{"bytes", "path"}` as Hugging Face keeps them.
        key_column: Column with keys, which seeds are drawn from; else that is the path or URL, or
            the digest of the bytes.
        web: What may be fetched: by default 1 GiB in 30 s, from public addresses only.
        concurrency: Requests in flight over all actors, shared evenly; None finds it out.
        actors: Processes that prepare pictures and wait for answers.
        batch_size: Rows of a batch; an actor works on several.
        num_cpus: Cores set aside for an actor; what reads the dataset, and a checkpoint, needs one
            each too, and a cluster whose actors hold all of them never begins.
        checkpoint: Folder or URL of Ray's own checkpoint, for a dataset that is read from files and
            written to some: what is written is not asked again. Keys, or else paths, must differ.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: The arguments cannot be, or Ray has no checkpoints. While the job runs, a column
            that is missing or would be overwritten ends it so, inside Ray's own error; so does
            NoEndpointError.
    """
    pool, options = _pool(actors), options or CaptionerOptions()
    if not urls and not options.endpoints:
        raise UsageError("give at least one base URL: urls=['http://gpu:8000/v1']")
    folder = f"{Path.cwd()}/"
    columns = Columns(path_column, bytes_column, key_column, folder, web or WebRules())
    made, share = build_prompts(prompts), _share(options, concurrency, actors)
    if checkpoint is not None:
        _keep_checkpoint(ds, checkpoint, columns)
    return ds.map_batches(
        CaptionActor,
        fn_constructor_args=(tuple(urls), share, made, columns),
        compute=pool,
        batch_size=batch_size,
        batch_format="pyarrow",
        num_cpus=num_cpus,
        max_concurrency=_AT_ONCE,
    )


def _pool(actors: int) -> ActorPoolStrategy:
    try:
        from ray.data import ActorPoolStrategy
    except ModuleNotFoundError as error:
        raise MissingExtraError("caption_dataset", "ray") from error
    if actors < 1:
        raise UsageError("each actor needs at least one request in flight, and one is needed")
    return ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2 * _AT_ONCE)


def _share(options: CaptionerOptions, concurrency: int | None, actors: int) -> CaptionerOptions:
    """The options of one actor; the shares never add up to more than was asked for."""
    if concurrency is not None and concurrency < actors:
        raise UsageError("each actor needs at least one request in flight")
    share = None if concurrency is None else concurrency // actors
    return replace(options, fleet=replace(options.fleet, concurrency=share, sharers=actors))


def _keep_checkpoint(ds: Dataset, place: str, columns: Columns) -> None:
    import ray

    id_column = columns.key or (None if columns.bytes else columns.path)
    if id_column is None:
        raise UsageError("a checkpoint needs key_column, a column whose values are all different")
    try:
        from ray.data.checkpoint import CheckpointConfig
    except ImportError as error:
        raise UsageError(
            f"Ray {ray.__version__} has no checkpoints of its own: leave out checkpoint, and a job "
            "that is run again begins anew, or install a newer Ray"
        ) from error
    ds.context.checkpoint_config = CheckpointConfig(
        id_column, place, delete_checkpoint_on_success=False
    )
