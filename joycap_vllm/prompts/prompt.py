"""The values that make up a question to the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Literal

import orjson

Style = Literal["prose", "tags", "mixed"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; all of it is always sent, so that no server's defaults slip in.

    The defaults are JoyCaption's own (model card, gradio app and ComfyUI node).

    Args:
        temperature: 0 is greedy.
        top_p: Nucleus share, above 0, at most 1.
        top_k: 0 turns it off.
        max_tokens: Upper bound of the answer's length, in tokens.
        seed: First seed; each attempt takes another. None draws one for each image from its key.
    """

    temperature: float = 0.6
    top_p: float = 0.9
    top_k: int = 0
    max_tokens: int = 512
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One prompt text of several that are drawn by weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, asked of every image.

    Args:
        name: Short name, unique within a job: the caption type, or `custom`.
        text: What is asked. With `choices`, empty.
        system: The system prompt; empty sends none.
        style: What the answer should look like: prose, tags, or either (mixed).
        words: The word limit that the text states, if it states one.
        template: Whether `text` holds variables such as `{stem}` that each image fills in.
        choices: Texts of which one is drawn for each image, by its key.
        sampling: How the answer is drawn.
    """

    name: str
    text: str
    system: str
    style: Style
    words: int | None = None
    template: bool = False
    choices: tuple[Choice, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)

    def fingerprint(self, recipe: str) -> str:
        """Sixteen hex digits over all that shapes an answer: texts, sampling, image recipe."""
        parts = {
            "text": self.text,
            "choices": [asdict(choice) for choice in self.choices],
            "system": self.system,
            "sampling": asdict(self.sampling),
            "recipe": recipe,
        }
        return sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
