"""How fast a server, or a fleet, is with the real client, and what limits it.

Drives the captioner at fixed levels of concurrency; nothing is written.
"""

from joycap_vllm.bench.compare import NOTE, Comparison
from joycap_vllm.bench.measured import Measured
from joycap_vllm.bench.pictures import DRAWN, DrawnPictures, GivenPictures, Pictures, given_pictures
from joycap_vllm.bench.run import Bench, BenchOptions
from joycap_vllm.bench.speed import pictures_per_second
from joycap_vllm.bench.verdict import Finding

__all__ = [
    "DRAWN",
    "NOTE",
    "Bench",
    "BenchOptions",
    "Comparison",
    "DrawnPictures",
    "Finding",
    "GivenPictures",
    "Measured",
    "Pictures",
    "given_pictures",
    "pictures_per_second",
]
