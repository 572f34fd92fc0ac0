"""Makes the nano JoyCaption from nothing: tokenizer, vision tower, text model, checkpoint.

Two stages, both from a fixed seed. First the vision tower alone learns to know the scene at every
patch; then, the tower frozen, the text model learns to put it into words. About an hour on two
cores; a GPU is used where one is at hand. Needs torch and transformers (the extra `cpu`).

    python scripts/train_nano.py --out joycap_vllm/nano/checkpoint
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from draw_pictures import Scene, draw, random_scene
from nano_model import (
    ATTRIBUTES,
    EDGE_DIRECTIONS,
    IMAGE_TOKENS,
    PATCH,
    TowerHeads,
    VisionTower,
    build_model,
    save_checkpoint,
)
from nano_text import caption_for, random_request
from nano_tokenizer import IMAGE_TOKEN, make_tokenizer, render_prompt

ROOT = Path(__file__).resolve().parent.parent
PROMPT_TABLE = ROOT / "joycap_vllm" / "prompts" / "joycaption.json"
TOWER_BATCH = 16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class TextStage:
    """A part of stage two: how long, how fast, and how many patches of a picture are seen."""

    steps: int
    peak: float
    batch: int
    patches: int
    seed: int


def pixels_of(image: Any) -> Tensor:
    """A 3x384x384 float tensor in [-1, 1], as SigLIP's processor makes it."""
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(384, 384, 3).permute(2, 0, 1).float() / 127.5 - 1.0


def scenes(rng: random.Random, count: int) -> tuple[list[Scene], Tensor]:
    """`count` random scenes and their pictures; half of the pictures are squashed from oblongs."""
    chosen = [random_scene(rng) for _ in range(count)]
    pictures = []
    for scene in chosen:
        width, height = rng.choice(((384, 384), (384, 384), (512, 384), (384, 512)))
        image = draw(scene, rng, width, height)
        pictures.append(pixels_of(image.resize((384, 384))))
    return chosen, torch.stack(pictures)


def scenes_with_edges(rng: random.Random, count: int) -> tuple[list[Scene], Tensor, Tensor]:
    """As `scenes`, and for each patch the class of its edge (count x 729, see `edge_classes`)."""
    chosen = [random_scene(rng) for _ in range(count)]
    pictures, masks = [], []
    for scene in chosen:
        width, height = rng.choice(((384, 384), (384, 384), (512, 384), (384, 512)))
        state = rng.getstate()
        pictures.append(pixels_of(draw(scene, rng, width, height).resize((384, 384))))
        rng.setstate(state)
        stencil = replace(scene, color="white", background="black")
        masks.append(pixels_of(draw(stencil, rng, width, height).resize((384, 384))).mean(0))
    return chosen, torch.stack(pictures), edge_classes(torch.stack(masks))


def edge_classes(masks: Tensor) -> Tensor:
    """Of each 14 x 14 patch: 0 inside or outside the shape, else 1 + the edge's direction."""
    across = torch.zeros_like(masks)
    down = torch.zeros_like(masks)
    across[:, :, 1:-1] = masks[:, :, 2:] - masks[:, :, :-2]
    down[:, 1:-1] = masks[:, 2:] - masks[:, :-2]

    def per_patch(values: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(values[:, None], PATCH).flatten(1)

    xx, yy, xy = per_patch(across**2), per_patch(down**2), per_patch(across * down)
    angle = 0.5 * torch.atan2(2 * xy, xx - yy) % math.pi
    direction = (angle / math.pi * EDGE_DIRECTIONS).round().long() % EDGE_DIRECTIONS
    return torch.where(xx + yy > 0.05, 1 + direction, 0)


def targets(chosen: list[Scene]) -> Tensor:
    """Class indices, one column an attribute of ATTRIBUTES."""
    rows = [[list(v).index(getattr(s, k)) for k, v in ATTRIBUTES.items()] for s in chosen]
    return torch.tensor(rows, device=DEVICE)


def one_cycle(
    parameters: Iterator[nn.Parameter], peak: float, steps: int, warm_up: float = 0.1
) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak, total_steps=steps, pct_start=warm_up
    )
    return optimizer, schedule


