"""`joycap prompts`: the table, or the exact text that will be sent."""

from __future__ import annotations

from typing import Annotated

import typer

from joycap_vllm.cli import completing


def prompts(
    type_name: Annotated[
        str | None,
        typer.Argument(
            metavar="[TYPE]",
            autocompletion=completing.caption_types,
            help="A caption type, for its exact text.",
        ),
    ] = None,
    length: Annotated[
        str,
        typer.Option(
            envvar="JOYCAP_LENGTH",
            autocompletion=completing.lengths,
            help="A length of the table.",
        ),
    ] = "any",
    words: Annotated[int | None, typer.Option(envvar="JOYCAP_WORDS", help="Word limit.")] = None,
    extras: Annotated[
        list[str] | None,
        typer.Option(
            "--extra",
            envvar="JOYCAP_EXTRA",
            autocompletion=completing.extra_options,
            help="Extra option: short name, number or text.",
        ),
    ] = None,
    name: Annotated[str, typer.Option(envvar="JOYCAP_NAME", help="Fills {name}.")] = "",
) -> None:
    """Show JoyCaption's prompt table; with a type, print the exact text that will be sent.

    Examples:

      joycap prompts

      joycap prompts straightforward --words 50 --extra lighting

    Exit codes: 0 shown, 2 no type, length or option is called so.
    """
    from joycap_vllm.prompts import build_prompt, load_table

    if type_name is not None:
        typer.echo(
            build_prompt(type_name, length=length, words=words, extras=extras or (), name=name).text
        )
        return
    table = load_table()
    typer.echo("Caption types (--type):")
    for row in table.types:
        typer.echo(f"\n  {row.name}  [{row.style}]")
        typer.echo(f"    any:    {row.any}")
        typer.echo(f"    words:  {row.words}")
        typer.echo(f"    length: {row.length}")
    typer.echo("\nOther names:")
    for alias, meant in table.aliases.items():
        length_of = f" --length {meant.length}" if meant.length != "any" else ""
        typer.echo(f"  {alias} = {meant.type}{length_of}")
    typer.echo(f"\nLengths (--length): {', '.join(table.lengths)}; or --words N")
    typer.echo("\nExtra options (--extra, by name or number):")
    for option in table.extras:
        typer.echo(f"  {option.number:2d} {option.name}: {option.text}")
    typer.echo("\nSystem prompts (--system-prompt; the first is sent by default):")
    for text in table.system_prompts:
        typer.echo(f"  {text}")
    typer.echo(f"\nSource: {table.source}")
