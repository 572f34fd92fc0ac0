"""`joycap doctor`: what this machine can run, and what the servers say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from joycap_vllm.cli.launched import BaseUrls, urls_of

if TYPE_CHECKING:
    from joycap_vllm.fleet import Proof


def doctor(
    base_urls: BaseUrls = None,
    model: Annotated[
        str | None, typer.Option(envvar="JOYCAP_MODEL", help="(default: what the server lists)")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(envvar="JOYCAP_API_KEY_FILE", help="File with the API key.")
    ] = None,
) -> None:
    """Look at this machine and at each server: what runs here and how fast, what is missing, what
    is wrong.

    Of servers: those named, else those that `joycap serve` runs here, else the usual address. Each
    is asked for the caption of a test picture.

    Examples:

      joycap doctor

      joycap doctor --base-url http://gpu:8000/v1

    Exit codes: 0 shown, 2 wrong usage, 3 a server is not fit for a job.
    """
    from joycap_vllm.cli.options import api_key
    from joycap_vllm.fleet import require

    key = api_key(api_key_file)
    _look_here()
    proofs = [_look_there(url, model, key) for url in urls_of(base_urls)]
    require(proofs)


def _look_here() -> None:
    import asyncio

    from joycap_vllm.bench import pictures_per_second
    from joycap_vllm.server.checkup import checkup, installed
    from joycap_vllm.server.looking import look

    marks = {"good": "  ", "note": "- ", "bad": "! "}
    typer.echo("this machine")
    for found in checkup(look(), installed()):
        mend = f"  ->  {found.mend}" if found.mend else ""
        typer.echo(f"  {marks[found.level]}{found.text}{mend}")
    speed = asyncio.run(pictures_per_second())
    typer.echo(
        f"  {marks['good']}prepares {speed:.0f} pictures of 1.0 to 1.6 megapixels a second for a "
        "server (measured now)"
    )


def _look_there(url: str, model: str | None, key: str | None) -> Proof:
    import asyncio

    from joycap_vllm.errors import NoEndpointError
    from joycap_vllm.fleet import Proof, prove

    try:
        proof = asyncio.run(prove(url, model=model, api_key=key, twice=True))
    except NoEndpointError as error:
        return Proof(url, False, (str(error),), "")
    typer.echo(f"{proof.url}: {'fit' if proof.ok else 'not fit'}, model {proof.model}")
    if proof.image_tokens is None:
        typer.echo("  prompt: this server does not show what the model is asked")
    else:
        right = "not as" if proof.problems else "as"
        tokens = f"{proof.image_tokens} image tokens"
        typer.echo(f"  prompt: {right} JoyCaption was trained on ({tokens})")
    typer.echo(f"  test picture: {proof.answer!r}")
    if proof.again is not None:
        written = proof.again.usage.completion
        speed = f" ({written / proof.seconds:.0f} a second)" if written else ""
        cached = f"; {proof.cached} of its prompt came from the cache" if proof.cached else ""
        typer.echo(
            f"  asked again, alone: {written} tokens in {proof.seconds:.2f} s{speed}{cached}; "
            "`joycap bench` measures many at once"
        )
    return proof
