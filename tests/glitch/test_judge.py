"""Which answers are captions, and which are not."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joycap_vllm import build_prompt, judge
from joycap_vllm.glitch import GLITCHES, Glitch
from joycap_vllm.glitch.babble import find_gibberish, find_language
from joycap_vllm.glitch.echoes import find_echo
from joycap_vllm.glitch.endings import find_cut
from joycap_vllm.glitch.leaks import find_leak
from joycap_vllm.glitch.reading import Reading
from joycap_vllm.glitch.refusals import find_refusal
from joycap_vllm.prompts import Style, load_table

PROSE = [
    "A large red circle sits in the top left corner of a plain blue background.",
    'A hand-painted sign reads "I cannot live without coffee" above a wooden counter.',
    'A woman holds a card that says "I\'m sorry" in red letters.',
    "Photograph of a tiled floor: black tile, white tile, black tile, white tile, repeating.",
    "A poster with the words “As an AI, I dream” in bold type.",
    "ha ha ha, says the speech bubble over the laughing man.",
    "Row, row, row your boat is written on the page in a child's hand.",
    "-" * 40 + " A ruled line above a heading.",
    "I can't believe how beautiful this sunset is! #sunset",
    "I can't get enough of this view!",
    "I'm not going to lie, this cake looks amazing.",
    "I'm so sorry to everyone who missed this party!",
    "Sorry, this beach is taken! Come back tomorrow.",
    "As an AI-generated digital artwork, this piece blends soft light and hard shadow.",
    "Unfortunately, I can't tell you what they said, but the concert was electric!",
    'A web page shows the text "</s> is a tag" in a code editor.',
    "The menu lists coffee, tea, cocoa, juice; each drink has a small drawing beside it.",
    'Graffiti reads "NO NO NO NO NO NO NO NO" across the whole wall.',
    "The exact number of people behind the curtain cannot be determined from the photograph.",
    "A shop window with the sign “北京烤鸭” above the door and two lanterns beside it.",
    "A cat.",
    "The price tags show 0.00, 0.00, 0.00, 0.00, 0.00 and 0.00 in a neat column.",
    "A receipt lists Coffee 2.50, Tea 2.00, Cake 3.75, Juice 3.00, Water 1.50 and Bread 4.25.",
    "The chart shows sales of 20 in 2010, 30 in 2011, 25 in 2012, 40 in 2013 and 45 in 2014.",
    "A very, very, very small dog looks up at a very large cat.",
    "The iPhone 15 Pro lies beside a PlayStation controller and a McDonald's cup on a desk.",
    "A screenshot of a shop: WiFi6 router, HDMI2 cable, USB3 hub and a MacBook on the top row.",
    "A user holds the assistant manager's badge; the system board lies on the table.",
    "The dog lies on the left side of the sofa, and the cat lies on the left side of the chair.",
    "She wears a coat the colour of wet sand, and that is the chair she sits on.",
    "I'm sorry, but how is this view even real?! 😱",
    "I can't help but smile every time I see this little guy! #puppylove",
    "Let's start the week off right! 💪 Who else is at the gym? #monday",
    "Okay, so this is a chubby orange tabby who has clearly seen better sofas.",
    "A comic in which a robot says, 'I can't do that, Dave.' and turns away from the door.",
    "A phone screen with the icons of YouTube, TikTok, WhatsApp, PayPal, LinkedIn and FaceTime.",
    "A red sign that reads 危険 立入禁止 関係者以外立入禁止 hangs on the fence of a building site.",
    "The beads go red, white, red, white, red, white, red, white, with a gold clasp at the end.",
    "A repeated watermark alamy alamy alamy alamy alamy alamy covers the picture of a lighthouse.",
    "A recipe card.\nInstructions:\n1. Preheat the oven.\n2. Mix flour and sugar.",
    "The slide explains the <img> tag and the <b> tag with two short examples.",
]
TAGS = [
    "blue hair, blue eyes, blue dress, blue shoes, blue sky, blue sea, blue bird, blue car, "
    "blue house, blue door, blue flower, blue hat",
    "1girl, solo, long hair, smile, looking at viewer, outdoors, tree, sky",
    "human, solo, standing, short hair, blue shirt",
    "artist:some_one, copyright:original, 2girls, hand_on_own_hip, hair_between_eyes, @_@, ^_^",
    "red square, left, white background",
    "no humans",
    "hand on own hip, looking at viewer, arm at side, hand in pocket, standing on one leg, smile",
]
MIXED = [
    "cinematic photo of a lighthouse, golden hour, 35mm, f/2.8, artstation, octane render, 8k",
    "create a poster of a fox in a space suit, flat colors, bold type",
    "portrait of a very very very very old man, wrinkles, (masterpiece:1.2), ((detailed))",
]
BAD: list[tuple[str, Glitch]] = [
    ("", "empty"),
    ("   \n", "empty"),
    ("...", "empty"),
    ("null", "empty"),
    ("N/A", "empty"),
    (".</s>", "empty"),
    ("I'm sorry, but I can't help with that request.", "refusal"),
    ("I cannot assist with that.", "refusal"),
    ("As an AI language model, I am unable to describe people.", "refusal"),
    ("Sorry, I can’t describe this image.", "refusal"),
    ("I’m not comfortable describing this image.", "refusal"),
    ("Sorry — I can't help with this one.", "refusal"),
    ("I cant help with that", "refusal"),
    ("I am currently unable to view the image.", "refusal"),
    ("I do not have the ability to view images.", "refusal"),
    ("We're unable to assist with this request.", "refusal"),
    ("I have to decline.", "refusal"),
    ("I'd rather not describe this.", "refusal"),
    ("Please upload the image that you would like me to caption.", "refusal"),
    ("A dog on a lawn. As a large language model, I can help with other questions too.", "refusal"),
    ("A red bus. Note that I cannot provide details about the people in it.", "refusal"),
    ("<pad> A cat on a sofa.", "template_leak"),
    ("A cat on a sofa.<|eot_id", "template_leak"),
    ("A red square.<|eot_id|><|start_header_id|>user", "template_leak"),
    ("assistant\n\nA red square on white.", "template_leak"),
    ("A red square on white.assistant\n\nA red square.", "template_leak"),
    ("A red square on white.\nUser: and the next one?", "template_leak"),
    ("A red square on white.\n\n### Human: and now?", "template_leak"),
    ("<image>\nA red square.", "template_leak"),
    ("A red square on white. [/INST]", "template_leak"),
    ("AĠredĠsquareĠonĠwhite,ĠwithĠaĠthinĠborder.Ċ", "template_leak"),
    ("The user wants a caption. I should mention the red square first.", "template_leak"),
    ("Okay, so the picture has a red square. Let me describe it.", "template_leak"),
    ("A red square.\nQuestion: What colour is it?\nAnswer: Red.", "template_leak"),
    ("A boat on a calm lake. ASSISTANT: The image shows a boat.", "template_leak"),
    ("A boat on a calm lake.\n\nassistant", "template_leak"),
    ("A boat on a calm lake.assistant", "template_leak"),
    ("A boat on a calm lake.eot_id|>", "template_leak"),
    ("A boat on a calm lake. reserved_special_token_12", "template_leak"),
    ('"I cannot provide a description of this image."', "refusal"),
    ("I must respectfully decline to describe this.", "refusal"),
    ("Unable to process image.", "refusal"),
    ("It would be inappropriate to describe this image.", "refusal"),
    ("How can I help you today?", "refusal"),
]


@pytest.mark.parametrize("text", PROSE)
def test_prose_passes_as_prose_and_as_prompt_style(text: str) -> None:
    verdicts = [judge(text, style=s, finish_reason="stop") for s in ("prose", "mixed")]

    assert [v.why for v in verdicts] == ["", ""]
    assert judge(text).ok  # nor is it cut, where nobody says why it ended


@pytest.mark.parametrize("text", TAGS)
def test_tags_pass_as_tags_and_as_prompt_style(text: str) -> None:
    assert [judge(text, style=s).why for s in ("tags", "mixed")] == ["", ""]


@pytest.mark.parametrize("text", MIXED)
def test_prompts_for_painters_pass(text: str) -> None:
    assert judge(text, style="mixed").why == ""


@pytest.mark.parametrize("style", ["prose", "mixed"])
@pytest.mark.parametrize(("text", "kind"), BAD)
def test_a_glitch_is_found_and_explained(text: str, kind: Glitch, style: Style) -> None:
    verdict = judge(text, style=style, finish_reason="stop")

    assert verdict.glitch == kind
    assert verdict.why


def test_the_servers_word_counts() -> None:
    text = "A red square on a white ground."

    assert judge(text, finish_reason="length").glitch == "truncated"
    assert judge(text, finish_reason="repetition").glitch == "repetition"
    assert judge(text, finish_reason="stop").ok


@pytest.mark.parametrize("word", ["length", "MAX_TOKENS", "model_length", "abort", "error"])
def test_every_servers_word_for_a_cut_is_known(word: str) -> None:
    assert judge("A red square on a white ground.", finish_reason=word).glitch == "truncated"


def test_a_filter_is_a_refusal() -> None:
    assert judge("A woman in", finish_reason="content_filter").glitch == "refusal"


def test_without_a_finish_reason_a_hanging_sentence_is_truncated() -> None:
    assert judge("A woman stands beside a table with a").glitch == "truncated"
    assert judge("tree, sky, house,", style="tags").ok


def test_long_prose_whose_last_sentence_has_no_end_is_truncated() -> None:
    whole = (
        "A narrow lane of cobblestones climbs between two rows of timbered houses. On the left "
        "a baker in a white apron leans against the frame of his door, and a tray of rolls stands "
        "on the sill beside him. Across the lane a grey cat sleeps in a flower box full of "
        "geraniums. Wooden shutters hang open above it, painted green and worn by many winters. "
        "Further up, a boy pushes a bicycle whose basket is full of newspapers. Strings of small "
        "flags cross the lane at roof height and throw shadows over the stones. At the top "
        "stands a church with a pointed tower, its clock at ten past nine. Swallows circle the "
        "tower, and a thin cloud drifts behind it. The light is warm and low, so that every stone "
        "casts a shadow of its own. In the lower right corner a puddle mirrors a strip of sky. "
        "Nobody in the picture looks at the camera, which gives the scene the air of a glance. "
    )

    assert judge(whole + "Behind it all the sky turns a pale golden").glitch == "truncated"
    assert judge(whole.strip()).ok


def test_prose_is_no_tag_list_and_a_tag_list_no_prose() -> None:
    prose = "A young woman with long hair stands on the beach and looks at the sea behind her."
    tags = ", ".join([*TAGS[0].split(", "), "smile", "beach", "sea"])

    assert judge(prose, style="tags").glitch == "bad_format"
    assert judge(tags, style="prose", finish_reason="stop").glitch == "bad_format"


def test_an_answer_may_be_half_as_long_again_as_was_asked() -> None:
    text = (
        "A brown dog runs over a wide green lawn. Behind it stands a white house with a red roof, "
        "and two children wave from an open window on the first floor while a kite hangs in the "
        "sky."
    )

    assert judge(text, words=20).ok
    assert judge(text, words=10).glitch == "too_long"
    assert judge("long hair, short red dress, tall dark tree", style="tags", words=3).ok


@pytest.mark.parametrize(
    "text",
    [
        "这是一张照片，一位女士站在海滩上，背景是大海和蓝天，她穿着红色的裙子。",
        "The house is red. На фотографии показан большой дом с красной крышей и зелёной дверью.",
        "Das Bild zeigt eine Frau, die mit einem Hund auf der Wiese steht und in die Ferne blickt.",
        "La imagen muestra a una mujer con un perro en el parque, y las flores son de color rojo.",
    ],
)
def test_another_language_is_found_unless_the_prompt_allows_it(text: str) -> None:
    assert judge(text, finish_reason="stop").glitch == "wrong_language"
    assert judge(text, finish_reason="stop", prompt="Describe it in your own language.").ok


@pytest.mark.parametrize(
    "text",
    [
        "weighs GalaxyIngredient attacksilitarian Union505 excludes Perry calming morphineRival "
        "freelance deviations705 Turin spacWraith persist paralysis entrepreneurs baconExc lastly",
        "|| /~ a_ -- {{ ;; |_|_ ,,/ }} [] ^^ %% $$ ~~ b ## @@ !! == +- -+ &&",
        "to a,, new do s is and d t,, in in is, r is to and,, h to a and is is t.. fo",
    ],
)
def test_gibberish_is_found(text: str) -> None:
    assert judge(text, finish_reason="stop").glitch == "gibberish"


@pytest.mark.parametrize("row", load_table().types, ids=lambda row: row.name)
def test_every_prompt_of_the_table_is_known_when_it_comes_back(row: object) -> None:
    prompt = build_prompt(row.name, words=90)  # type: ignore[attr-defined]

    assert judge(f"{prompt.text}\n\nA red square.", prompt=prompt.text).glitch == "prompt_echo"
    assert judge(f"A red square. {prompt.text}").glitch in ("prompt_echo", "bad_format")


def test_a_prompt_of_the_users_own_is_known_when_it_comes_back() -> None:
    prompt = "Describe the main subject first and then say what is behind it."

    assert judge(f"{prompt} A dog.", prompt=prompt, style="mixed").glitch == "prompt_echo"
    assert judge("A dog runs over the lawn, and a house is behind it.", prompt=prompt).ok


def test_what_a_prompt_says_of_the_picture_may_be_said_again() -> None:
    prompt = "Mention that this is a photo of Emma Stone wearing a blue dress at the beach."
    answer = "A photo of Emma Stone wearing a blue dress at the beach in the evening light."

    assert judge(answer, prompt=prompt, finish_reason="stop").ok


def test_a_prompt_in_another_language_may_be_answered_in_it() -> None:
    german = "Das Bild zeigt eine Frau, die mit einem Hund auf der Wiese steht und lacht."

    assert judge(german, prompt="Beschreibe das Bild und was auf ihm zu sehen ist.").ok
    assert not judge(german, prompt="Describe the image and what is to be seen in it.").ok


def test_a_caption_that_the_prompt_hands_over_may_be_used() -> None:
    old = "A brown dog runs over a green lawn in front of a white house with a red roof."
    prompt = f"Rewrite this caption and add what is missing:\n{old}"

    assert judge(f"{old} The sky is grey.", prompt=prompt, finish_reason="stop").ok


@given(st.text())
def test_any_text_gets_a_verdict_with_a_reason(text: str) -> None:
    for style in ("prose", "tags", "mixed"):
        verdict = judge(text, style=style, prompt=text, words=1)

        assert verdict.ok == (verdict.glitch is None) == (not verdict.why)
        assert verdict.ok or verdict.glitch in GLITCHES


@pytest.mark.parametrize(
    "pieces",
    [
        *(("", '"a b ', ""), ("", "“x ", ""), ("", "<", ""), ("", "<|", ""), ("", "[", "")),
        *(("", "Question:\n", ""), ("", "I ", ""), ("", "as an AI ", ""), ("", "aaAa ", "")),
        *(("A ", "-", " a cat"), ("A ", "=", "x"), ("A ", "-!", "b"), ("A ", "#", "b")),
        *(("A", " ", "."), ("A cat.", "\n", "wait I AM."), ("Q: hi", "\n", "x"), ("", "\n ", "x")),
        *(("", "٠١", ""), ("1 ", "\u093e", ""), ("Caption:", " ", "x"), ("##", " ", "b")),
        *(("", "-" * 70 + "a", ""), ("", "Hint:" + " " * 200 + "\n", "x"), ("", "\ud800 ", "")),
    ],
)
def test_no_text_takes_longer_than_its_length_asks(pieces: tuple[str, str, str]) -> None:
    """Five seconds are far above what is needed, and far below what a quadratic judge takes."""
    before, piece, after = pieces
    text = before + (piece * 100_000)[:100_000] + after
    began = time.process_time()
    judge(text, prompt="Describe it.", words=10)
    reading = Reading(text)  # a judge that speaks early hides the others
    find_leak(reading, prose=True)
    find_refusal(reading, None)
    find_echo(reading, "Describe it.")
    find_language(reading, None)
    find_gibberish(reading, "prose")
    find_cut(reading, "prose", None)

    assert time.process_time() - began < 5
