"""Whether a name or an id could be taken for another one by a person who reads it.

Guarantees: what differs only in case, accents, spacing, punctuation, in 0 for o or 1 and i for l, or in letters of
other scripts that look the same, is alike. The look-alike letters are those of Unicode TR 39, as the library
`confusable-homoglyphs` carries them. Says nothing of names that sound alike or mean the same.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Final

from confusable_homoglyphs.confusables import confusables_data

_PAIRS: Final = (("rn", "m"), ("vv", "w"))
_SHAPES: Final = str.maketrans({"0": "o", "1": "l", "i": "l"})


@cache
def _plain(letter: str) -> str:
    """The ASCII letter or digit that a letter looks like, or itself."""
    if letter.isascii():
        return letter
    found = (str(item["c"]) for item in confusables_data.get(letter, ()))
    return min((text for text in found if text.isascii() and text.isalnum()), default=letter)


def skeleton(text: str) -> str:
    """What remains of a name for a hasty eye. Equal skeletons look alike."""
    letters = "".join(_plain(letter) for letter in unicodedata.normalize("NFKC", text))
    spread = unicodedata.normalize("NFKD", letters.casefold())
    kept = "".join(_plain(letter) for letter in spread if letter.isalnum()).casefold()
    for pair, one in _PAIRS:
        kept = kept.replace(pair, one)
    return kept.translate(_SHAPES)
