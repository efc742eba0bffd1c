"""The table that a page shows."""

from __future__ import annotations

import re

import pandas as pd


class Table(pd.DataFrame):
    """A data frame that a page shows in full: no text is cut, and a named index is its first column.

    `attrs["note"]`, if there is one, is shown below it.
    """

    @property
    def _constructor(self) -> type[Table]:
        return Table

    def __repr__(self) -> str:
        return "\n".join(filter(None, (super().__repr__(), self.attrs.get("note"))))

    def to_text(self) -> str:
        """The whole table and its note as plain text."""
        return "\n".join(filter(None, (self.to_string(index=bool(self.index.name)), self.attrs.get("note"))))

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            shown = self.reset_index() if self.index.name else self
            html = shown.to_html(index=False, justify="left", border=0)
        # A narrow column would break "1, 2, 3", "4 → 5" and "6 … 7" after every number; "0.7 ± 0.1" may, after ±.
        html = re.sub(r"(?<=\d)(,| →| …) (?=-?\d)", lambda m: m[1].replace(" ", "&nbsp;") + "&nbsp;", html)
        html = re.sub(r"(?<=\w)/(?=\w)", "/<wbr>", html)  # the parts of a row's name may stand below each other
        note = f"\n<p>{self.attrs['note']}</p>" if self.attrs.get("note") else ""
        return re.sub(r"(?<=\d) ± (?=\d)", "&nbsp;± ", html) + note
