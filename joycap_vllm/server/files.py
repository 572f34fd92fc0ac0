"""Whether the files of a local checkpoint are whole, before minutes of loading them."""

from __future__ import annotations

import json
from pathlib import Path

from joycap_vllm.errors import EngineError

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")
_HEAD = 8  # bytes that tell how long the header of a safetensors file is
_LONGEST_HEAD = 100 << 20


def check_files(folder: Path) -> None:
    """Looks at a folder's weights and tokenizer; what is no folder is not looked at.

    Raises:
        EngineError: A file of weights is cut off or no safetensors, or there is no tokenizer.
    """
    if not folder.is_dir():
        return
    files = sorted(folder.glob("*.safetensors"))
    if not files and not any(folder.glob("*.bin")):
        raise EngineError(f"{folder} holds no weights: no *.safetensors is there")
    for file in files:
        if (wrong := _wrong_with(file)) is not None:
            raise EngineError(f"{file} is damaged: {wrong}; copy or load it down again")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise EngineError(f"{folder} holds no tokenizer: none of {', '.join(_TOKENIZERS)} is there")


def _wrong_with(file: Path) -> str | None:
    """As the format has it: the header's length, a header of JSON, the tensors that it places."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(_HEAD), "little")
            if size < _HEAD or not 0 < length <= min(_LONGEST_HEAD, size - _HEAD):
                return f"it has {size:,} bytes and no whole header"
            header = json.loads(opened.read(length))
        ends = [
            tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"
        ]
    except OSError as error:
        return str(error.strerror or error)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return "its header cannot be read"
    missing = _HEAD + length + max(ends, default=0) - size
    return f"{missing:,} of its bytes are missing" if missing > 0 else None
