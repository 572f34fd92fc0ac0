"""Captions asked for again: what the model says is offered, and kept only if it is taken."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson

from joycap_vllm.captioner import Captioner, Outcome
from joycap_vllm.errors import ImageError, OutputError, UsageError
from joycap_vllm.gateway.bounds import short_enough
from joycap_vllm.gateway.review_book import Book, Item
from joycap_vllm.gateway.review_desk import facts_of
from joycap_vllm.gateway.review_job import JobBook
from joycap_vllm.job.journal import make_line
from joycap_vllm.prompts import Prompt, build_prompt

_KEPT = 256  # offers


@dataclass(frozen=True, slots=True)
class Offer:
    """An answer that waits to be taken.

    Args:
        id: Its name.
        item: Of what.
        asked: The exact text.
        outcome: The answer and its verdict.
        facts: What its record will tell.
    """

    id: str
    item: Item
    asked: str
    outcome: Outcome
    facts: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """What a person is shown."""
        outcome = self.outcome
        return {
            "offer": self.id,
            "asked": self.asked,
            "caption": outcome.caption or "",
            "outcome": outcome.outcome,
            "glitch": outcome.glitch,
            "why": outcome.why,
            "attempts": len(outcome.attempts),
            "model": outcome.model,
        }


class Again:
    """Asks again, and keeps the offers of late.

    Args:
        captioner: The engine.
    """

    def __init__(self, captioner: Captioner) -> None:
        self._captioner = captioner
        self._offers: OrderedDict[str, Offer] = OrderedDict()
        self._asked = 0

    async def ask(self, book: Book, item: Item, type_name: str, length: str) -> Offer:
        """Another answer.

        Args:
            book: The book.
            item: Of what.
            type_name: A caption type; empty asks what the job asked.
            length: As `build_prompt` takes it.

        Raises:
            RefusedError: What the job asked is too long for the gateway.
            UsageError: An unknown type or length.
            ImageError: The picture cannot be used.
            NoEndpointError: Nobody can be asked.
        """
        prompt, text = _question(book, item, type_name, length)
        short_enough(prompt, text or "")
        most = self._captioner.options.limits.file_bytes

        def read() -> bytes:
            try:
                with book.inside.opened(book.image_of(item)) as (file, status):
                    if status.st_size > most:
                        raise ImageError("the picture's file is too large")
                    return file.read(most)
            except OutputError as error:
                raise ImageError(f"the picture cannot be used: {error}") from error
            except OSError as error:
                raise ImageError(f"the picture cannot be read: {error.strerror}") from error

        image = await self._captioner.pool.prepare(read)
        self._asked += 1  # so that nobody gets the same answer twice
        outcome = await self._captioner.outcome(
            image, prompt, key=item.key, text=text, earlier=item.attempts + self._asked
        )
        line = make_line(
            key=item.key,
            prompt=item.prompt,
            fingerprint="",
            outcome=outcome,
            image=image,
            asked=text or prompt.text,
            stem=None,
            now=time.time(),
        )
        told = orjson.loads(line)
        names = ("attempts", "finish", "model", "usage", "image", "asked", "trimmed")
        facts = {name: told.get(name) for name in names}
        offer = Offer(secrets.token_hex(8), item, told["asked"], outcome, facts)
        self._offers[offer.id] = offer
        while len(self._offers) > _KEPT:
            self._offers.popitem(last=False)
        return offer

    def find(self, offer: str, item: Item) -> Offer:
        """An offer.

        Raises:
            UsageError: It is not kept any more, or is about something else.
        """
        found = self._offers.get(offer)
        if found is None or found.item.id != item.id:
            raise UsageError("this answer is not kept any more; ask again")
        return found

    def drop(self, offer: str) -> None:
        """Forgets an offer."""
        self._offers.pop(offer, None)


def _question(book: Book, item: Item, type_name: str, length: str) -> tuple[Prompt, str | None]:
    if type_name:
        return build_prompt(type_name, length=length or "any"), None
    if not isinstance(book, JobBook):
        return build_prompt("descriptive", length=length or "any"), None
    prompt = book.prompt_of(item)
    if not (prompt.template or prompt.choices):
        return prompt, None
    asked = facts_of(item).get("asked")
    if not asked:
        raise UsageError("the journal does not tell what was asked here: choose a caption type")
    return prompt, asked
