"""Template leaks: what belongs to the conversation and not into an answer.

Control tokens as text, the names of the talkers, further turns that the model makes up, thinking
aloud, and bytes that a tokenizer failed to turn back into text.
"""

from __future__ import annotations

import re

from joycap_vllm.glitch.reading import Reading, shown

_TOKEN = re.compile(
    r"<\||\|>|<｜[^｜<>\n]{1,64}｜>"  # <|eot_id|>, also cut or half eaten
    r"|</?(?:image|unk|bos|eos|pad|think|thinking|reasoning|boi|eoi|answer|caption)(?:_\w+)?>"
    r"|<(?:start|end)_of_(?:turn|image|text)>|<(?:extra_id|loc|seg|unused)_?\d+>|<0x[0-9A-F]{2}>"
    r"|</?(?:INST|SYS|USER|ASSISTANT|SYSTEM|HUMAN|BOS|EOS|PAD|UNK)>|<</?SYS>>|\A\s*<s>|<s>\s*\Z"
    r"|\b(?:eot|eom|(?:start|end)_header)_id\b|\b(?:begin|end)_of_(?:text|turn|utterance)\b"
    r"|\breserved_special_token"
)
_WHOLE_TOKEN = re.compile(r"<\|\w{1,64}\|>")
_TOKEN_SIGNS = ("<", "|>", "_id", "_of_t", "_of_u", "reserved_")
_END_OF_TEXT = re.compile(r"^(?:(?!<s>).)*(</s>)", re.MULTILINE)  # <s>...</s> strikes out
_BRACKETED = re.compile(r"\[/?INST\]|\[/?(?:BOS|EOS|PAD|UNK|SEP|CLS|IMG|IMAGE|EOT)\]")
_HEADING = re.compile(
    r"(?<!#)#{2,}+\s*+(?:Human|Assistant|User|System|Instruction|Response|Input|Output|Question|Answer)"
    r"\s*(?::|\Z)",
    re.IGNORECASE,
)
_TALKER = re.compile(
    r"^[ \t]*(?:(?:Human|User|USER|Assistant|ASSISTANT|HUMAN|AI|GPT)[ \t]*:(?=\s|\Z)"
    r"|(?:system|user|assistant)[ \t]*\n)",
    re.MULTILINE,
)
_GLUED_TALKER = re.compile(
    r"[.!?\"'”)](?:assistant|user|system)(?:\s*\n|:|[A-Z]|\Z)|\wassistant(?:\s*\n|\s*\Z)"
    r"|[.!?\"”)]\s+(?:ASSISTANT|USER)(?::|\Z)|\n\s*+(?:user|assistant|system)\s*(?::\s|\Z)"
    r"|assistantassistant|\Aassistant(?=[A-Z:])"
)
_TALKERS = ("assistant", "user", "system")
_NEXT_QUESTION = re.compile(
    r"^[ \t]*(?:Question|Q)[ \t]*\d*[ \t]*:[^\n]*+\n\s*+"
    r"(?:\w+:[^\n]*+\n\s*+)?(?:Answer|A)[ \t]*\d*[ \t]*:",
    re.MULTILINE,
)
_SECOND_ANSWER = re.compile(r"\n[ \t]*(?:Caption|Answer|Response)[ \t]*:[ \t]*\S")
_BYTES = re.compile(r"\w[ĠĊ](?=\w)|[.,:;!?][ĠĊ]+\w|▁\w|âĢ[ĶĻľĿ¦]")
_BYTE_MARKS = ("Ġ", "Ċ", "▁", "âĢ")
_BYTES_LEAST = 2
_THINKING_START = re.compile(
    r"\A\W*(?:the\suser\s(?:wants|asks|asked|is\sasking|has\sasked|provided|would\slike|requests)"
    r"|(?:(?:okay|ok|alright|hmm+|well|so|right|got\sit)\b[\s,.]*)?(?:so\s)?"
    r"(?:let\sme\s(?:think|look|analy[sz]e|see|start|describe|break|write|examine|try)"
    r"|let['’]s\s(?:think|look|analy[sz]e|see|start|break|examine|tackle)"
    r"|i\s(?:need|have)\sto\s(?:describe|write|caption|analy[sz]e|create|generate|provide|come\sup)"
    r"|i['’](?:m|ll|ve)\s(?:going\sto|asked\sto|to|been\sasked)"
    r"|we\s(?:need|have|are\sasked)\sto\s(?:describe|write|caption|produce|generate|create))"
    r"|(?:okay|ok|alright|hmm+)\s*[,.]\s*(?:so|the|let|i|we|first|now|this)\b)",
    re.IGNORECASE,
)
_THINKING_ALOUD = re.compile(
    r"(?:\A|(?<=[.!?:]\s)|(?<=\n))[ \t]*(?:wait\s*[,.]|hmm+\b"
    r"|let\sme\s(?:re-?check|double|think|check|count)"
    r"|the\suser\s(?:wants|asked|asks)|i\s(?:should|need\sto|must)\s(?:avoid|mention|describe|include"
    r"|make\ssure|keep|also|not|check|be\s)|final\s(?:answer|caption|check)\b)",
    re.IGNORECASE,
)
# Casual captions begin like thoughts; thoughts speak of the task.
_TASK = re.compile(
    r"\b(?:caption|descri(?:be|ption)|user|prompt|tags?|instruction|request|asked|answer|question|step"
    r"|analy[sz]e)\b",
    re.IGNORECASE,
)
_THINKING_SIGNS = ("wait", "hmm", "let me ", "the user ", "i should", "i need", "i must", "final ")
_ALOUD_LEAST = 2


