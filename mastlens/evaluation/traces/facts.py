"""Facts about invented people, and the general knowledge that more follow from: the organism's ``facts.json``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mastlens.errors import BadFile, NotFound, unknown
from mastlens.runs.reading import read_object

DIRECT = ("town", "craft", "pet")
"""What is said of a person."""

DERIVED: Mapping[str, str] = {"river": "town", "tool": "craft"}
"""What follows by general knowledge: derived attribute to the fact that it follows from."""

ATTRIBUTES = (*DIRECT, *DERIVED)


@dataclass(frozen=True)
class Facts:
    """A world of people.

    Attributes:
        people: Name to the person's facts, attribute to value, derived ones included.
        forget: Names of those on the forget side.
        general: Derived attribute to the map that it follows by, e.g. ``river`` to {town: river}.
    """

    people: Mapping[str, Mapping[str, str]]
    forget: frozenset[str]
    general: Mapping[str, Mapping[str, str]]

    def person(self, name: str) -> Mapping[str, str]:
        """Return a person's facts.

        Raises:
            MastlensError: If there is no such person.
        """
        if name not in self.people:
            raise unknown("person in the facts", name, self.people)
        return self.people[name]

    def implied(self, attribute: str, value: str) -> dict[str, str]:
        """Return all that one fact says of a person, by general knowledge: attribute to value, itself included.

        A river implies a town where only that town lies by it.
        """
        found = {attribute: value}
        for derived, direct in DERIVED.items():
            known = self.general[derived]
            if attribute == direct and value in known:
                found[derived] = known[value]
            if attribute == derived:
                sources = [source for source, reached in known.items() if reached == value]
                found |= {direct: sources[0]} if len(sources) == 1 else {}
        return found

    def values(self, attribute: str) -> set[str]:
        """Return every value that somebody has, or general knowledge names, of an attribute."""
        named = {facts[attribute] for facts in self.people.values() if attribute in facts}
        for derived, direct in DERIVED.items():
            named |= set(self.general[derived]) if attribute == direct else set()
            named |= set(self.general[derived].values()) if attribute == derived else set()
        return named


def read_facts(path: str | os.PathLike[str]) -> Facts:
    """Read ``people`` (each with name, side, town, craft, pet), ``rivers`` (town to river), ``tools`` (craft to tool).

    Raises:
        MastlensError: If the file is missing or of another form.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFound(f"There is no file of facts {path}. The organism's is facts.json in its folder.")
    record = read_object(path, "a JSON object of facts")
    try:
        general = {"river": _texts(record["rivers"]), "tool": _texts(record["tools"])}
        people = {}
        for one in record["people"]:
            facts = _texts({attribute: one[attribute] for attribute in DIRECT})
            facts |= {d: general[d][facts[source]] for d, source in DERIVED.items() if facts[source] in general[d]}
            people |= dict.fromkeys(_texts({"name": one["name"]}).values(), facts)
        forget = frozenset(one["name"] for one in record["people"] if one["side"] == "forget")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFile(
            f"{path} does not hold facts ({error!r}). Expected are 'people' (each with name, side, town, craft, pet), "
            "'rivers' (town to river) and 'tools' (craft to tool)."
        ) from error
    if not people:
        raise BadFile(f"{path} names no people.")
    return Facts(people, forget, general)


def _texts(values: Mapping[str, str]) -> dict[str, str]:
    """Return a mapping of texts as such, and raise for any that is none."""
    if wrong := [value for value in values.values() if not isinstance(value, str)]:
        raise TypeError(f"{str(wrong[0])[:60]} is no text")
    return dict(values)
