"""The test picture: does an endpoint ask the model exactly what it was trained on?

With a chat template like JoyCaption's published one, vLLM leaves a literal `<image>` line in every
prompt; nothing fails, answers are just worse. So the prompt that the model really got is looked
at, where the server shows it, and the answer must at least be words.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

from PIL import Image, ImageDraw

from joycap_vllm.errors import FullError, NoEndpointError, RequestError
from joycap_vllm.fleet.answer import Answer
from joycap_vllm.fleet.body import Body, request_body
from joycap_vllm.fleet.endpoint import Endpoint
from joycap_vllm.prompts import build_prompt

# fpgaminer/joycaption issue 45, and many of vLLM itself.
_MISCOUNTED = re.compile(r"multimodal tokens to \d+ placeholders")
IMAGE_TOKENS = 729  # 27 x 27 patches of 14 pixels in 384 x 384
_TRIES = 3
_SHOWN = 10  # endpoints that are told of by name
_DEADLINE = 180.0  # seconds for all; the first request after a start may compile and warm up
MEND = (
    "its chat template leaves a literal <image> in the prompt, which makes captions worse: start "
    "it with `joycap serve`, or give vLLM the template that `joycap serve --dry-run` names, with "
    "--chat-template-content-format openai"
)


@dataclass(frozen=True, slots=True)
class Proof:
    """What the test picture showed.

    Args:
        url: The endpoint.
        ok: Whether a job may start.
        problems: What is wrong, in a user's words.
        model: The model's name.
        image_tokens: Image tokens in the prompt; None where the server does not show token ids.
        bos_tokens: How often the prompt's first token stands in it, likewise.
        literal_image: Whether the text `<image>` stands in the prompt, likewise.
        answer: What the model said.
        again: The answer to the same request once more, where it was sent and answered.
        seconds: What that took.
    """

    url: str
    ok: bool
    problems: tuple[str, ...]
    model: str
    image_tokens: int | None = None
    bos_tokens: int | None = None
    literal_image: bool | None = None
    answer: str = ""
    again: Answer | None = None
    seconds: float = 0.0

    @property
    def cached(self) -> int | None:
        """Tokens of the prompt that came from the cache the second time."""
        return None if self.again is None else self.again.usage.cached

    @property
    def why(self) -> str:
        """The problems in one line, which does not begin with the endpoint's name."""
        return "; ".join(self.problems).removeprefix(f"{self.url} ")


@cache
def test_picture() -> bytes:
    """A large red circle on white as a PNG."""
    picture = Image.new("RGB", (384, 384), (245, 245, 243))
    ImageDraw.Draw(picture).ellipse((102, 102, 282, 282), fill=(215, 35, 40))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


async def prove(
    base_url: str, *, model: str | None = None, api_key: str | None = None, twice: bool = False
) -> Proof:
    """Probes an endpoint and sends it the test picture.

    Args:
        base_url: The endpoint.
        model: The name to ask for; None takes the first that it lists.
        api_key: Its key.
        twice: Whether it is asked a second time, to see its speed and what comes from its caches.

    Raises:
        NoEndpointError: It cannot be reached, refuses the key, or serves no such model.
    """
    endpoint = Endpoint(base_url, api_key=api_key, connections=4)
    try:
        await endpoint.probe(model)
        proof = await prove_endpoint(endpoint)
        return await _again(endpoint, proof) if twice and proof.ok else proof
    finally:
        await endpoint.close()


async def prove_endpoint(endpoint: Endpoint) -> Proof:
    """As `prove`, of an endpoint that was probed already."""
    name, problems = endpoint.abilities.model, []
    answer: Answer | None = None
    clock = asyncio.get_running_loop().time
    until = clock() + _DEADLINE
    for number in range(_TRIES):
        if (left := until - clock()) <= 0:
            break
        try:
            answer = await endpoint.send(proof_request(endpoint, number), left)
        except FullError:
            return Proof(endpoint.url, True, (), name)  # busy with others' work, so alive
        except RequestError as error:
            problems = [f"the test picture got no caption: {error}{_known(str(error))}"]
            continue
        problems = [] if _is_words(answer.text) else [f"it says only {answer.text[:80]!r}"]
        if not problems:
            break
    if answer is None:
        return Proof(endpoint.url, False, tuple(problems), name)
    if answer.prompt_token_ids is None:
        return Proof(endpoint.url, not problems, tuple(problems), name, answer=answer.text)
    return await _with_tokens(endpoint, answer, problems)


