"""The folder of the catalogue: files, their bases and variants, and what changes where.

Contents are checked in ``load``, by the models of the things.
"""

from collections.abc import Iterator, Mapping
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

    def at(self, backbones: set[str], task: str) -> tuple[Any, tuple[int, ...]]:
        """The content at a place.

        Args:
            backbones: names of the backbone: its id, and whose overrides hold for it.
            task: id.

        Returns:
            The content, and the indices of the overrides that hold, which decide it.
        """
        holding = tuple(i for i, (at, _) in enumerate(self.overrides) if at.holds(backbones, task))
        content = self.content
        for index in holding:
            content = self.with_override(index, content)
        return content, holding

    def with_override(self, index: int, content: Any) -> dict[str, Any]:
        """A content with one override laid over it."""
        return merged(content, self.overrides[index][1], origin=f"{self.origin}: overrides")


class CatalogueFolder:
    """Entries by kind of thing and id: a file's stem, or a variant's id in a file.

    Args:
        root: folder with ``backbones tasks methods supports tickets``.

    Raises:
        ConfigError: from every method, for an unknown id or a file that cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stems: dict[str, list[str]] = {}
        self._files: dict[Path, Any] = {}
        self._variants: dict[str, dict[str, str]] = {}
        self._entries: dict[tuple[str, str], Entry] = {}

    def known(self, thing: str) -> list[str]:
        """Ids of every ``backbone``, ``task``, ``method``, ``support`` or ``ticket``."""
        return sorted([*self.stems(thing), *self.variants(thing)])

    def stems(self, thing: str) -> list[str]:
        """Ids of those that have a file of their own."""
        if thing not in self._stems:
            folder = self.root / f"{thing}s"
            self._stems[thing] = sorted(path.stem for path in folder.glob("*.yaml"))
        return self._stems[thing]

    def variants(self, thing: str) -> dict[str, str]:
        """Id of every variant -> stem of its file."""
        if thing not in self._variants:
            found: dict[str, str] = {}
            for stem in self.stems(thing):
                for variant in self._variants_of(thing, stem):
                    where = f"{self._path(thing, stem)}: variants.{variant}"
                    if not ID.fullmatch(str(variant)):
                        raise ConfigError(f"{where}: received {variant!r}; allowed: an id")
                    if variant in found or variant in self.stems(thing):
                        other = found.get(variant, variant)
                        raise ConfigError(f"{where}: id twice; it is in {other}.yaml too")
                    found[variant] = stem
            self._variants[thing] = found
        return self._variants[thing]

    def _variants_of(self, thing: str, stem: str) -> Mapping[str, Any]:
        raw = self._raw(thing, stem)
        given = raw.get("variants", {}) if isinstance(raw, Mapping) else {}
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"{self._path(thing, stem)}: variants: received {given!r:.80}; allowed: a mapping "
                "from ids to what differs"
            )
        return given

    def require_known(self, thing: str, thing_id: str) -> None:
        """Refuse an id that could leave its folder, or that nothing has."""
        if not ID.fullmatch(thing_id):
            raise ConfigError(
                f"{thing} id {thing_id!r}: need lower-case letters and digits joined by '-' or '.'"
            )
        if thing_id not in self.stems(thing) and thing_id not in self.variants(thing):
            known = self.known(thing)
            raise ConfigError(
                f"{self.root / (thing + 's')}: unknown {thing} {thing_id!r}"
                f"; known: {', '.join(known) or 'none'}{nearest(thing_id, known)}"
            )

    def entry(self, thing: str, thing_id: str) -> Entry:
        """One thing, as its file has it."""
        key = (thing, thing_id)
        if key not in self._entries:
            self.require_known(thing, thing_id)
            own = thing_id in self.stems(thing)
            self._entries[key] = self._of(thing, thing_id, own=own)
        return self._entries[key]

    def _of(self, thing: str, thing_id: str, *, own: bool) -> Entry:
        if own:
            raw, origin = self._raw(thing, thing_id), str(self._path(thing, thing_id))
        else:
            stem = self.variants(thing)[thing_id]
            raw = self._variants_of(thing, stem)[thing_id]
            origin = f"{self._path(thing, stem)}: variants.{thing_id}"
        if not isinstance(raw, Mapping):
            return Entry(origin, raw)
        apart = ("base", "overrides", "variants") if own else ("overrides",)
        content = {key: value for key, value in raw.items() if key not in apart}
        entry = Entry(origin, content, self._overrides(origin, raw.get("overrides", ())))
        if not own:
            return _over(self.entry(thing, stem), entry)
        return _over(self._base(thing, thing_id, raw["base"]), entry) if "base" in raw else entry

    def _base(self, thing: str, thing_id: str, base_id: Any) -> Entry:
        origin = self._path(thing, thing_id)
        known = [one for one in self.stems(thing) if one != thing_id]
        if base_id not in known:
            raise ConfigError(refusal(origin, "base", base_id, known))
        raw = self._raw(thing, base_id)
        if isinstance(raw, Mapping) and "base" in raw:
            raise ConfigError(f"{origin}: base: {base_id!r} has a base itself; allowed: one level")
        return self.entry(thing, base_id)

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
            for thing in ("backbone", "task"):
                for unknown in set(getattr(place, f"{thing}s") or ()) - set(self.known(thing)):
                    known = self.known(thing)
                    raise ConfigError(
                        f"{where}.where.{thing}s: unknown id {unknown!r}; known: "
                        f"{', '.join(known)}{nearest(unknown, known)}"
                    )
            found.append((place, {key: override[key] for key in override if key != "where"}))
        return tuple(found)

    def _raw(self, thing: str, stem: str) -> Any:
        path = self._path(thing, stem)
        if path not in self._files:
            self._files[path] = read_yaml(path)
        return self._files[path]

    def _path(self, thing: str, stem: str) -> Path:
        return self.root / f"{thing}s" / f"{stem}.yaml"


def _over(base: Entry, own: Entry) -> Entry:
    """Lay a thing over what it is derived from; its overrides come after, so they win."""
    if "description" not in own.content:
        raise ConfigError(f"{own.origin}: top level: missing key 'description'")
    content = merged(base.content, own.content, origin=own.origin)
    return Entry(own.origin, content, (*base.overrides, *own.overrides))
