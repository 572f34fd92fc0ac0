"""What is asked: JoyCaption's prompt table, and prompts built from it or from a user's text."""

from joycap_vllm.prompts.build import (
    build_prompt,
    build_prompts,
    custom_prompt,
    dual_prompts,
    legacy_prompt,
)
from joycap_vllm.prompts.prompt import Choice, Prompt, Sampling, Style
from joycap_vllm.prompts.table import CaptionType, ExtraOption, PromptTable, load_table
from joycap_vllm.prompts.template import VARIABLES, ask, harmless, load_prompt_file, variables_of

__all__ = [
    "VARIABLES",
    "CaptionType",
    "Choice",
    "ExtraOption",
    "Prompt",
    "PromptTable",
    "Sampling",
    "Style",
    "ask",
    "build_prompt",
    "build_prompts",
    "custom_prompt",
    "dual_prompts",
    "harmless",
    "legacy_prompt",
    "load_prompt_file",
    "load_table",
    "variables_of",
]
