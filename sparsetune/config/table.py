"""The papers' printed tables, cell by cell, as ``config/tables`` holds them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Strict

from sparsetune.config.reading import read_yaml, validated
from sparsetune.config.settings import Id, Items, Rule, Settings, Text


class TableColumn(Settings):
    """One column."""

    heading: str = Field(description="as printed in the paper")
    tasks: Items[Id] = Field(description="task ids; several = their mean")
    value: Literal["score", "saved-seconds", "change", "saved-inference-macs", "trained-share"] = (
        Field(
            description="primary metric in percent; training time saved against full in percent; "
            "change of the primary metric relative to the row's `against`, in percent; effective "
            "inference MACs saved of the dense model's, the update's own counted, in percent; or "
            "trained parameters, without head, in percent of the dense model's"
        )
    )


class TableRow(Settings):
    """One row."""

    label: str = Field(description="as printed in the paper")
    backbone: Id = Field(description="backbone id")
    method: Id = Field(description="method id")
    published: Items[int | float | str | None] = Field(
        description="percent; text where a range is printed; null = not known"
    )
    against: Id | None = Field(
        default=None,
        description="backbone id that a relative change is measured from, with the row's method",
    )


class PublishedTable(Settings):
    """One table of a paper."""

    title: Text = Field(description="one line")
    source: Text = Field(description="paper and table")
    columns: Items[TableColumn]
    rows: Items[TableRow]
    notes: Annotated[tuple[str, ...], Strict(False)] = Field(
        description="what is doubtful or inconsistent in the paper, and where we differ"
    )

    def rules(self) -> Iterator[Rule]:
        """Every cell is told."""
        for index, row in enumerate(self.rows):
            yield (
                len(row.published) == len(self.columns),
                f"rows.{index}.published",
                f"received {len(row.published)} cells; allowed: one for each of "
                f"{len(self.columns)} columns",
            )


def read_tables(folder: Path) -> dict[str, PublishedTable]:
    """Read every table of a folder.

    Returns:
        Content by file stem, in the order of the stems.

    Raises:
        ConfigError: a file breaks its schema.
    """
    return {
        path.stem: validated(PublishedTable, read_yaml(path), origin=path)
        for path in sorted(folder.glob("*.yaml"))
    }
