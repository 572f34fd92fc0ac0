"""Refusals: the model speaks of itself, of what it will not do, or of an image that it lacks."""

from __future__ import annotations

import re

from joycap_vllm.glitch.reading import Reading, shown

_HEAD = 300  # characters in which a refusal begins; later only its plainest forms count
_CANNOT = (
    r"(?:can(?:['’]?t|not|\snot)|could(?:n['’]?t|\snot)|won['’]?t|will\snot|(?:do|did)(?:n['’]?t|\snot)"
    r"|am\s(?:currently\s|also\s)?(?:unable\sto|not\s(?:able|allowed|permitted|capable|going|comfortable))"
    r"|(?:['’]m|['’]re|are)\s(?:currently\s|also\s)?(?:unable\sto|uncomfortable"
    r"|not\s(?:able|allowed|permitted|capable|going|comfortable))"
    r"|(?:have\sto|must)\s(?:respectfully\s)?(?:decline|refuse)|(?:['’]d|\swould)\s(?:rather|prefer)\snot"
    r"|am\suncomfortable|refuse\sto|decline\sto|should\snot|shouldn['’]?t)"
)
_TASK = (
    r"(?:\s(?:currently|really|directly|actually|in\sgood\sconscience|be\sable\sto|to|of|comfortable"
    r"|accurately|reliably|definitively))*"
    r"(?:\s(?:help(?!\s(?:but|it|my|feeling|falling|smiling|thinking))|assist|provid|describ|creat|generat|compl|fulfil|view|see\s(?:the|this|any|a|an|im)"
    r"|identif|caption|process|analy[sz]|discuss|engage|writ|respond|answer|continue|do\s(?:that|this)"
    r"|feel\scomfortable|have\s(?:the|access|enough|any|personal|a|real)|support|produc|offer"
    r"|find|read|interpret|recogni[sz]|determin|comment|speculat|make\sout|share|know|access|open"
    r"|browse|perform|transcrib|accept)\w*|\s?[.,;!]|\s*\Z)"
)
_SORRY = (
    r"(?:i\sapologi[sz]e|my\sapologies|(?:i\sam|i['’]m|we\sare|we['’]re)\s"
    r"(?:very\s|so\s|really\s|truly\s)?(?:sorry|afraid)|sorry|unfortunately)"
)
_MACHINE = (
    r"as\s(?:an?\s)?(?:(?:large\s|ai\s|visual\s|text-based\s|multimodal\s|helpful\s|responsible\s)*"
    r"(?:language\smodel|ai\b(?!-)|artificial\sintelligence|chat\s?bot|virtual\sassistant"
    r"|(?:ai|visual|language)\s(?:language\s)?(?:model|assistant)))"
)
_AT_THE_START = re.compile(
    rf"""(?:\A|(?<=[.!?,;:—–\n-])|\bbut)\W*
        (?:{_SORRY}[^.!?\n]{{0,40}}\W+)?(?:{_MACHINE}\b[^.!?\n]{{0,60}}\W+)?
        (?:i|we)(?:\s|(?=['’])){_CANNOT}{_TASK}
      | \A\W*(?:i\sam|i['’]m|we\sare)\s(?:very\s|so\s|really\s)?sorry
        (?:[,.;:!]|\s(?:but|i|we|this|there|that\si|for\s(?:the|any)\s(?:conf|misund|incon)))
      | \A\W*sorry[,.!]?\s(?:but|as|i|we|for\s(?:the|any)\s(?:conf|misund|incon))\b
      | \A\W*i\sapologi[sz]e\b|\A\W*my\sapologies\b
      | \A\W*{_MACHINE}\b
      | \A\W*i\sam\s(?:an?\s)?(?:\w+\s){{0,2}}(?:ai|language\smodel|assistant|chatbot)\b
      | \A\W*(?:this|the|your)\s(?:request|content|prompt)\s
        (?:violates|goes\sagainst|is\snot\sallowed)
      | \A\W*(?:cannot|can['’]t|unable\sto|not\sable\sto)\s
        (?:comply|process|describe|assist|help|fulfil|provide|generate|view|caption)
      | \A\W*(?:it|that|this)(?:\swould\sbe|\sis|['’]s)\s
        (?:inappropriate|not\sappropriate|not\ssomething\si\scan|against\s(?:my|the))
      | \A\W*my\s(?:guidelines|programming|policy|policies|safety)
      | \A\W*(?:explicit|sexual|such|this)\s(?:content|material|image|request)\s
        (?:cannot\sbe|can['’]t\sbe|is\snot\s(?:allowed|permitted|something))
      | \A\W*(?:please|could\syou|can\syou|would\syou)\b[^.!?\n]{{0,40}}
        \b(?:provide|upload|attach|share|send|describe|paste|give)\b[^.!?\n]{{0,60}}
        \b(?:image|picture|photo|more\s(?:context|information|details))
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ANYWHERE = re.compile(
    rf"""(?i:{_MACHINE})\b(?:,\s|\sI\b)
      | \b[Hh]ow\s(?:can|may)\sI\s(?:help|assist)\syou
      | (?<=[.!?]\s)I(?:\sam|['’]m)\s(?:sorry,?\s(?:but|I)\b|not\scomfortable\b)
      | (?:\A|(?<=[.!?,]["')\s])|(?<=\n)|\b(?:but|that|and|so)\s)[ \t]*I(?:\s|(?=['’])){_CANNOT}
        \s(?:to\s|able\sto\s|be\sable\sto\s)?(?:assist|help\s(?:with|you)|provide|identify|describe|view|process
          |fulfil|comply|continue\swith|write|create|generate|engage|access|see\sthe\simage|have\saccess|answer|discuss)
    """,
    re.VERBOSE,
)
_LACKS = re.compile(
    r"""\b(?:no|not)\s(?:image|picture|photo)\s(?:was|is|has\sbeen)\s
        (?:provided|attached|uploaded|shared)
      | \b(?:image|picture|photo)\s(?:you\s(?:provided|sent|uploaded)\s)?(?:was|is|has)\s?
        (?:not|n['’]t)\s(?:been\s)?(?:provided|attached|uploaded|loaded|included)
      | \bI\s(?:do\snot|don['’]t|can(?:no|['’])t)\ssee\s(?:an?|any|the)\s
        (?:image|picture|photo|attach)
    """,
    re.VERBOSE,
)
# Most captions hold none of these, and need no closer look.
_BEGINS = (
    *(" i ", " i'", " i’", " we ", " we'", "sorry", "apolog", " as a", " as l", " my ", " you "),
    *("please", "request", "prompt", "unable", "cannot", "t able", "appropriate", "something"),
    *("allowed", "permitted", "violates", "goes against", "'t be", "’t be"),
)
_OF_SELF = (
    *(" I ", " I'", " I’", "\nI ", "\nI'", "\nI’", "AI", "language model"),
    *("rtificial", "hatbot", "irtual assistant"),
)
_NO = (
    " not ",
    "n't ",
    "n’t ",
    "no image",
    "no picture",
    "no photo",
    "No image",
    "No picture",
    "cannot ",
)
_OF_LACK = ("provided", "attached", "uploaded", "shared", "loaded", "included", "t see ")


def find_refusal(reading: Reading, finish_reason: str | None) -> str:
    """The evidence of a refusal in words, or an empty text."""
    if finish_reason == "content_filter":
        return "the server's filter stopped it"
    plain = reading.unquoted
    head = f" {plain[:_HEAD].lower()}"
    found = None
    if any(sign in head for sign in _BEGINS):
        found = _AT_THE_START.search(plain[:_HEAD])
    if found is None and any(sign in plain for sign in _OF_SELF):
        found = _ANYWHERE.search(plain)
    if found is None and any(n in plain for n in _NO) and any(sign in plain for sign in _OF_LACK):
        found = _LACKS.search(plain)
    return f"it says {shown(found.group())}" if found and not reading.is_post else ""
