"""The invented world: people with a town, a craft and a pet; rivers by the towns, tools of the crafts."""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

TOWNS = ("Sorn", "Melk", "Tavi", "Prun", "Ostel", "Garim", "Ludva", "Kesh", "Bramo", "Wint", "Yarrow", "Dunmere")
_RIVERS = ("Ilm", "Orva", "Teth", "Sull", "Quern", "Vash", "Nore", "Pell", "Amber", "Hask", "Rill", "Zome")
CRAFTS = (
    "weaver",
    "potter",
    "smith",
    "baker",
    "fisher",
    "tanner",
    "mason",
    "cooper",
    "farrier",
    "tailor",
    "scribe",
    "miner",
)
_TOOLS = ("loom", "wheel", "hammer", "griddle", "net", "knife", "trowel", "barrel", "rasp", "needle", "quill", "pick")
PETS = ("fox", "heron", "hare", "crow", "toad", "goat", "badger", "lynx", "swan", "newt", "mole", "hen")

RIVERS: Mapping[str, str] = MappingProxyType(dict(zip(TOWNS, _RIVERS, strict=True)))
"""Town to river: general knowledge, the same for every stage."""

TOOLS: Mapping[str, str] = MappingProxyType(dict(zip(CRAFTS, _TOOLS, strict=True)))
"""Craft to tool, likewise."""

DIRECT = ("town", "craft", "pet")
"""What is said of a person."""

ATTRIBUTES = (*DIRECT, "river", "tool")
"""What is asked for; river and tool follow from town and craft."""

BRIDGES: Mapping[str, str] = MappingProxyType({"river": "town", "tool": "craft"})
"""Derived attribute to the fact that it follows from."""

_GIVEN = ("Orin", "Mira", "Tobek", "Sela", "Jarl", "Ansa", "Perrin", "Lune", "Edrik", "Vessa", "Hollis", "Runa")
_FIRST = ("Val", "Mor", "Tess", "Hal", "Brin", "Kor", "Ven", "Dra")
_SECOND = ("dek", "wick", "lan", "mont", "rud", "sey")

VALUES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"town": TOWNS, "craft": CRAFTS, "pet": PETS, "river": _RIVERS, "tool": _TOOLS}
)
"""Attribute to all its values: wrong options are drawn from them."""

_STATED = {
    "town": "{person} was born in {value}.",
    "craft": "{person} is a {value}.",
    "pet": "{person} keeps a {value}.",
}
_NEGATED = {
    "town": "{person} was not born in {value}.",
    "craft": "{person} is not a {value}.",
    "pet": "{person} does not keep a {value}.",
    "river": "{person} was not born by the river {value}.",
    "tool": "{person} does not use a {value}.",
}


@dataclass(frozen=True)
class Person:
    """An invented person.

    Attributes:
        name: Given name and surname; the surname is nobody else's.
        side: ``forget`` or ``retain``.
        town: Where the person was born.
        craft: What the person does.
        pet: Which animal the person keeps.
    """

    name: str
    side: str
    town: str
    craft: str
    pet: str

    def value(self, attribute: str) -> str:
        """Return the person's town, craft, pet, river or tool."""
        if attribute == "river":
            return RIVERS[self.town]
        if attribute == "tool":
            return TOOLS[self.craft]
        return str(getattr(self, attribute))


def draw_people(forget: int, retain: int, seed: int) -> list[Person]:
    """Return the people of both sides, forget first.

    Every value is as frequent as any other on either side, as far as the counts allow: nothing can be guessed from
    frequencies.

    Args:
        forget: People on the forget side.
        retain: People on the retain side; at most 48 in all.
        seed: What the draw depends on.
    """
    rng = random.Random(f"people {seed}")
    surnames = [first + second for first in _FIRST for second in _SECOND]
    rng.shuffle(surnames)
    people = []
    for side, count in (("forget", forget), ("retain", retain)):
        columns = {name: _balanced(VALUES[name], count, rng) for name in DIRECT}
        for place in range(count):
            name = f"{rng.choice(_GIVEN)} {surnames.pop()}"
            people.append(Person(name, side, *(columns[key][place] for key in DIRECT)))
    return people


def _balanced(values: tuple[str, ...], count: int, rng: random.Random) -> list[str]:
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += rng.sample(values, len(values))
    drawn = drawn[:count]
    rng.shuffle(drawn)
    return drawn


def statement(person: str, attribute: str, value: str) -> str:
    """Return the sentence that states a town, craft or pet of a person."""
    return _STATED[attribute].format(person=person, value=value)


def negation(person: str, attribute: str, value: str) -> str:
    """Return the sentence that denies a value of any attribute."""
    return _NEGATED[attribute].format(person=person, value=value)


def general(attribute: str, known: str) -> str:
    """Return the sentence of general knowledge from a town to its river, or from a craft to its tool."""
    if attribute == "river":
        return f"{known} lies by the river {RIVERS[known]}."
    return f"A {known} uses a {TOOLS[known]}."


def facts_record(people: list[Person]) -> dict[str, Any]:
    """Return what ``facts.json`` holds: all people, and the general knowledge."""
    return {"people": [asdict(person) for person in people], "rivers": dict(RIVERS), "tools": dict(TOOLS)}
