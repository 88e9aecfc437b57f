r"""Answers with units: ``3\text{ hours and }20\text{ minutes}`` is not 3, and 5 cents are not ``\$5``.

math-verify drops what is written as text, and with it a second number or the difference between two units. Here both
are read; where an answer has neither several parts nor a unit that the other one contradicts, nothing is said and
math-verify decides.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

_TEXT = re.compile(r"\\(?:text|mbox|textrm|textbf|textit|mathrm|operatorname|rm)\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\,|,(?:\\!)?\s?)(?=\d{3}(?!\d))")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|°")
_PERCENT = re.compile(r"\\?%")
_SPACE = re.compile(r"\\[,;:! ]|~|\\q?quad|\s")
_MONEY = {"$": "dollar", "€": "euro", "£": "sterling", "¢": "cent"}
_NUMBER = r"[-+]?\s*(?:\d+(?:\.\d+)?|\.\d+)"
_FRACTION = r"(?:(?P<whole>\d+)\s*)?\\[dt]?frac\s*\{?\s*(?P<up>\d+)\s*\}?\s*\{?\s*(?P<down>\d+)\s*\}?"
# Words are set between ‹ and › by _marked; a power may follow them.
_WORDS = r"‹(?P<words>[^‹›]*)›\s*(?:\^\s*\{?\s*(?P<power>[23])\s*\}?|(?P<raised>[²³]))?"
_SHORT = re.compile(r"(\d\s*)([A-Za-z]{1,2})(?=\s*(?:\^\s*\{?\s*[23]\s*\}?\s*)?$)")
_PART = re.compile(rf"(?P<money>[$€£])?\s*(?:{_FRACTION}|(?P<number>{_NUMBER}))\s*(?:{_WORDS})?")
_LAST = re.compile(rf"(?P<value>[^‹›$€£]*?)\s*{_WORDS}\s*$")
_BETWEEN = re.compile(r"[\s,]*(?:‹\s*(?:and|,)\s*›)?[\s,]*")
_JOINED = re.compile(r"^\s*,?\s*and\b\s*|\s*(?:,\s*)?(?:\band)?\s*$")
_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(rf"\s*({'|'.join(_MAGNITUDES)})\b\s*", re.IGNORECASE)

_INCH, _POUND = Fraction(254, 10000), Fraction(45359237, 100000000)
_UNITS: dict[str, tuple[str, int, Fraction]] = {
    name: (kind, power, Fraction(factor))
    for names, kind, power, factor in (
        ("second sec s", "time", 1, 1),
        ("minute min", "time", 1, 60),
        ("hour hr h", "time", 1, 3600),
        ("day", "time", 1, 86400),
        ("week", "time", 1, 604800),
        ("month", "months", 1, 1),
        ("year yr", "months", 1, 12),
        ("millimeter millimetre mm", "length", 1, Fraction(1, 1000)),
        ("centimeter centimetre cm", "length", 1, Fraction(1, 100)),
        ("meter metre m", "length", 1, 1),
        ("kilometer kilometre km", "length", 1, 1000),
        ("inch inches inche in", "length", 1, _INCH),
        ("foot feet ft", "length", 1, 12 * _INCH),
        ("yard yd", "length", 1, 36 * _INCH),
        ("mile mi", "length", 1, 63360 * _INCH),
        ("milliliter millilitre ml", "length", 3, Fraction(1, 10**6)),
        ("liter litre l", "length", 3, Fraction(1, 1000)),
        ("gallon gal", "length", 3, 231 * _INCH**3),
        ("quart qt", "length", 3, 231 * _INCH**3 / 4),
        ("pint", "length", 3, 231 * _INCH**3 / 8),
        ("milligram mg", "mass", 1, Fraction(1, 10**6)),
        ("gram g", "mass", 1, Fraction(1, 1000)),
        ("kilogram kg", "mass", 1, 1),
        ("ounce oz", "mass", 1, _POUND / 16),
        ("pound lb", "mass", 1, _POUND),
        ("cent", "dollars", 1, Fraction(1, 100)),
        ("dollar buck", "dollars", 1, 1),
        ("euro", "euros", 1, 1),
        ("sterling", "sterling", 1, 1),
        ("degree deg", "degrees", 1, 1),
        ("percent", "percent", 1, 1),
    )
    for name in names.split()
}


@dataclass(frozen=True)
class Unit:
    """A unit: the powers of what it measures, and how many base units it is; or words that are no known unit.

    Attributes:
        powers: What it measures and to which power, sorted; empty for words.
        factor: Base units in one.
        words: The words, where they are no known unit.
    """

    powers: tuple[tuple[str, int], ...]
    factor: Fraction = Fraction(1)
    words: str = ""


@dataclass(frozen=True)
class Part:
    """A value and its unit, e.g. the 20 minutes of 3 hours and 20 minutes.

    Attributes:
        value: As it is written, without unit and magnitude.
        magnitude: Power of ten that stands there as a word, e.g. 6 for million.
        unit: The unit; None where there is none.
        exact: The value, where it is a number.
    """

    value: str
    magnitude: int
    unit: Unit | None
    exact: Fraction | None

    @property
    def scaled(self) -> str:
        """The value in LaTeX, magnitude included."""
        return rf"({self.value})\cdot 10^{{{self.magnitude}}}" if self.magnitude else self.value


def as_values(gold: str, answer: str) -> tuple[str, str] | bool | None:
    """Return what units make of two answers.

    Args:
        gold: The gold answer.
        answer: The other.

    Returns:
        Whether they are equal; or two values to compare, gold's first; or None where units decide nothing.
    """
    wanted, given = read_quantity(gold), read_quantity(answer)
    if len(wanted) > 1 or len(given) > 1:
        totals = _total(wanted), _total(given)
        if totals != (None, None) and (_compound(wanted) or _compound(given)):
            return totals[0] == totals[1]
        if len(wanted) > 1 and len(given) > 1:
            return None if _amounts(wanted) == _amounts(given) else False
        return False if _is_one_number(gold, wanted) or _is_one_number(answer, given) else None
    if not wanted and not given:
        return None
    one, other = (wanted[0] if wanted else None), (given[0] if given else None)
    units = [part.unit for part in (one, other) if part is not None and part.unit is not None and part.unit.powers]
    if one is not None and other is not None and len(units) == 2 and units[0] != units[1]:
        if units[0].powers != units[1].powers:
            return False
        ratio = units[1].factor / units[0].factor
        return one.scaled, rf"({other.scaled})\cdot\frac{{{ratio.numerator}}}{{{ratio.denominator}}}"
    if (one and one.magnitude) or (other and other.magnitude):
        return one.scaled if one else gold, other.scaled if other else answer
    return None


def read_quantity(text: str) -> list[Part]:
    """Return the parts of an answer that is numbers with units or words; none where it is something else."""
    marked = _marked(text)
    if "‹" not in marked and not any(sign in marked for sign in _MONEY):
        return []
    return _numbers(marked) or _one_value(marked)


def _marked(text: str) -> str:
    """Return the text with its words between ‹ and ›, and plain spaces."""
    text = _THOUSANDS.sub("", text).replace(r"\$", "$")
    text = _DEGREES.sub(r"\\text{degrees}", text).replace("¢", r"\text{cents}")
    text = _PERCENT.sub(r"\\text{percent}", text)
    pieces, place = [], 0
    for found in _TEXT.finditer(text):
        pieces += [_bare_words(text[place : found.start()]), f"‹{found[1]}›"]
        place = found.end()
    marked = _SPACE.sub(" ", "".join([*pieces, _bare_words(text[place:])]))
    marked = re.sub(r"‹([^‹›]*?)(\$)\s*›", r"\2‹\1›", marked)  # \text{\$}5
    # "hours and 20 minutes", said in one text: its numbers stand outside of it like any others.
    marked = re.sub(r"‹[^‹›]*›", lambda found: re.sub(r"(\d+(?:\.\d+)?)", r"›\1‹", found[0]), marked)
    return re.sub(r"‹\s*›", " ", re.sub(r"›\s*‹", " ", marked)).strip(" .")


def _bare_words(text: str) -> str:
    """Mark words outside of any text, where they are units or join units: other letters may be variables."""

    def word(found: re.Match[str]) -> str:
        known = found[0].lower() in ("and", "per", "square", "cubic", "percent", *_MAGNITUDES) or _unit(found[0])
        return f"‹{found[0]}›" if known else found[0]

    marked = re.sub(r"(?<![\\A-Za-z])[A-Za-z]{3,}(?![A-Za-z])", word, text)
    # Short ones where they end a number: two variables differ as two units do.
    return _SHORT.sub(lambda found: f"{found[1]}‹{found[2]}›" if _unit(found[2]) else found[0], marked)


def _numbers(marked: str) -> list[Part]:
    """Return the parts where all of it is numbers with units, e.g. ``3‹hours and›20‹minutes›``."""
    parts, place = [], 0
    while place < len(marked):
        found = _PART.match(marked, place)
        if found is None or not (found["words"] or found["money"] or not parts):
            return []
        parts.append(_part(found))
        between = _BETWEEN.match(marked, found.end())
        place = between.end() if between else found.end()
    said = [part for part in parts if part.unit is not None or part.magnitude]
    return parts if len(said) == len(parts) else []


def _part(found: re.Match[str]) -> Part:
    end = found.start("words") - 1 if found["words"] is not None else found.end()
    written = found[0][: end - found.start()].strip(" $€£")
    exact: Fraction | None = None
    if found["number"] is not None:
        exact = Fraction(found["number"].replace(" ", ""))
    elif int(found["down"]):
        exact = Fraction(int(found["up"]), int(found["down"])) + int(found["whole"] or 0)
    magnitude, unit = _named(found)
    if found["money"] and unit is None:
        unit = _unit(_MONEY[found["money"]])
    return Part(written, magnitude, unit, exact)


def _one_value(marked: str) -> list[Part]:
    r"""Return the one part of a value that is more than a number, e.g. ``12\pi‹cm›^2``."""
    found = _LAST.fullmatch(marked)
    if found is None or not found["value"].strip():
        return []
    magnitude, unit = _named(found)
    return [Part(found["value"].strip(), magnitude, unit, None)] if unit is not None or magnitude else []


def _named(found: re.Match[str]) -> tuple[int, Unit | None]:
    """Return the magnitude and the unit that the words behind a value name."""
    words = _JOINED.sub("", found["words"] or "").strip(" .")
    magnitude = 0
    while scaled := _SCALED.match(words):
        magnitude += _MAGNITUDES[scaled[1].lower()]
        words = words[scaled.end() :].strip()
    power = int(found["power"] or {"²": 2, "³": 3, None: 1}[found["raised"]])
    words = re.sub(r"^of\s+", "", words)
    return magnitude, (_unit(words, power) or Unit((), words=" ".join(words.lower().split()))) if words else None


def _unit(words: str, power: int = 1) -> Unit | None:
    """Return the unit that words name; None where they name none."""
    words = {"mph": "miles per hour", "kph": "km per hour"}.get(words.lower().strip(), words)
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for place, name in enumerate(re.split(r"\s+per\s+|\s*/\s*", words)):
        sign = 1 if place == 0 else -1
        each = power if place == 0 else 1
        for pattern, raised in ((r"^(?:square|sq\.?)\s+|\s+squared$", 2), (r"^(?:cubic|cu\.?)\s+|\s+cubed$", 3)):
            name, several = re.subn(pattern, "", name.strip().lower())
            each = raised if several else each
        known = _UNITS.get(name.rstrip(".")) or _UNITS.get(name.rstrip(".").removesuffix("s"))
        if known is None:
            return None
        kind, own, size = known
        powers[kind] = powers.get(kind, 0) + sign * each * own
        factor *= size ** (sign * each)
    return Unit(tuple(sorted(powers.items())), factor)


def _total(parts: list[Part]) -> tuple[object, Fraction] | None:
    """Return what is measured, and the sum in base units; None where parts measure several things, or nothing known."""
    kinds = {part.unit.powers if part.unit is not None else () for part in parts}
    if len(kinds) != 1 or kinds == {()} or any(part.exact is None for part in parts):
        return None
    total = sum(part.exact * 10**part.magnitude * part.unit.factor for part in parts if part.exact and part.unit)
    return next(iter(kinds)), Fraction(total)


def _compound(parts: list[Part]) -> bool:
    """Return whether parts are one amount, as 3 hours and 20 minutes are, and no list, as 5 cm and 6 cm are."""
    factors = [part.unit.factor for part in parts if part.unit is not None]
    return len(parts) > 1 and _total(parts) is not None and all(one > two for one, two in pairwise(factors))


def _amounts(parts: list[Part]) -> list[tuple[str, int]]:
    return sorted((str(part.exact or part.value), part.magnitude) for part in parts)


def _is_one_number(text: str, parts: list[Part]) -> bool:
    return len(parts) == 1 or re.fullmatch(r"[-+]?\d*\.?\d+", _THOUSANDS.sub("", text).strip()) is not None
