"""Real vLLM: is every outcome at a high temperature explained, and what does cutting loops save?

It starts `joycap serve nano`, or asks the server that --base-url names. To see what
`repetition_detection` saves, the same requests are sent with and without it: as they are; with the
token that ends an answer forbidden, so that a model goes on until it loops, mostly in long or
drifting rounds; and with a few words only, so that it loops at once. Whatever is no caption must
have a kind and a reason.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from joycap_vllm import Captioner, CaptionerOptions, Outcome, Prompt, Sampling, build_prompt
from joycap_vllm.captioner import seed_of
from joycap_vllm.fleet import Answer, Endpoint, request_body
from joycap_vllm.glitch import REPETITION_DETECTION, judge
from joycap_vllm.images import Prepared
from joycap_vllm.nano import checkpoint_path
from joycap_vllm.prompts import load_table

from draw_pictures import draw, random_scene

TYPES = ("descriptive", "straightforward", "booru-like-tag-list")  # those that the nano knows
FEW_WORDS = " red circle,"


@contextlib.contextmanager
def nano_server() -> Iterator[tuple[str, int]]:
    """`joycap serve nano` for the length of a block; its base URL and its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    call = "from joycap_vllm.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", call, "serve", "nano", "--port", str(port), "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None  # noqa: S101
        told = process.stdout.readline()
        if not told:
            sys.exit("the server did not start")
        yield json.loads(told)[0], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def outcomes(joy: Captioner, images: Sequence[Prepared], heat: float) -> list[Outcome]:
    """Every outcome of a job over all caption types at that temperature, without retries."""
    sampling = Sampling(temperature=heat, top_p=1.0)
    prompts = [build_prompt(row.name, sampling=sampling) for row in load_table().types]
    tasks = [
        joy.outcome(image, prompt, key=f"{number}-{prompt.name}")
        for number, image in enumerate(images)
        for prompt in prompts
    ]
    return await asyncio.gather(*tasks)


async def answers(
    endpoint: Endpoint, images: Sequence[Prepared], fields: dict[str, Any]
) -> list[tuple[Prompt, Answer]]:
    """One answer to every prompt about every picture."""
    at_once = asyncio.Semaphore(16)

    async def ask(number: int, image: Prepared, prompt: Prompt) -> tuple[Prompt, Answer]:
        body = request_body(
            model=endpoint.abilities.model,
            system=prompt.system,
            text=prompt.text,
            picture=image.data,
            mime=image.mime,
            sampling={"top_p": 0.9, "max_tokens": 512, "seed": seed_of(str(number)), **fields},
        )
        async with at_once:
            return prompt, await endpoint.send(body, 300)

    prompts = [build_prompt(name) for name in TYPES]
    return await asyncio.gather(
        *(ask(n, image, prompt) for n, image in enumerate(images) for prompt in prompts)
    )


async def tokens(endpoint: Endpoint, text: str) -> list[int]:
    """The model's tokens of a text."""
    asked = {"model": endpoint.abilities.model, "prompt": text, "add_special_tokens": False}
    told = await endpoint.post_control("/tokenize", asked)
    if told is None:
        sys.exit(f"{endpoint.url} does not answer /tokenize: is it a vLLM?")
    return list(told["tokens"])


async def pictures(joy: Captioner, count: int) -> list[Prepared]:
    """So many random scenes, prepared."""
    prepared = []
    for number in range(count):
        rng, buffer = random.Random(number), io.BytesIO()
        draw(random_scene(rng), rng).save(buffer, "PNG")
        prepared.append(await joy.pool.prepare(buffer.getvalue))
    return prepared


def show_outcomes(heat: float, ended: Sequence[Outcome]) -> bool:
    """A line for the outcomes at one temperature; False if one is not explained."""
    kinds = Counter(outcome.glitch or "failed" for outcome in ended if outcome.outcome != "ok")
    unexplained = [o for o in ended if o.outcome != "ok" and not (o.glitch and o.why)]
    print(
        f"temperature {heat}, all caption types: {len(ended)} tasks, "
        f"{len(ended) - kinds.total()} ok, {_counts(kinds)}, {len(unexplained)} unexplained"
    )
    return not unexplained


def show_saving(
    name: str,
    without: Sequence[tuple[Prompt, Answer]],
    cut: Sequence[tuple[Prompt, Answer]],
) -> bool:
    """What the same requests cost with loops cut and without; False if one is not explained."""
    before, after = (sum(a.usage.completion for _, a in these) for these in (without, cut))
    print(f"{name}: {before:,} tokens without, {after:,} with: {1 - after / before:.0%} saved")
    for title, these in (("without", without), ("with", cut)):
        verdicts = [judge(a.text, style=p.style, finish_reason=a.finish) for p, a in these]
        print(
            f"  {title}: finish reasons {_counts(Counter(a.finish for _, a in these))}; "
            f"judged {_counts(Counter(v.glitch or 'ok' for v in verdicts))}"
        )
        if any(not v.ok and not (v.glitch and v.why) for v in verdicts):
            return False
    tokens = sorted(a.usage.completion for _, a in cut if a.finish == "repetition")
    if tokens:
        print(f"  the {len(tokens)} that were cut took {tokens[len(tokens) // 2]} tokens (median)")
    return True


def _counts(found: Counter[Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in found.most_common()) or "no glitches"


async def measure(url: str, count: int, heats: Sequence[float], end_token: int) -> bool:
    """All of it; False if a glitch is not explained."""
    async with Captioner(url, options=CaptionerOptions(retries=0)) as joy:
        images = await pictures(joy, count)
        explained = [show_outcomes(heat, await outcomes(joy, images, heat)) for heat in heats]
        endpoint = joy.fleet.members[0].endpoint
        cutting = {"repetition_detection": REPETITION_DETECTION}
        endless = {"logit_bias": {str(end_token): -100}}
        few = {"allowed_token_ids": await tokens(endpoint, FEW_WORDS)}
        runs: dict[str, dict[str, Any]] = {
            "as they are": {"temperature": 0.6},
            "without an end": {"temperature": 0.6, **endless},
            "without an end, greedy": {"temperature": 0, **endless},
            f"with the words of {FEW_WORDS!r} only": {"temperature": 0.6, **few},
        }
        for name, fields in runs.items():
            without = await answers(endpoint, images, fields)
            cut = await answers(endpoint, images, fields | cutting)
            explained.append(show_saving(name, without, cut))
    return all(explained)


def main() -> int:
    """Runs it; 1 if a glitch is not explained."""
    usual = json.loads((checkpoint_path() / "generation_config.json").read_bytes())
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base-url", help="a vLLM; default: one with the nano model is started")
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    parser.add_argument(
        "--end-token", type=int, default=usual["eos_token_id"], help="default: the nano model's"
    )
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = given.base_url or stack.enter_context(nano_server())[0]
        explained = asyncio.run(measure(url, given.pictures, given.temperature, given.end_token))
    return 0 if explained else 1


if __name__ == "__main__":
    sys.exit(main())
