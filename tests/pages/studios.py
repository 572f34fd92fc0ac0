"""What the tests of the studio's page share."""

from __future__ import annotations

import io

from PIL import Image
from playwright.async_api import FilePayload, Locator, Page

LOOP = "red circle, " * 60


def picture(name: str = "boat.png", colour: str = "red") -> FilePayload:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, "PNG")
    return FilePayload(name=name, mimeType="image/png", buffer=buffer.getvalue())


async def drop(tab: Page, *names: str) -> None:
    """Drops pictures on the page as a file manager does."""
    await tab.evaluate(
        """async (names) => {
          const transfer = new DataTransfer();
          for (const name of names) {
            const canvas = new OffscreenCanvas(64, 48);
            canvas.getContext("2d").fillRect(9, 9, 20, 20);
            transfer.items.add(new File([await canvas.convertToBlob()], name, {type: "image/png"}));
          }
          for (const kind of ["dragover", "drop"]) {
            const how = {bubbles: true, cancelable: true, dataTransfer: transfer};
            document.querySelector("#drop").dispatchEvent(new DragEvent(kind, how));
          }
        }""",
        list(names),
    )


async def choose(tab: Page, *files: FilePayload) -> None:
    await tab.set_input_files("#files", list(files))


async def unfold(tab: Page, part: str) -> None:
    """Opens a part of the settings, or closes it."""
    await tab.locator("summary").filter(has_text=part).click()


def card(tab: Page, name: str) -> Locator:
    return tab.get_by_role("listitem").filter(has=tab.get_by_role("heading", name=name, exact=True))