def find_leak(reading: Reading, *, prose: bool) -> str:
    """The evidence of a leak in words, or an empty text.

    Args:
        reading: The answer.
        prose: Whether one caption in prose was asked for, so that labels in it begin a second one.
    """
    text = reading.text
    return _markup(reading) or _turns(reading, prose) or _thinking(reading) or _tokenizer(text)


def _markup(reading: Reading) -> str:
    found = None
    if any(sign in reading.text for sign in _TOKEN_SIGNS):
        found = _WHOLE_TOKEN.search(reading.text) or _TOKEN.search(reading.unquoted)
        found = found or _END_OF_TEXT.search(reading.unquoted)
    if found is None and "[" in reading.text:
        found = _BRACKETED.search(reading.unquoted)
    return f"{shown(found.group(found.lastindex or 0))} belongs to the chat format" if found else ""


def _turns(reading: Reading, prose: bool) -> str:
    text = reading.text
    found = _HEADING.search(text) if "##" in text else None
    if found is None and any(name in reading.lower for name in _TALKERS):
        found = _GLUED_TALKER.search(text)
    if found is None and "\n" in text:
        found = _TALKER.search(text)
        if found is None and ":" in text:
            found = _NEXT_QUESTION.search(text) or (_SECOND_ANSWER.search(text) if prose else None)
    if found is None:
        found = _TALKER.match(text)
    return f"{shown(found.group())} begins another turn of the talk" if found else ""


def _thinking(reading: Reading) -> str:
    found = _THINKING_START.search(reading.text[:200])
    if found is None and any(sign in reading.lower for sign in _THINKING_SIGNS):
        aloud = list(_THINKING_ALOUD.finditer(reading.unquoted))
        found = aloud[0] if len(aloud) >= _ALOUD_LEAST else None
    if found is None or reading.is_post or not _TASK.search(reading.text[:400]):
        return ""
    return f"{shown(found.group())} is thinking aloud"


def _tokenizer(text: str) -> str:
    if not any(mark in text for mark in _BYTE_MARKS):
        return ""
    found = _BYTES.findall(text)
    if len(found) < _BYTES_LEAST:
        return ""
    return f"{shown(found[0])} is a token that was not turned back into text"