def train_edges(tower: VisionTower, heads: TowerHeads, steps: int, batch: int, seed: int) -> None:
    """Stage one, first part: the first layer alone learns the direction of each patch's edge.

    Without it the shape stays at a guess for over a thousand steps, since an edge's contrast
    hides its direction.
    """
    rng = random.Random(seed)
    first = nn.ModuleList([tower.embeddings, tower.layers[0], heads.edges])
    optimizer, schedule = one_cycle(first.parameters(), 3e-3, steps)
    for step in range(1, steps + 1):
        _, pixels, edges = scenes_with_edges(rng, batch)
        loss, right = edge_loss(heads, tower.first(pixels.to(DEVICE)), edges)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"edges {step}/{steps} loss {loss.item():.3f} right {right:.3f}", flush=True)


def edge_loss(heads: TowerHeads, first: Tensor, edges: Tensor) -> tuple[Tensor, float]:
    """The loss of the edge reader, and its share of right answers among patches with an edge."""
    logits = heads.edges(first).flatten(0, 1)
    wanted = edges.flatten().to(DEVICE)
    weights = torch.tensor([0.1] + [1.0] * EDGE_DIRECTIONS, device=DEVICE)
    right = (logits.argmax(-1) == wanted)[wanted > 0].float().mean().item()
    return nn.functional.cross_entropy(logits, wanted, weight=weights), right


def train_tower(tower: VisionTower, heads: TowerHeads, steps: int, batch: int, seed: int) -> None:
    """Stage one, second part: every patch's feature must tell every attribute of the scene."""
    rng = random.Random(seed)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer, schedule = one_cycle(iter(parameters), 2e-3, steps)
    started, right, right_edges = time.time(), torch.zeros(len(ATTRIBUTES)), 0.0
    for step in range(1, steps + 1):
        chosen, pixels, edges = scenes_with_edges(rng, batch)
        wanted = targets(chosen)
        first, last = tower.first_and_last(pixels.to(DEVICE))
        loss, edge_share = edge_loss(heads, first, edges)
        right_edges += edge_share
        for column, attribute in enumerate(heads(last)):
            per_patch = wanted[:, column : column + 1].expand(-1, IMAGE_TOKENS)
            weight = 2.0 if column == 0 else 1.0  # shape is the slowest to learn
            loss = loss + weight * nn.functional.cross_entropy(attribute.transpose(1, 2), per_patch)
            answer = attribute.mean(1).argmax(-1)
            right[column] += (answer == wanted[:, column]).float().mean().item()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            shares = " ".join(f"{n} {r / 50:.3f}" for n, r in zip(ATTRIBUTES, right, strict=True))
            print(
                f"tower {step}/{steps} loss {loss.item():.3f} edges {right_edges / 50:.3f} "
                f"{shares} {time.time() - started:.0f}s",
                flush=True,
            )
            right.zero_()
            right_edges = 0.0


@torch.no_grad()
def feature_bank(tower: VisionTower, count: int, seed: int) -> tuple[list[Scene], Tensor]:
    """Scenes and their frozen features (count x 729 x width, half precision)."""
    rng = random.Random(seed)
    all_scenes: list[Scene] = []
    banks = []
    while len(all_scenes) < count:
        chosen, pixels = scenes(rng, 32)
        all_scenes += chosen
        banks.append(tower.features(pixels.to(DEVICE)).to(torch.bfloat16).cpu())
    return all_scenes, torch.cat(banks)


def text_batch(
    tokenizer: Any, table: dict[str, Any], chosen: list[Scene], kept: int, rng: random.Random
) -> dict[str, Tensor]:
    """Ids, positions, labels and image mask of a batch that sees `kept` patches of each picture."""
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    rows = []
    for scene in chosen:
        system, prompt, type_name = random_request(table, rng)
        question = tokenizer.encode(render_prompt(system, prompt), add_special_tokens=False)
        answer = tokenizer.encode(
            caption_for(type_name, scene) + "<|eot_id|>", add_special_tokens=False
        )
        at = question.index(image_id)
        patches = sorted(rng.sample(range(IMAGE_TOKENS), kept))
        ids = [*question[:at], *[image_id] * kept, *question[at + 1 :], *answer]
        tail = range(at + IMAGE_TOKENS, at + IMAGE_TOKENS + len(ids) - at - kept)
        positions = [*range(at), *(at + p for p in patches), *tail]
        labels = [-100] * (len(ids) - len(answer)) + answer
        rows.append((ids, positions, labels, patches))
    length = max(len(ids) for ids, *_ in rows)

    def padded(column: int, filler: int) -> Tensor:
        values = [list(r[column]) + [filler] * (length - len(r[0])) for r in rows]
        return torch.tensor(values, device=DEVICE)

    return {
        "ids": padded(0, 0),
        "positions": padded(1, 0),
        "labels": padded(2, -100),
        "patches": torch.tensor([r[3] for r in rows], device=DEVICE),
    }


