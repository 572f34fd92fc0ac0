"""`joycap caption --ray`: the same job, asked by workers on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from joycap_vllm.cli.flags import WHERE
from joycap_vllm.cli.talk import say

if TYPE_CHECKING:
    from joycap_vllm.job.crew import Hire

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        envvar="JOYCAP_RAY",
        rich_help_panel=WHERE,
        metavar="ADDRESS",
        help="Let workers on a Ray cluster read, prepare and ask (extra `ray`): auto is this "
        "machine's cluster, local a new one here, else HOST:PORT or ray://HOST:PORT. Files and "
        "base URLs are as the workers see them; journal and captions are written here.",
    ),
]
RayWorkers = Annotated[
    int | None,
    typer.Option(
        "--ray-workers",
        envvar="JOYCAP_RAY_WORKERS",
        rich_help_panel=WHERE,
        min=1,
        metavar="N",
        help="Workers of --ray. (default: one for each two cores of the cluster)",
    ),
]


def check_ray(address: str | None, workers: int | None, *, serves: bool) -> None:
    """Looks whether the flags go together with --ray, before anything is begun.

    Args:
        address: Of --ray.
        workers: Of --ray-workers.
        serves: Whether the job starts a server of its own.

    Raises:
        UsageError: They do not.
        MissingExtraError: Ray is not installed.
    """
    from joycap_vllm.errors import UsageError

    if address is None:
        if workers is not None:
            raise UsageError("--ray-workers are those of --ray ADDRESS, which is not given")
        return
    from joycap_vllm.scale import check_address, require_ray

    check_address(address)
    if serves and address != "local":
        raise UsageError(
            "--serve starts a server that only this machine can ask, and --ray's workers may be on "
            "others: start it with `joycap serve --host`, and name it by --base-url"
        )
    require_ray()


def hire_of(address: str | None, workers: int | None) -> Hire:
    """Who asks: this process, or workers on the cluster at --ray."""
    from joycap_vllm.job.crew import own_crew

    if address is None:
        return own_crew
    from joycap_vllm.scale import ray_crew

    return ray_crew(address, workers, say)


def seen_from_anywhere(endpoints: str) -> str:
    """What --endpoints names, as a worker finds it, whose folder is another."""
    if not endpoints or "://" in endpoints:
        return endpoints
    return str(Path(endpoints).expanduser().absolute())
