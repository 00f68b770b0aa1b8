"""The text of the State of the Union addresses without what their editors added."""

from __future__ import annotations

import re

# Bracketed notes of the editors about the scene. Other brackets hold words of the address (supplied
# words, dates): they lose the brackets alone.
_SCENE = re.compile(
    r"laughter|applau|inaudible|app note|correction|audience|delivered|read before|released|"
    r"at t?his point|moment of silence|ovation|entered the|presented|pinned|held up|disruption|"
    r"^\s*p\.\s*\d+|^\s*\d{1,2}\.?\s*$",
    re.IGNORECASE,
)


def clean_address(text: str) -> str:
    """An address without its editors: notes such as [Applause], cries of the audience, speaker labels.

    Brackets around supplied words and dates are opened ("on [1815-09-30]" keeps its date). Blanks are
    single, paragraphs stand apart by one empty line.

    >>> clean_address("The President. Thank you. [Applause]  On [July 4], we won.\\n\\nAudience member. No!")
    'Thank you. On July 4, we won.'
    """
    text = re.sub(r"\[([^\[\]]{0,600})\]", lambda m: "" if _SCENE.search(m[1]) else m[1].strip(), text)
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = re.sub(r"[ \t\r\f\v\u00a0]*\n\s*", "\n", re.sub(r"[ \t\u00a0]+", " ", paragraph)).strip()
        paragraph = re.sub(r"^The President\. ?", "", paragraph)
        paragraph = re.sub(r" ([,.;:!?])(?=\s|$)", r"\1", paragraph)  # what a removed note left behind
        if paragraph and not re.match(r"Audience members?\.", paragraph):
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)