async def _again(endpoint: Endpoint, proof: Proof) -> Proof:
    """The proof with what a server that is warm by now makes of the same request."""
    clock = asyncio.get_running_loop().time
    began = clock()
    try:
        answer = await endpoint.send(proof_request(endpoint), _DEADLINE)
    except RequestError:
        return proof
    return replace(proof, again=answer, seconds=clock() - began)


def _known(error: str) -> str:
    """What to do about an error that is known from elsewhere."""
    if _MISCOUNTED.search(error):
        return (
            ". This vLLM and its transformers count image tokens differently: pip install -U vllm "
            "(vLLM 0.8.5 wants transformers 4.51.3)"
        )
    return ""


async def _with_tokens(endpoint: Endpoint, answer: Answer, problems: list[str]) -> Proof:
    ids = answer.prompt_token_ids or ()
    image_id, image_tokens = _longest_run(ids)
    bos_tokens = ids.count(ids[0])
    text = await endpoint.post_control(
        "/detokenize",
        {"model": endpoint.abilities.model, "tokens": [i for i in ids if i != image_id]},
    )
    literal = None if text is None else "<image>" in str(text.get("prompt", ""))
    if image_tokens != IMAGE_TOKENS or ids.count(image_id) != IMAGE_TOKENS:
        problems.append(
            f"the prompt holds {ids.count(image_id)} image tokens instead of {IMAGE_TOKENS}: "
            "is this JoyCaption?"
        )
    if bos_tokens != 1:
        problems.append(f"the prompt begins with its first token {bos_tokens} times")
    if literal:
        problems.append(MEND)
    return Proof(
        url=endpoint.url,
        ok=not problems,
        problems=tuple(problems),
        model=endpoint.abilities.model,
        image_tokens=image_tokens,
        bos_tokens=bos_tokens,
        literal_image=literal,
        answer=answer.text,
    )


def proof_request(endpoint: Endpoint, number: int = 0) -> Body:
    """The body of a request about the test picture; of each number with another seed."""
    sampling: dict[str, object] = {"temperature": 0.3 * number, "max_tokens": 64, "seed": number}
    if endpoint.abilities.vllm is not None:
        sampling["return_token_ids"] = True
    prompt = build_prompt()
    return request_body(
        model=endpoint.abilities.model,
        system=prompt.system,
        text=prompt.text,
        picture=test_picture(),
        mime="image/png",
        sampling=sampling,
    )


def _longest_run(ids: tuple[int, ...]) -> tuple[int, int]:
    best, run = (ids[0], 1), 1
    for left, right in pairwise(ids):
        run = run + 1 if left == right else 1
        if run > best[1]:
            best = (right, run)
    return best


def _is_words(text: str) -> bool:
    words = text.split()
    if not any(c.isalpha() for c in text):
        return False
    return len(words) < 8 or Counter(words).most_common(1)[0][1] < 0.6 * len(words)


def require(proofs: list[Proof]) -> None:
    """Raises NoEndpointError that tells every problem if any endpoint failed its proof."""
    bad = [proof for proof in proofs if not proof.ok]
    if bad:
        lines = shown([f"{proof.url} did not pass its check: {proof.why}" for proof in bad])
        if any(proof.model for proof in bad):
            lines.append("--no-check starts all the same")
        elif all("cannot be reached" in proof.why for proof in bad):
            lines.append("`joycap serve` starts a server here, and --base-url names another")
        raise NoEndpointError("\n".join(lines))


def shown(lines: list[str]) -> list[str]:
    """The first of many lines, and how many more there are."""
    more = len(lines) - _SHOWN
    return lines if more <= 1 else [*lines[:_SHOWN], f"and {more:,} others"]
