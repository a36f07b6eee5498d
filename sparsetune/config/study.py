"""A study: one question, and the contrasts between methods that answer it. Imports no torch."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from sparsetune.config.load import Catalogue
from sparsetune.config.reading import read_yaml, validated
from sparsetune.config.settings import Id, Items, Rule, Settings, UniqueItems
from sparsetune.config.suite import Block, SuiteFile, suite_files
from sparsetune.errors import ConfigError, refusal

Line = Annotated[str, Field(pattern=r"^\S(.*\S)?$")]
"""What stands in a table or a heading of the page."""


class Contrast(Settings):
    """Two methods on the same backbone, task and seeds: left less right."""

    says: Line = Field(description="what it tells, one line")
    left: Id = Field(description="method id")
    right: Id = Field(description="method id, subtracted from left")
    backbones: UniqueItems[Id] = Field(
        default=(), description="ids; left out = all on which the suites run both methods"
    )
    tasks: UniqueItems[Id] = Field(default=(), description="ids; likewise")

    def rules(self) -> Iterator[Rule]:
        """Two methods."""
        yield (
            self.left != self.right,
            "right",
            f"received {self.right!r}, which is left; allowed: another method",
        )

    def holds_on(self, backbone: str, task: str) -> bool:
        """Whether it is about a backbone and a task."""
        return (not self.backbones or backbone in self.backbones) and (
            not self.tasks or task in self.tasks
        )

    def ids(self) -> Iterator[tuple[str, str, str]]:
        """(kind of thing, key, id) of everything that it names."""
        yield "method", "left", self.left
        yield "method", "right", self.right
        yield from (("backbone", "backbones", one) for one in self.backbones)
        yield from (("task", "tasks", one) for one in self.tasks)


class Study(Settings):
    """What the file of a study says."""

    title: Line = Field(description="one line")
    question: Line = Field(description="one sentence")
    suites: UniqueItems[Id] = Field(description="ids of the suites whose results answer it")
    contrasts: Items[Contrast] = Field(description="in the order to print")


def read_studies(folder: Path, catalogue: Catalogue) -> dict[str, Study]:
    """Read every study of a folder.

    Args:
        folder: ``config/studies``; one that is not there holds no study.
        catalogue: whose ids and suites the studies may name.

    Returns:
        Content by file stem, in the order of the stems.

    Raises:
        ConfigError: a file breaks its schema, names something that does not exist, or has a
            contrast that none of its suites can decide; one line with the key.
    """
    paths = sorted(folder.glob("*.yaml"))
    files = suite_files(catalogue.root) if paths else {}
    return {path.stem: _checked(path, catalogue, files) for path in paths}


def _checked(path: Path, catalogue: Catalogue, files: Mapping[str, Path]) -> Study:
    study = validated(Study, read_yaml(path), origin=path)
    for at, name in enumerate(study.suites):
        if name not in files:
            raise ConfigError(refusal(str(path), f"suites.{at}", name, files))
    blocks = [block for name in study.suites for block in _blocks(files[name])]
    for at, contrast in enumerate(study.contrasts):
        where = f"{path}: contrasts.{at}"
        for thing, key, name in contrast.ids():
            catalogue.require_known(thing, name, f"{where}.{key}")
        left, right = (_places(blocks, one) for one in (contrast.left, contrast.right))
        if not any(contrast.holds_on(*place) for place in left & right):
            raise ConfigError(
                f"{where}: received {contrast.left} less {contrast.right}; allowed: two methods "
                f"that {' or '.join(study.suites)} runs on one backbone and task of the contrast"
            )
    return study


def _blocks(path: Path) -> tuple[Block, ...]:
    return validated(SuiteFile, read_yaml(path), origin=path).runs


def _places(blocks: Iterable[Block], method: str) -> set[tuple[str, str]]:
    """The backbones and tasks on which a method is run."""
    return {
        (backbone, task)
        for block in blocks
        if method in block.methods
        for backbone in block.backbones
        for task in block.tasks
    }
