"""Trainers whose readers cannot live beside the tests read what the README's lines write.

scripts/check_trainers runs it, in an environment that has them. The readers are the trainers' own;
of SimpleTuner's environment only torchaudio is left out, which no reader of pictures calls.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from recipes.reading import Row, rows

from fault_server import serving

JOYCAP = "from joycap_vllm.cli import main; main()"
FOLDERS = ("", "sub é")


def all_captions(pictures: Path, backend: Any, strategy: str) -> dict[str, str]:
    """What SimpleTuner trains with, by picture."""
    from simpletuner.helpers.prompts import PromptHandler

    captions, missing, paths = PromptHandler.get_all_captions(
        instance_data_dir=str(pictures),
        use_captions=True,
        prepend_instance_prompt=False,
        data_backend=backend,
        caption_strategy=strategy,
        return_image_paths=True,
    )
    assert not missing
    return {str(path): text for path, text in zip(paths, captions, strict=True)}


def backend_of(pictures: Path) -> tuple[str, Any]:
    """A folder as SimpleTuner knows it, with its name."""
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    from simpletuner.helpers.data_backend.local import LocalDataBackend
    from simpletuner.helpers.training import image_file_extensions
    from simpletuner.helpers.training.state_tracker import StateTracker

    StateTracker.set_args(types.SimpleNamespace(output_dir=str(pictures.parent)))
    name = pictures.parent.name
    backend = LocalDataBackend(accelerator=None, id=name)
    files = backend.list_files(image_file_extensions, str(pictures))
    StateTracker.set_image_files(files, data_backend_id=name)
    return name, backend


def simpletuner_texts(pictures: Path, _: Row) -> dict[str, str]:
    """By `"caption_strategy": "textfile"`."""
    _name, backend = backend_of(pictures)
    return all_captions(pictures, backend, "textfile")


def simpletuner_rows(pictures: Path, row: Row) -> dict[str, str]:
    """By the Parquet file and the settings for it that the README names."""
    name, backend = backend_of(pictures)
    from simpletuner.helpers.metadata.backends.parquet import ParquetMetadataBackend
    from simpletuner.helpers.training.state_tracker import StateTracker

    (settings,) = (code for code in row.code if "filename_column" in code)
    config = {"path": str(pictures.parent / "c.parquet"), **json.loads(f"{{{settings}}}")}
    StateTracker.register_data_backend({"id": name})
    StateTracker.set_data_backend_config(
        name, {"instance_data_dir": str(pictures), "parquet": config}
    )
    metadata = ParquetMetadataBackend(
        id=name,
        instance_data_dir=str(pictures),
        cache_file=str(pictures.parent / "buckets"),
        metadata_file=str(pictures.parent / "metadata"),
        data_backend=backend,
        accelerator=None,
        batch_size=1,
        resolution=1.0,
        resolution_type="area",
        parquet_config=config,
    )
    StateTracker.data_backends[name]["metadata_backend"] = metadata
    StateTracker.set_parquet_database(
        name,
        (
            metadata.parquet_database,
            config["filename_column"],
            config["caption_column"],
            None,
            config["identifier_includes_extension"],
        ),
    )
    return all_captions(pictures, backend, "parquet")


def hcp_texts(pictures: Path, _: Row) -> dict[str, str]:
    """By the loader that HCP-Diffusion takes, folder by folder."""
    from rainbowneko.data.label_loader import auto_label_loader

    found: dict[str, str] = {}
    for folder in FOLDERS:
        loaded = auto_label_loader(str(pictures / folder)).load()
        found |= {str(pictures / folder / name): text for name, text in loaded.items()}
    return found


READERS: tuple[tuple[str, int, Callable[[Path, Row], dict[str, str]]], ...] = (
    ("SimpleTuner", 0, simpletuner_texts),
    ("SimpleTuner", 1, simpletuner_rows),
    ("HCP-Diffusion", 0, hcp_texts),
)


def draw(pictures: Path) -> None:
    for number in range(6):
        folder = pictures / FOLDERS[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        suffix = "jpg" if number < 4 else "png"
        Image.new("RGB", (40, 30), (30 * number, 100, 50)).save(folder / f"p {number}.{suffix}")


def main() -> None:
    for tool, command, read in READERS:
        (row,) = (row for row in rows("tool") if row.tool == tool)
        with tempfile.TemporaryDirectory() as home, serving() as server:
            pictures = Path(home) / "photos"
            draw(pictures)
            os.environ["JOYCAP_BASE_URL"] = server.url
            for line in dict.fromkeys(["joycap caption photos/", row.commands[command]]):
                words = [sys.executable, "-c", JOYCAP, *shlex.split(line)[1:]]
                subprocess.run(words, cwd=home, check=True, capture_output=True)
            expected = {
                str(path): path.with_suffix(".txt").read_text().strip()
                for path in pictures.rglob("p*.[jp]*g")
            }
            found = read(pictures, row)
        assert len(expected) == 6
        assert len(set(expected.values())) == 6
        assert found == expected, found
        print(f"check_trainers: {tool} reads what `{row.commands[command]}` writes")


if __name__ == "__main__":
    main()
