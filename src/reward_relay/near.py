"""What a person may have meant by a word that is none of ours."""

import difflib
from collections.abc import Iterable

LONGEST = 80


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "state"?` where something known is near, else nothing."""
    near = difflib.get_close_matches(word[:LONGEST], [each for each in known if each != word], n=1)
    return f'; did you mean "{near[0]}"?' if near else ""
