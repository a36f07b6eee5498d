"""The folder of the catalogue: files, their bases and variants, and what changes where.

Contents are checked in ``load``, by the models of the things.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sparsetune.config.reading import merged, read_yaml, validated
from sparsetune.config.settings import ID, Id, Items, Rule, Settings
from sparsetune.errors import ConfigError, nearest, refusal


class Place(Settings):
    """Where an override holds; a key left out = everywhere."""

    backbones: Items[Id] | None = None
    tasks: Items[Id] | None = None

    def rules(self) -> Iterator[Rule]:
        """It says something."""
        yield bool(self.backbones or self.tasks), "", "needs backbones, tasks or both"

    def holds(self, backbones: set[str], task: str) -> bool:
        """Whether a backbone, by any of its names, and a task are in it."""
        on_backbone = self.backbones is None or not backbones.isdisjoint(self.backbones)
        return on_backbone and (self.tasks is None or task in self.tasks)


class Entry(NamedTuple):
    """One thing as its file has it, laid over its base.

    Attributes:
        origin: what a message calls it: the file, and the variant in it.
        content: everything but overrides.
        overrides: where, and what is laid over the content there; later ones win.
    """

    origin: str
    content: Any
    overrides: tuple[tuple[Place, Mapping[str, Any]], ...] = ()

    def at(self, backbones: set[str], task: str) -> "Entry":
        """The entry at a place: the overrides that hold there are laid on.

        Args:
            backbones: names of the backbone: its id, and whose overrides hold for it.
            task: id.
        """
        changes = [change for place, change in self.overrides if place.holds(backbones, task)]
        return self.changed(changes, "after overrides") if changes else self

    def changed(self, changes: Iterable[Mapping[str, Any]], told: str) -> "Entry":
        """The entry with what some overrides change, and how a message calls it."""
        content = self.content
        for change in changes:
            content = merged(content, change, origin=f"{self.origin}: overrides")
        return Entry(f"{self.origin}: {told}", content)


class _Written(NamedTuple):
    """What is written under an id; ``file`` is None, or the id of the file that has a variant."""

    origin: str
    content: Any
    file: str | None = None


class CatalogueFolder:
    """Entries by kind of thing and id: a file's stem, or a variant's id in a file.

    Args:
        root: folder with ``backbones tasks methods supports tickets``.

    Raises:
        ConfigError: from every method, for an unknown id or a file that cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._read: dict[str, dict[str, _Written]] = {}
        self._entries: dict[tuple[str, str], Entry] = {}

    def known(self, thing: str) -> list[str]:
        """Ids of every ``backbone``, ``task``, ``method``, ``support`` or ``ticket``."""
        return sorted(self._written(thing))

    def _written(self, thing: str) -> dict[str, _Written]:
        """All that the files of a thing say, read once."""
        if thing not in self._read:
            paths = sorted((self.root / f"{thing}s").glob("*.yaml"))
            files = {path.stem: _Written(str(path), read_yaml(path)) for path in paths}
            found = dict(files)
            for stem, file in files.items():
                for variant, content in _variants(file).items():
                    origin = f"{file.origin}: variants.{variant}"
                    if not ID.fullmatch(str(variant)):
                        raise ConfigError(f"{origin}: received {variant!r}; allowed: an id")
                    if variant in found:
                        other = found[variant].file or variant
                        raise ConfigError(f"{origin}: id twice; it is in {other}.yaml too")
                    found[variant] = _Written(origin, content, stem)
            self._read[thing] = found
        return self._read[thing]

    def require_known(self, thing: str, thing_id: str, where: object = None) -> None:
        """Refuse an id that could leave its folder, or that nothing has.

        Args:
            thing: kind of thing.
            thing_id: its id.
            where: what a message calls the place that names it; None = the folder.
        """
        if not ID.fullmatch(thing_id):
            raise ConfigError(
                f"{thing} id {thing_id!r}: need lower-case letters and digits joined by '-' or '.'"
            )
        known = self.known(thing)
        if thing_id not in known:
            raise ConfigError(
                f"{where or self.root / (thing + 's')}: unknown {thing} {thing_id!r}; known: "
                f"{', '.join(known) or 'none'}{nearest(thing_id, known)}"
            )

    def entry(self, thing: str, thing_id: str) -> Entry:
        """One thing, as its file has it."""
        key = (thing, thing_id)
        if key not in self._entries:
            self.require_known(thing, thing_id)
            self._entries[key] = self._laid_over_base(thing, thing_id)
        return self._entries[key]

    def _laid_over_base(self, thing: str, thing_id: str) -> Entry:
        """A variant is laid over its file, a file over its base; own overrides win."""
        origin, raw, base = self._written(thing)[thing_id]
        if not isinstance(raw, Mapping):
            return Entry(origin, raw)
        apart = ("overrides",) if base else ("base", "overrides", "variants")
        content = {key: value for key, value in raw.items() if key not in apart}
        overrides = self._overrides(origin, raw.get("overrides", ()))
        base = base or self._base(thing, thing_id, raw)
        if base is None:
            return Entry(origin, content, overrides)
        if "description" not in content:
            raise ConfigError(f"{origin}: top level: missing key 'description'")
        below = self.entry(thing, base)
        content = merged(below.content, content, origin=origin)
        return Entry(origin, content, (*below.overrides, *overrides))

    def _base(self, thing: str, thing_id: str, raw: Mapping[str, Any]) -> str | None:
        if "base" not in raw:
            return None
        base, written = raw["base"], self._written(thing)
        known = [one for one, what in written.items() if what.file is None and one != thing_id]
        if base not in known:
            raise ConfigError(refusal(written[thing_id].origin, "base", base, known))
        content = written[base].content
        if isinstance(content, Mapping) and "base" in content:
            told = f"base: {base!r} has a base itself; allowed: one level"
            raise ConfigError(f"{written[thing_id].origin}: {told}")
        return str(base)

    def _overrides(self, origin: str, given: Any) -> tuple[tuple[Place, Mapping[str, Any]], ...]:
        if not isinstance(given, list | tuple) or not all(isinstance(o, Mapping) for o in given):
            told = f"received {given!r:.80}; allowed: a list of mappings"
            raise ConfigError(f"{origin}: overrides: {told}")
        found = []
        for index, override in enumerate(given):
            where = f"{origin}: overrides.{index}"
            if "where" not in override or len(override) < 2:
                raise ConfigError(f"{where}: needs where, and what changes there")
            place = validated(Place, override["where"], origin=f"{where}.where")
            for thing, named in (("backbone", place.backbones), ("task", place.tasks)):
                for one in named or ():
                    self.require_known(thing, one, f"{where}.where.{thing}s")
            found.append((place, {key: override[key] for key in override if key != "where"}))
        return tuple(found)


def _variants(file: _Written) -> Mapping[str, Any]:
    given = file.content.get("variants", {}) if isinstance(file.content, Mapping) else {}
    if not isinstance(given, Mapping):
        told = f"received {given!r:.80}; allowed: a mapping from ids to what differs"
        raise ConfigError(f"{file.origin}: variants: {told}")
    return given
