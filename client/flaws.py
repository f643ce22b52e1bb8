from __future__ import annotations

_TAIL = 300
_LONGEST_UNIT = 100


def flaw(text: str, finish_reason: str) -> str:
    """`repeats`, `truncated`, or nothing: what is wrong with an answer whatever was asked.

    A model that goes round in circles is often cut off at the token limit, too: then the circles are the reason.
    """
    if repeats(text):
        return "repeats"
    return "truncated" if finish_reason == "length" else ""


def repeats(text: str) -> bool:
    """Whether the last 300 characters are one unit of at most 100 characters over and over.

    Rules of tables (`-----`) and blanks are no circles: a unit has to hold a letter or a digit.
    """
    text = text.rstrip()
    if len(text) < _TAIL + _LONGEST_UNIT:
        return False
    tail = text[-_TAIL:]
    return any(
        tail == text[-_TAIL - period : -period] and any(letter.isalnum() for letter in tail[-period:])
        for period in range(1, _LONGEST_UNIT + 1)
    )
