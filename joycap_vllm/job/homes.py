"""Where the sidecars of each image are."""

from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from joycap_vllm.job.records import Records
from joycap_vllm.outputs import Sidecars, Target, stem_of
from joycap_vllm.sources import SourceImage, image_names, key_of

_REMEMBERED = 1 << 20  # names of folders' sidecars that are kept at once
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LONGEST = 200  # bytes of a file's name, which most file systems end at 255


@dataclass(slots=True)
class _Folder:
    """The stems of one folder's images: those that are not the files' own, and whose each is."""

    place: Path
    renamed: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)


class Homes:
    """The sidecars of images, no two of which share one.

    Args:
        sidecars: How they are named.
        root: The folder that keys are relative to.
        records: What journals say: who was captioned keeps its sidecar.
    """

    def __init__(self, sidecars: Sidecars, root: Path, records: Records) -> None:
        self._sidecars = sidecars
        self._root = root
        self._records = records
        self._folders: OrderedDict[str, _Folder] = OrderedDict()
        self._held = 0

    def of(self, image: SourceImage) -> tuple[Target, str | None]:
        """An image's sidecars and, where it is not the file's own, their stem."""
        if image.file is None or "\0" in image.file:
            return self._of_key(image.key), None
        path, name = os.path.split(image.file)
        folder, own = self._folder(path), stem_of(name)
        stem = folder.renamed.get(name)
        if stem is None and not self._owns(folder, own, name):
            stem = folder.renamed[name] = name
        return self._sidecars.target(folder.place, stem or own), stem

    def _of_key(self, key: str) -> Target:
        """The sidecars of an image that is no file, by its whole key, which nobody shares."""
        parts = [part for part in key.split("/") if part not in ("", "..", ".")]
        safe = [_CONTROL.sub("_", re.sub(r"\A\.", "_", part)) for part in parts]
        odd = "/".join(safe) != key or any(len(os.fsencode(part)) > _LONGEST for part in safe)
        if odd or self._is_anothers(safe):
            digest = hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=6).hexdigest()
            safe = [part[: _LONGEST // 4] for part in safe] or ["image"]
            safe[-1] = f"{safe[-1]}-{digest}"
        return self._sidecars.target(
            self._sidecars.place(self._root).joinpath(*safe[:-1]), safe[-1]
        )

    def _is_anothers(self, parts: list[str]) -> bool:
        """Whether a file of the folder, or another key's second caption, may have this name."""
        folder, stem = self._folder(os.path.join(self._root, *parts[:-1])), parts[-1]  # noqa: PTH118
        if any(stem + ending in folder.owners for ending in self._sidecars.endings):
            return True
        first, *others = self._sidecars.endings
        return any(stem.endswith(ending.removesuffix(first)) for ending in others)

    def _owns(self, folder: _Folder, stem: str, name: str) -> bool:
        """Whether a stem is this file's, which the folder's listing may not have shown."""
        return all(
            folder.owners.setdefault(stem + ending, name) == name
            for ending in self._sidecars.endings
        )

    def _folder(self, path: str) -> _Folder:
        folder = self._folders.get(path)
        if folder is not None:
            self._folders.move_to_end(path)
            return folder
        names = image_names(Path(path))
        stems = self._sidecars.stems(names, self._kept(path, names))
        folder = _Folder(self._sidecars.place(Path(path)))
        for name, stem in stems.items():
            folder.owners.update((stem + ending, name) for ending in self._sidecars.endings)
            if stem != stem_of(name):
                folder.renamed[name] = stem
        self._folders[path] = folder
        self._held += len(folder.owners) + 1
        while self._held > _REMEMBERED and len(self._folders) > 1:
            self._held -= len(self._folders.popitem(last=False)[1].owners) + 1
        return folder

    def _kept(self, path: str, names: list[str]) -> dict[str, str]:
        """Stems of those that were captioned before."""
        kept: dict[str, str] = {}
        if not self._records:
            return kept
        for name in names:
            key = key_of(Path(path, name), self._root)
            for prompt in self._sidecars.options.prompts:
                row = self._records.find(key, prompt)
                if row:
                    kept[name] = self._records.record(row).stem or stem_of(name)
        return kept
