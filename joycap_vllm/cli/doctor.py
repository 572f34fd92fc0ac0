"""`joycap doctor`: what this machine can run, and what the servers say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    base_urls: Annotated[
        list[str] | None,
        typer.Option(
            "--base-url",
            envvar=["JOYCAP_BASE_URL", "OPENAI_BASE_URL"],
            help="Server to look at. (default: http://127.0.0.1:8000/v1)",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(envvar="JOYCAP_MODEL", help="(default: what the server lists)")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(envvar="JOYCAP_API_KEY_FILE", help="File with the API key.")
    ] = None,
) -> None:
    """Look at each server: reachable, which model, and whether a test picture is captioned.

    Exit code 3 if one of them is not fit for a job.
    """
    import asyncio

    from joycap_vllm.captioner import DEFAULT_URL
    from joycap_vllm.cli.options import api_key
    from joycap_vllm.errors import NoEndpointError
    from joycap_vllm.fleet import Proof, prove, require

    key = api_key(api_key_file)
    proofs = []
    for url in base_urls or [DEFAULT_URL]:
        try:
            proof = asyncio.run(prove(url, model=model, api_key=key))
        except NoEndpointError as error:
            proofs.append(Proof(url, False, (str(error),), ""))
            continue
        proofs.append(proof)
        tokens = "not shown" if proof.image_tokens is None else str(proof.image_tokens)
        typer.echo(f"{proof.url}: {'fit' if proof.ok else 'not fit'}, model {proof.model}")
        typer.echo(f"  image tokens: {tokens}; literal <image>: {proof.literal_image}")
        typer.echo(f"  test picture: {proof.answer!r}")
    require(proofs)
