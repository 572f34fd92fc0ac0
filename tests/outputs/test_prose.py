"""Lead-ins: what goes, what stays, and that a caption is always left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm.outputs import Dressing, dress, one_line, strip_lead_in

STRIPPED = [
    ("This image shows a dog running.", "A dog running."),
    ("The image depicts two cats asleep.", "Two cats asleep."),
    ("The picture features the harbour at dusk.", "The harbour at dusk."),
    ("The scene captures children at play. It rains.", "Children at play. It rains."),
    ("Image shows a red car.", "A red car."),
    ("The provided image clearly shows a fence.", "A fence."),
    ("The image you sent me shows a bill.", "A bill."),
    ("The image shows us a quiet lane.", "A quiet lane."),
    ('The image displays "EXIT" above a door.', '"EXIT" above a door.'),
    ("These images show one house in two seasons.", "One house in two seasons."),
    ("The image shows that the gate is shut.", "The gate is shut."),
    ("The image is of a lighthouse.", "A lighthouse."),
    ("This image is a photo of a tram.", "A photo of a tram."),
    ("This picture is an image of a tram.", "A tram."),
    ("The image appears to be an old postcard.", "An old postcard."),
    ("This is a photograph of a bakery.", "A photograph of a bakery."),
    ("This is a highly detailed, digital illustration of a fox.",
     "A highly detailed, digital illustration of a fox."),
    ("This is an image of a kite.", "A kite."),
    ("Here's a picture showing a kite.", "A kite."),
    ("This photo shows a heron.", "A photo of a heron."),
    ("Photo shows a heron.", "A photo of a heron."),
    ("This black-and-white photograph shows an old mill.",
     "A black-and-white photograph of an old mill."),
    ("The oil painting depicts a ship in a storm.", "An oil painting of a ship in a storm."),
    ("The movie poster features a masked man.", "A movie poster with a masked man."),
    ("The vibrant image shows a parade.", "A vibrant image of a parade."),
    ("The old photo shows the bridge was narrow.", "The bridge was narrow."),
    ("This photo shows a man who is asleep.", "A photo of a man who is asleep."),
    ("In this picture, we see a dog.", "A dog."),
    ("In this image, you can see a row of huts.", "A row of huts."),
    ("In the photo we can see a bridge.", "A bridge."),
    ("In the image, there are two mugs.", "There are two mugs."),
    ("In this picture, a boy flies a kite.", "A boy flies a kite."),
    ("You are looking at a valley.", "A valley."),
    ("We're looking at a valley.", "A valley."),
    ("Here we see a goat on a roof.", "A goat on a roof."),
    ("Sure. The image shows a goat.", "A goat."),
    ("THIS IMAGE SHOWS A GOAT.", "A GOAT."),
]  # fmt: skip
KEPT = [
    "This image is divided into three panels.",
    "This image is in black and white.",
    "The picture is a bit blurry.",
    "The image is black and white.",
    "The man in the image shows a card.",
    "The image on the wall shows a saint.",
    "The upper picture shows a cat.",
    "In the center of the image, a dog sits.",
    "This image shows what looks like a dog.",
    "The image shows how the wheel turns.",
    "The image shows him mid-leap.",
    "The image shows.",
    "The image shows a dog and has a blue border.",
    "The photo shows a dog, and was taken in 1990.",
    "This image, taken at dusk, shows a pier.",
    "This is a dog.",
    "A picture of a picture.",
    "A dog looks at a photo that shows a cat.",
    "Image processing shows promise.",
    "The framed picture hangs on a wall.",
    "We were never here.",
    "",
]
openers = st.sampled_from(
    [text for text, _ in STRIPPED]
    + ["This image shows ", "In this image, ", "We see ", "Sure. ", "This is ", "The photo is "]
    + KEPT
)


@pytest.mark.parametrize(("text", "expected"), STRIPPED)
def test_a_lead_in_goes_and_a_caption_stays(text: str, expected: str) -> None:
    assert strip_lead_in(text) == expected


@pytest.mark.parametrize("text", KEPT)
def test_what_would_leave_no_start_of_a_sentence_stays(text: str) -> None:
    assert strip_lead_in(text) == text


def test_it_happens_only_when_asked_for_and_never_to_tags() -> None:
    asked = Dressing(trigger="ohwx", strip_lead_in=True)

    assert dress("This image shows\na dog.", asked) == "ohwx, A dog."
    assert dress("This image shows a dog.", Dressing()) == "This image shows a dog."
    assert dress("this image shows a dog", asked, tags=True) == "ohwx, this image shows a dog"


@given(st.lists(st.one_of(openers, st.text(max_size=12)), max_size=4).map("".join))
def test_stripping_twice_is_stripping_once_and_leaves_a_line(text: str) -> None:
    line = one_line(text)
    stripped = strip_lead_in(line)

    assert strip_lead_in(stripped) == stripped
    assert bool(stripped.strip()) == bool(line)
    assert len(stripped) <= len(line)
    assert one_line(stripped) == stripped


def test_a_long_line_takes_no_longer_than_its_length() -> None:
    line = "This image shows a dog " + "and a cat, very " * 20_000

    assert strip_lead_in(line) == "A" + line[len("This image shows a") :]
