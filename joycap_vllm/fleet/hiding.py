"""What servers and libraries are quoted with: without the API key, on one line."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus


def quoted(text: str, key: str | None) -> str:
    """The text with `***` for each place that repeats the key, as it is or as it stands in a URL
    or in JSON, and with a space for each stretch of white space."""
    for form in (key, quote(key, safe=""), quote_plus(key), json.dumps(key)[1:-1]) if key else ():
        text = text.replace(form, "***")
    return " ".join(text.split())
