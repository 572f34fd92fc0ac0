"""The API key kept out of what servers are quoted with."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus


def without_key(text: str, key: str | None) -> str:
    """The text with `***` for each place that repeats the key, as it is or as it stands in a URL
    or in JSON."""
    if not key:
        return text
    for form in (key, quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1]):
        text = text.replace(form, "***")
    return text
