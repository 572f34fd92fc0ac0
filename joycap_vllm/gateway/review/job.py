"""The book of a job: what its journals tell."""

from __future__ import annotations

import os
from pathlib import Path

from joycap_vllm.errors import UsageError
from joycap_vllm.gateway.review.book import Book, Item, id_of
from joycap_vllm.gateway.review.files import Inside, Said, digest
from joycap_vllm.images import recipe_name
from joycap_vllm.job.edits import State
from joycap_vllm.job.homes import Homes
from joycap_vllm.job.records import Records
from joycap_vllm.job.stored import StoredJob
from joycap_vllm.outputs import Sidecars, Target, dress, stem_of, undress
from joycap_vllm.prompts import Prompt
from joycap_vllm.sources import FilePlace, SourceImage, path_of

_NEW = State("", "")


class JobBook(Book):
    """Captions of a job.

    Args:
        job: The job.
        inside: The folders that may be used.
    """

    def __init__(self, job: StoredJob, inside: Inside) -> None:
        super().__init__(job.sidecars.root, job.state, inside)
        self.job = job
        self.asked = {prompt.name: prompt for prompt in job.prompts}
        self._sidecars = Sidecars(job.sidecars)
        recipe = recipe_name(job.recipe, "original" if job.original else None)
        self._fingerprints = {prompt.name: prompt.fingerprint(recipe) for prompt in job.prompts}

    @property
    def prompts(self) -> tuple[str, ...]:
        """Names of the job's prompts."""
        return tuple(self.asked)

    def refresh(self) -> None:
        """As `read_on`: nothing else tells of a job."""
        self.read_on()

    def read_on(self) -> None:
        """Reads what the journals have more than last time."""
        with self.lock:
            self.read_journals(self._known)

    def image_of(self, item: Item) -> Path:
        """The file that the key names."""
        return path_of(item.key, self.root)

    def sidecar_of(self, item: Item) -> Path | None:
        """Its sidecar; None where the job writes none."""
        return None if self.job.form != "txt" else self._target(item).files[item.prompt]

    def shown(self, item: Item, said: Said) -> str:
        """What the sidecar says, without what was put around it; else the best answer."""
        line = self._lines(said).get(item.prompt, "")
        if not line or line == self._dressed(item.prompt, item.state.caption):
            return item.state.caption
        return undress(line, self.job.sidecars.dressing)

    def seen(self, item: Item, said: Said) -> str:
        """Of a shared file only the item's own line counts: the others are kept as they are."""
        if not self.job.sidecars.together or said.trouble:
            return said.seen
        return digest(self._lines(said).get(item.prompt, "").encode())

    def written(self, item: Item, text: str, said: Said) -> tuple[str, str | None]:
        """The text dressed as the job's captions are; a shared file keeps its other lines."""
        caption = text.strip()
        line = self._dressed(item.prompt, caption)
        if not line:
            raise UsageError(
                "nothing is left of this caption: it is empty, or the job drops all of its tags"
            )
        if self.job.form != "txt":
            return caption, None
        if not self.job.sidecars.together:
            return caption, line
        lines = self._others(item) | self._lines(said) | {item.prompt: line}
        if len(lines) < len(self.asked):
            return caption, None  # such a file waits until all of its captions are there
        return caption, "\n".join(lines[name] for name in self.asked)

    def fingerprint(self, item: Item) -> str:
        """Of the job's prompt."""
        return self._fingerprints[item.prompt]

    def prompt_of(self, item: Item) -> Prompt:
        """The job's own."""
        return self.asked[item.prompt]

    def _known(self, key: str, prompt: str) -> Item | None:
        if prompt not in self.asked:
            return None  # the job asks it no more
        name = id_of(key, prompt)
        return self.items.get(name) or Item(name, key, prompt, _NEW)

    def _target(self, item: Item) -> Target:
        image = self.image_of(item)
        place = self._sidecars.place(image.parent)
        target = self._sidecars.target(place, item.stem or stem_of(image.name))
        if os.path.lexists(image) or any(os.path.lexists(each) for each in target.files.values()):
            return target
        # The image is no file of its own, such as one in a tar.
        homes = Homes(self._sidecars, self.root, Records([], 0))
        return homes.of(SourceImage(item.key, FilePlace("\0")))[0]

    def _lines(self, said: Said) -> dict[str, str]:
        """What a sidecar says by prompt; of one that holds a single caption, by all names."""
        text = (said.text or "").removeprefix("\ufeff").strip()
        if not self.job.sidecars.together:
            return dict.fromkeys(self.asked, text) if text else {}
        lines = text.split("\n", len(self.asked) - 1)
        found = zip(self.asked, lines, strict=False)
        return {name: line.strip() for name, line in found if line.strip()}

    def _others(self, item: Item) -> dict[str, str]:
        """The lines of the image's other captions, as far as they are good."""
        found = {}
        for name in self.asked:
            other = self.items.get(id_of(item.key, name))
            if other is not None and other.state.outcome == "ok":
                found[name] = self._dressed(name, other.state.caption)
        return {name: line for name, line in found.items() if line}

    def _dressed(self, prompt: str, caption: str) -> str:
        sidecars = self.job.sidecars
        return dress(caption, sidecars.dressing, tags=prompt in sidecars.tag_prompts)
