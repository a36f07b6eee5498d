"""The house's docstrings as mkdocstrings reads them."""

import re
import textwrap
from typing import Any

import griffe

_NOTE = re.compile(r"^(Source|Differs):\n((?:    .*\n?|\n(?=    ))+)", flags=re.M)


class HouseSections(griffe.Extension):
    """Tell griffe the sections that it does not know: ``Example``, ``Source`` and ``Differs``."""

    def on_object(self, *, obj: griffe.Object, **_others: Any) -> None:
        """Rewrite one docstring; by griffe's own rules the three are notes, or plain text."""
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = _NOTE.sub(_paragraph, text)


def _paragraph(found: re.Match[str]) -> str:
    return f"\n**{found[1]}.** {textwrap.dedent(found[2]).strip()}\n\n"
