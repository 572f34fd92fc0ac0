"""How fast this machine prepares pictures, measured on the spot."""

from __future__ import annotations

import asyncio
import time

from joycap_vllm.bench.pictures import DrawnPictures
from joycap_vllm.images import ImagePool


async def pictures_per_second(seconds: float = 1.0) -> float:
    """Pictures that all cores of this machine make ready for the model in a second.

    Args:
        seconds: How long it is measured, on drawn photos of 1.0 to 1.6 megapixels.
    """
    pictures, done = DrawnPictures(4), 0
    with ImagePool() as pool:
        await pool.prepare(pictures.take().read)  # the first loads the decoders
        began = time.monotonic()

        async def work() -> None:
            nonlocal done
            while done == 0 or time.monotonic() - began < seconds:
                await pool.prepare(pictures.take().read)
                done += 1

        await asyncio.gather(*(work() for _ in range(pool.workers)))
        return done / (time.monotonic() - began)
