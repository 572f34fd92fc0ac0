"""openai's client for Node asks by the README's line; scripts/check_node runs it."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from recipes.asking import COLOR, TEXT, is_caption, judging_gateway
from recipes.reading import rows

_PROGRAM = """\
import OpenAI from "openai";
const baseURL = process.argv[2], messages = JSON.parse(process.argv[3]);
console.log(LINE);
"""


def main(folder: Path) -> None:
    """Asks with the client that is installed in a folder."""
    ((line,),) = (row.code for row in rows("client") if row.tool == "openai for Node")
    program = folder / "ask.mjs"
    program.write_text(_PROGRAM.replace("LINE", line))
    picture = io.BytesIO()
    Image.new("RGB", (70, 50), COLOR).save(picture, "JPEG", quality=97)
    url = f"data:image/jpeg;base64,{base64.b64encode(picture.getvalue()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": TEXT}]
    messages = json.dumps([{"role": "user", "content": parts}])
    with judging_gateway() as base_url:
        words = ["node", str(program), base_url, messages]
        done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert is_caption(done.stdout.strip()), done.stdout
    print("check_node: openai for Node gets a judged caption")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
