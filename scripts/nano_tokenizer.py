"""The nano model's tokenizer: byte-level BPE, JoyCaption's special tokens and prompt format."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from draw_pictures import random_scene
from nano_text import caption_for, random_request

IMAGE_TOKEN = "<|reserved_special_token_69|>"
IMAGE_START, IMAGE_END = "<|reserved_special_token_70|>", "<|reserved_special_token_71|>"
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    IMAGE_TOKEN,
    IMAGE_START,
    IMAGE_END,
)
VOCABULARY = 1280
DATE_LINES = "Cutting Knowledge Date: December 2023\nToday Date: 26 July 2024\n\n"

# Works like the published template: content must be a string, the image goes to the start of the
# first user turn, stray image tokens are deleted from the text.
CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- set ns = namespace(image_due=true) %}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{%- if message['role'] == 'system' %}"
    "{{- 'Cutting Knowledge Date: December 2023\\nToday Date: 26 July 2024\\n\\n' }}"
    "{%- endif %}"
    "{%- set text = message['content'].replace('<|reserved_special_token_69|>', '').lstrip() %}"
    "{%- if message['role'] == 'user' and ns.image_due %}"
    "{%- set ns.image_due = false %}"
    "{{- '<|reserved_special_token_70|><|reserved_special_token_69|>"
    "<|reserved_special_token_71|>' }}"
    "{%- endif %}"
    "{{- text | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{%- endif %}"
)


def render_prompt(system: str | None, prompt: str) -> str:
    """JoyCaption's prompt for one picture, with the image token standing once for all 729."""
    head = "<|begin_of_text|>"
    if system is not None:
        head += f"<|start_header_id|>system<|end_header_id|>\n\n{DATE_LINES}{system}<|eot_id|>"
    return (
        f"{head}<|start_header_id|>user<|end_header_id|>\n\n"
        f"{IMAGE_START}{IMAGE_TOKEN}{IMAGE_END}{prompt}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def _corpus(table: dict[str, Any], seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(4000):
        system, prompt, type_name = random_request(table, rng)
        yield f"{system or ''}\n\n{DATE_LINES}{prompt}"
        yield caption_for(type_name, random_scene(rng))


def make_tokenizer(table: dict[str, Any], seed: int) -> PreTrainedTokenizerFast:
    """Trained on the prompt table and on captions; any other text falls back to bytes."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(_corpus(table, seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )
