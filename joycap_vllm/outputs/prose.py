"""Takes "This image shows ..." and its like from the front of prose.

A lead-in goes only where what is left begins as a sentence or a noun phrase does: `This image is
divided into three panels.` stays. What it says about the medium is kept: `This oil painting
depicts a fox.` becomes `An oil painting of a fox.`
"""

from __future__ import annotations

import re

_PLAIN = r"(?:image|picture|pic|scene|frame|visual)"
_MEDIUM = (
    r"(?:photo(?:graph)?|snapshot|selfie|screenshot|painting|drawing|sketch|doodle|illustration|"
    r"artwork|digital art|pixel art|fan ?art|render(?:ing)?|portrait|watercolou?r|engraving|"
    r"etching|lithograph|woodcut|print|poster|cover|collage|comic(?: strip| panel| page)?|"
    r"cartoon|meme|mural|fresco|diagram|map|logo|x-ray|still|shot|close-up)"
)
_NOUN = rf"(?:{_PLAIN}|{_MEDIUM})"
# Words between `the` and `image`; with one of these the image would be part of something else, or
# one of several.
_ADJECTIVES = (
    r"(?:(?!(?:in|of|on|the|an?|this|that|these|those|with|to|from|at|by|for|is|are|was|has|as|"
    r"who|which|where|when|inside|behind|under|near|beside|against|over|into|upper|lower|top|"
    r"bottom|left|right|first|second|third|last|other|next|same)(?![\w\-]))"
    r"[\w'’\-/]+,? ){0,7}?"
)
_GIVEN = r"(?:(?:provided|given|attached|uploaded|above|following|accompanying|presented) )?"
_SENT = (
    r"(?: (?:that )?you(?:'ve|’ve| have)? (?:sent|provided|gave|given|shared|uploaded)(?: me)?)?"
)
_SHOW = r"(?:show|depict|portray|present|capture|illustrate|represent|reveal)"
_HOLD = r"(?:showcase|feature|display|contain|exhibit|include|highlight)"
_HOW = r"(?:(?:clearly|simply|vividly|beautifully|mainly|primarily|prominently) )?"
_WE_SEE = (
    r"(?:(?:we|you|one)(?: can| could| are able to)?(?: clearly)? (?:see|observe|find|notice)s?|"
    r"(?:you|we)(?: are|'re|’re) (?:looking at|viewing|seeing))"
)
_IMAGE_OF = rf"(?:an? {_PLAIN} (?:of|show(?:s|ing)|depict(?:s|ing)|that (?:shows|depicts)) )"
_THERE_IS = r"there(?:'s|’s| is| are) "

_SHOWS = re.compile(
    rf"(?:(?:this|the|that|an?) {_GIVEN}(?P<adjectives>{_ADJECTIVES}))?(?P<noun>{_NOUN}){_SENT} "
    rf"{_HOW}(?:{_SHOW}s(?: us| you| the viewer)?|(?P<holds>{_HOLD}s)):? ",
    re.IGNORECASE,
)
_LEADS = tuple(
    re.compile(lead, re.IGNORECASE)
    for lead in (
        # This picture is a photo of ..., The image is of ...
        rf"(?:this|the|that) {_GIVEN}{_NOUN}{_SENT} (?:is|appears to be|seems to be) "
        rf"(?:of |{_IMAGE_OF}|(?=(?:an?|the|one|two|three|several|some) ))",
        # This is an image of ..., Here's a photograph of ...
        r"(?:this is|here is|here's|here’s) "
        rf"(?:{_IMAGE_OF}|(?=(?:an?|the) {_ADJECTIVES}{_NOUN}\b))",
        # These images show ...
        rf"(?:these|the) (?:{_PLAIN}|photo(?:graph)?)s (?:{_SHOW}|{_HOLD}) ",
        # In this picture, we see ..., In the photo there is ...
        rf"(?:in|within) (?:this|the) {_GIVEN}{_NOUN}{_SENT}"
        rf"(?:, (?:{_WE_SEE} )?| {_WE_SEE} | (?={_THERE_IS}))",
        # You are looking at ..., Here we see ...
        rf"(?:here,? )?{_WE_SEE} ",
        # Sure. ..., Sure, here is ...
        r"(?:sure|certainly|of course)(?:, i can do that)?[.!,:] (?=(?:this|the|in|here|you|we)\b)",
    )
)
_THAT_CLAUSE = re.compile(
    r"that (?=(?:an?|the|this|his|her|its|their|there|he|she|they|it|we|you|one|two|three|several|"
    r"many|some|no|both) )",
    re.IGNORECASE,
)
_WHOLE_CLAUSE = re.compile(
    r"(?:(?!(?:that|which|who|whose|as|where|while|when)\b)[\w'’\-]+ ){1,5}(?:is|are|was|were)\b",
    re.IGNORECASE,
)
# What neither a sentence nor a noun phrase begins with, or what says too little.
_NO_START = re.compile(
    r"(?:what|how|where|when|why|who|whether|if|as|to|in|into|on|onto|at|of|off|up|out|with|by|for|"
    r"from|and|or|but|not|that|here|itself|him|them|us|me|being|be|been|"
    r"an? (?:bit|little|lot|tad|touch|few)|\w+ly)\b|[^\w\"“'‘]",
    re.IGNORECASE,
)
# A second verb of the same subject would be left without one.
_SECOND_VERB = re.compile(
    r"(?:,? and|,? but|, while|, then)(?: also| then| it)? (?:is|was|has|appears|seems|uses|"
    r"conveys|evokes|creates|gives|focuses|employs|emphasi[sz]es|suggests|combines|"
    rf"{_SHOW}s|{_HOLD}s)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?:[^.!?]|[.!?](?=\S))*")


def strip_lead_in(line: str) -> str:
    """`line` without its lead-in; the same line where there is none or nothing good would stay.

    Args:
        line: Prose without line breaks.
    """
    shorter = _without_one(line)
    while shorter is not None and len(shorter) < len(line):
        line, shorter = shorter, _without_one(shorter)
    return line


def _without_one(line: str) -> str | None:
    shows = _SHOWS.match(line)
    led = shows or next((found for lead in _LEADS if (found := lead.match(line))), None)
    if led is None:
        return None
    rest = line[led.end() :]
    sentence = _SENTENCE.match(rest)
    if sentence is not None and _SECOND_VERB.search(sentence.group()):
        return None
    clause = _THAT_CLAUSE.match(rest)
    if clause is not None:
        return _begun(rest[clause.end() :])
    return _begun(rest) if shows is None else _shown(shows, rest)


def _shown(shows: re.Match[str], rest: str) -> str | None:
    """What a picture shows; `A photo of` it where the lead-in told the medium."""
    begun, adjectives = _begun(rest), shows["adjectives"]
    kind = shows["noun"].lower() if adjectives is None else adjectives + shows["noun"]
    if begun is None or re.fullmatch(_PLAIN, kind, re.IGNORECASE) or _WHOLE_CLAUSE.match(rest):
        return begun
    return f"{_article(kind)} {kind} {'with' if shows['holds'] else 'of'} {rest}"


def _begun(rest: str) -> str | None:
    """`rest` as the start of a caption; None where it cannot be one."""
    if not rest.strip() or _NO_START.match(rest):
        return None
    return rest[0].upper() + rest[1:]


def _article(word: str) -> str:
    vowel = r"(?!uni|use|usu|one\b|eu)[aeiou]|8|1[18]\b|hour|honest|x-ray"
    return "An" if re.match(vowel, word, re.IGNORECASE) else "A"