def train_text(
    model: Any,
    tokenizer: Any,
    bank: tuple[list[Scene], Tensor],
    stage: TextStage,
) -> None:
    """Stage two: the frozen tower's features become captions.

    Its first part sees 48 random patches of each picture at their true positions, which costs a
    tenth; its second part all 729.
    """
    table = json.loads(PROMPT_TABLE.read_text(encoding="utf-8"))
    known, features = bank
    rng = random.Random(stage.seed)
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    projector, text = model.model.multi_modal_projector, model.model.language_model
    parameters = [*projector.parameters(), *text.parameters()]
    optimizer, schedule = one_cycle(iter(parameters), stage.peak, stage.steps, warm_up=0.25)
    started = time.time()
    for step in range(1, stage.steps + 1):
        picked = rng.sample(range(len(known)), stage.batch)
        data = text_batch(tokenizer, table, [known[i] for i in picked], stage.patches, rng)
        seen = features[picked].to(DEVICE).float()
        seen = seen.gather(1, data["patches"][..., None].expand(-1, -1, seen.shape[-1]))
        embedded = text.get_input_embeddings()(data["ids"])
        mask = (data["ids"] == image_id)[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(mask, projector(seen).to(embedded.dtype))
        hidden = text(
            inputs_embeds=embedded,
            position_ids=data["positions"],
            attention_mask=torch.ones_like(data["ids"]),
            use_cache=False,
        )[0]
        at = data["labels"][:, 1:] != -100
        logits = model.lm_head(hidden[:, :-1][at])
        loss = nn.functional.cross_entropy(logits, data["labels"][:, 1:][at])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 10 == 0:
            wrong = (logits.argmax(-1) != data["labels"][:, 1:][at]).float().mean().item()
            print(
                f"text {step}/{stage.steps} loss {loss.item():.4f} wrong tokens {wrong:.4f} "
                f"patches {stage.patches} {time.time() - started:.0f}s",
                flush=True,
            )


def kept(file: Path | None, module: nn.Module, train: Callable[[], None]) -> None:
    """Trains, or takes what an earlier run kept in `file`; keeps it there if a file is named."""
    if file is not None and file.exists():
        module.load_state_dict(torch.load(file))
        return
    train()
    if file is not None:
        torch.save(module.state_dict(), file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "joycap_vllm" / "nano" / "checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--edge-steps", type=int, default=600)
    parser.add_argument("--tower-steps", type=int, default=2500)
    parser.add_argument("--few-steps", type=int, default=2000)
    parser.add_argument("--full-steps", type=int, default=150)
    parser.add_argument("--bank", type=int, default=8000)
    parser.add_argument("--tower-file", type=Path, help="keeps the tower, or takes a kept one")
    parser.add_argument("--text-file", type=Path, help="the same for the text model's first part")
    options = parser.parse_args()
    seed = options.seed
    torch.manual_seed(seed)
    table = json.loads(PROMPT_TABLE.read_text(encoding="utf-8"))
    tokenizer = make_tokenizer(table, seed)
    model = build_model(tokenizer).to(DEVICE)
    tower = VisionTower(model.model.vision_tower)
    heads = TowerHeads().to(DEVICE)

    def both_parts_of_the_tower() -> None:
        train_edges(tower, heads, options.edge_steps, TOWER_BATCH, seed + 3)
        train_tower(tower, heads, options.tower_steps, TOWER_BATCH, seed)

    kept(options.tower_file, tower, both_parts_of_the_tower)
    bank = feature_bank(tower, options.bank, seed + 1)
    few = TextStage(options.few_steps, peak=2e-3, batch=32, patches=48, seed=seed + 2)
    full = TextStage(options.full_steps, peak=5e-4, batch=16, patches=IMAGE_TOKENS, seed=seed + 4)
    kept(options.text_file, model, lambda: train_text(model, tokenizer, bank, few))
    train_text(model, tokenizer, bank, full)
    save_checkpoint(model, tokenizer, options.out)


if __name__ == "__main__":
    main()
