"""Images in object stores and whatever else fsspec reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from joycap_vllm.errors import ImageError, MissingExtraError, UsageError
from joycap_vllm.sources.image import SourceImage, refuse_long
from joycap_vllm.sources.keys import escaped_name
from joycap_vllm.sources.local import is_image, is_walked

_EXTRAS = {"s3": "s3", "s3a": "s3", "hf": "hf"}


class StorePlace(NamedTuple):
    """A file of a store.

    Args:
        url: Its URL.
        length: Its size in bytes, where a listing has told.
    """

    url: str
    length: int | None = None

    @property
    def path(self) -> None:
        """It is no file of this machine."""

    def size(self) -> int | None:
        """Its size in bytes, where a listing has told."""
        return self.length

    def read(self, most: int) -> bytes:
        """Fetches it.

        Raises:
            ImageError: It cannot be had, or is longer than `most` bytes.
        """
        try:
            files, path = open_store(self.url)
            length = files.info(path)["size"] if self.length is None else self.length
            if length is not None:
                refuse_long(length, most)
            data = bytes(files.cat_file(path))
        except ImageError:
            raise
        except MissingExtraError as error:
            raise ImageError(str(error)) from error
        except Exception as error:  # a store's library may raise anything at all
            raise ImageError(f"the store does not give it: {in_words(error)}") from error
        refuse_long(len(data), most)
        return data


@dataclass(frozen=True, slots=True)
class StoreFolder:
    """All images under a URL.

    Args:
        url: The folder, or what is before the first sign of a pattern.
        before: What each key begins with.
        pattern: A pattern, where not all images are wanted.
        unreadable: Folders that could not be listed, noted while walking.
    """

    url: str
    before: str = ""
    pattern: str | None = None
    unreadable: dict[Any, str] = field(default_factory=dict, compare=False)
    may_repeat: ClassVar[bool] = False
    beside: ClassVar[bool] = False

    def images(self) -> Iterator[SourceImage]:
        """Every image, folder by folder in a stable order; one folder's listing is held."""
        files, top = open_store(self.url)
        listed = self._walked(files, top) if self.pattern is None else self._matched(files)
        scheme, inside = self.url.partition("://")[0], len(top.rstrip("/")) + 1
        for name, length in listed:
            key = self.before + escaped_name(name[inside:])
            yield SourceImage(key, StorePlace(f"{scheme}://{name.lstrip('/')}", length))

    def count(self) -> None:
        """Not told without listing all."""

    def _matched(self, files: Any) -> Iterator[tuple[str, int | None]]:
        try:
            found = files.glob(self.pattern, detail=True)
        except Exception as error:  # as above
            self.unreadable[self.pattern] = in_words(error)
            return
        for name, info in sorted(found.items()):
            if info["type"] == "file" and is_image(name.rpartition("/")[2]):
                yield name, info.get("size")

    def _walked(self, files: Any, top: str) -> Iterator[tuple[str, int | None]]:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                entries = sorted(files.ls(folder, detail=True), key=lambda entry: entry["name"])
            except Exception as error:  # as above
                self.unreadable[f"{self.url.partition('://')[0]}://{folder}"] = in_words(error)
                continue
            folders = []
            for entry in entries:
                path = entry["name"].rstrip("/")
                name = path.rpartition("/")[2]
                if path == folder.rstrip("/"):
                    continue  # the marker that some stores keep for an empty folder
                if entry["type"] == "directory":
                    if is_walked(name):
                        folders.append(path)
                elif is_image(name):
                    yield path, entry.get("size")
            waiting += reversed(folders)


def open_store(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, which keeps no listings, and the path in it.

    Raises:
        UsageError: Nothing installed reads such URLs.
    """
    import fsspec

    scheme = url.partition("://")[0]
    options = {} if "::" in url else {"use_listings_cache": False}
    try:
        files, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        if scheme in _EXTRAS:
            raise MissingExtraError(f"reading {scheme}:// URLs", _EXTRAS[scheme]) from error
        raise UsageError(f"{scheme}:// URLs need another package: {error}") from error
    except ValueError as error:
        raise UsageError(f"{url} cannot be read: {error}") from error
    return files, path


def in_words(error: Exception) -> str:
    """An error of somebody else's library as a line for users."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:300]
