"""Decoders of formats that Pillow does not read by itself: HEIC and JPEG XL, by extras."""

from __future__ import annotations

from functools import lru_cache

from joycap_vllm.errors import MissingExtraError

_HEIF_BRANDS = frozenset({
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1",
})  # fmt: skip
_JXL_HEADS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a")


@lru_cache(maxsize=1)
def register() -> frozenset[str]:
    """Makes Pillow read what is installed, once; the extras that are."""
    found = set()
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener(thumbnails=False)
        found.add("heif")
    try:
        import pillow_jxl  # noqa: F401 - registers itself
    except ImportError:
        pass
    else:
        found.add("jxl")
    return frozenset(found)


def why_unread(data: bytes) -> str | None:
    """Why a picture of such a format was not read: its extra is missing, or it is damaged."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        extra, name = "heif", "HEIC"
    elif data.startswith(_JXL_HEADS):
        extra, name = "jxl", "JPEG XL"
    else:
        return None
    if extra in register():
        return f"the {name} image is damaged"
    return str(MissingExtraError(f"reading {name}", extra))
