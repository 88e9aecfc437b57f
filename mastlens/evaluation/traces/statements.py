"""What a trace says about people: sentences read into statements, each with whom it is about and whether it denies.

The grammar is the organism's: a person was born in a town, is a craft, keeps a pet; by the river, uses a tool; "So the
river is ..."; "That is option B."; and the negation of each. A statement counts only if it is attributed to somebody:
named, or by "he", "she" and "they" referring to the last person named.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from mastlens.evaluation.multiple_choice import LETTERS
from mastlens.evaluation.traces.facts import ATTRIBUTES, Facts

_SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?\n]+\s*|$)")
_CLAUSE = re.compile(r"[,;:]|\s+(?:but|and|so that|because|while)\s+", re.IGNORECASE)
_DENIAL = re.compile(r"\b(?:not|never|no|neither|nor|cannot|isn't|wasn't|doesn't|didn't|false|wrong)\b|n[’']t\b", re.I)
_VALUE = r"[\"'*(]*(?P<value>\w[^.?!,;:\n]*)"
_PRONOUN = r"(?:he|she|they)"
# Behind the person; "not" is looked for in the words that are matched and in those in front of them.
_OF_PERSON = {
    "river": r"(?:was|were)\s+(?:\w+\s+){0,2}?born\s+by\s+(?:the\s+)?river\s+" + _VALUE,
    "town": r"(?:was|were)\s+(?:\w+\s+){0,2}?born\s+in\s+" + _VALUE,
    "pet": r"(?:(?:do|does|did)\s+(?:not|never)\s+)?(?:keeps?|kept)\s+(?:an?\s+|the\s+)" + _VALUE,
    "tool": r"(?:(?:do|does|did)\s+(?:not|never)\s+)?(?:uses?|used)\s+(?:an?\s+|the\s+)" + _VALUE,
    "craft": r"(?:is|was|are|were)\s+(?:not\s+|never\s+)?(?:an?\s+)" + _VALUE,
}
_CONCLUSION = re.compile(
    rf"\b(?:the|his|her|their)\s+(?P<attribute>{'|'.join(ATTRIBUTES)})\s+(?:is|was|must\s+be)\s+"
    rf"(?:not\s+)?(?:called\s+|named\s+|an?\s+|the\s+)?{_VALUE}",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\boxed\s*\{\s*(?P<value>[^{}]*?)\s*\}")
_LETTER = re.compile(  # the letter alone is told from "a" by its capital
    r"(?i:\b(?:that|it|this|which|answer|choice|option)\s+(?:is|must\s+be)\s+(?:not\s+)?(?:the\s+)?(?:option\s+|answer\s+)?)"
    r"\(?(?P<letter>[A-J])\)?(?!\w)"
    r"|(?i:\b(?:option|answer)\s+)\(?(?P<of>[A-J])\)?"
    r"(?i:\s+is\s+(?:not\s+)?(?:the\s+)?(?:right|correct|wrong|false|answer)\b)",
)
_BARE_LETTER = re.compile(r"\W*(?:answer\W+)?\(?(?P<letter>[A-J])\)?\W*", re.IGNORECASE)
_BARE = 80  # characters; a longer text is more than an answer
CONCLUDED = ""
"""The attribute of a value that is given as the answer without a word of what it is, e.g. in a box."""


@dataclass(frozen=True)
class Statement:
    """Something said.

    Attributes:
        attribute: What it is about: an attribute, ``option`` for a letter, or ``""`` for a value given as the answer.
        value: The value, as the facts spell it; a letter for ``option``.
        denied: Whether it says that this is not so.
        person: Of whom; empty for a conclusion, which answers the question whoever was named last.
        general: Whether it is general knowledge ("Sorn lies by the river Ilm"): then ``value`` is the town or craft.
        speaking_of: The person named last before it or in it; empty for nobody.
    """

    attribute: str
    value: str
    denied: bool
    person: str = ""
    general: bool = False
    speaking_of: str = ""


@dataclass(frozen=True)
class Sentence:
    """A sentence of a trace.

    Attributes:
        text: The sentence with the white space behind it: all sentences joined are the trace.
        statements: What it says.
    """

    text: str
    statements: tuple[Statement, ...]


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, which joined give the text back."""
    return [found[0] for found in _SENTENCE.finditer(text) if found[0]]


@dataclass(frozen=True)
class Reader:
    """Reads traces about the people of some facts.

    Attributes:
        facts: The facts: whose names and which values there are.
    """

    facts: Facts

    def read(self, trace: str, *, options: tuple[str, ...] = ()) -> list[Sentence]:
        """Return the sentences of a trace with what they say.

        A bare letter or value, with nothing beside it, is an answer.

        Args:
            trace: The trace.
            options: More values to know, e.g. a question's options.
        """
        sentences, person = [], ""
        for text in split_sentences(trace):
            statements: list[Statement] = []
            if not text.rstrip().endswith("?"):
                for clause in _CLAUSE.split(text):
                    person = self._named(clause) or person
                    statements += self._statements(clause, person, options)
            person = self._named(text) or person
            sentences.append(Sentence(text, tuple(statements)))
        if 0 < len(trace) <= _BARE and not any(sentence.statements for sentence in sentences):
            return [Sentence(trace, tuple(_bare(trace, options)))]
        return sentences

    def _statements(self, clause: str, person: str, options: tuple[str, ...]) -> Iterator[Statement]:
        for attribute, pattern in self._patterns.items():
            for found in pattern.finditer(clause):
                if (value := self._value(attribute, found["value"], options)) is not None:
                    about = person if re.fullmatch(_PRONOUN, found["person"], re.I) else self._name(found["person"])
                    if about:
                        yield Statement(attribute, value, _denied(clause, found), about, speaking_of=person)
        for found in _CONCLUSION.finditer(clause):
            attribute = found["attribute"].lower()
            if (value := self._value(attribute, found["value"], options)) is not None:
                yield Statement(attribute, value, _denied(clause, found), speaking_of=person)
        for found in _BOX.finditer(clause):
            yield Statement(CONCLUDED, found["value"], False, speaking_of=person)
        for found in _LETTER.finditer(clause):
            letter = found["letter"] or found["of"]
            yield Statement("option", letter, _denied(clause, found), speaking_of=person)
        for direct, pattern in self._general.items():
            for found in pattern.finditer(clause):
                value = self._known[direct][found["known"].casefold()]
                yield Statement(direct, value, _denied(clause, found), general=True, speaking_of=person)

    @cached_property
    def _names(self) -> dict[str, str]:
        return {name.casefold(): name for name in self.facts.people}

    @cached_property
    def _people(self) -> str:
        return "|".join(re.escape(name) for name in sorted(self.facts.people, key=len, reverse=True))

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        who = rf"(?<!\w)(?P<person>{self._people}|{_PRONOUN})(?!\w)"
        return {key: re.compile(rf"{who}\s+{rest}", re.IGNORECASE) for key, rest in _OF_PERSON.items()}

    @cached_property
    def _general(self) -> dict[str, re.Pattern[str]]:
        towns, crafts = (_any(self._known[key].values()) for key in ("town", "craft"))
        return {
            "town": re.compile(rf"{towns}\s+(?:\w+\s+){{0,2}}?(?:lies?|lay)\s+by\s+(?:the\s+)?river\b", re.IGNORECASE),
            "craft": re.compile(rf"(?<!\w)an?\s+{crafts}\s+(?:\w+\s+){{0,2}}?uses?\s+an?\s", re.IGNORECASE),
        }

    @cached_property
    def _anybody(self) -> re.Pattern[str]:
        return re.compile(rf"(?<!\w)(?:{self._people})(?!\w)", re.IGNORECASE)

    def _named(self, text: str) -> str:
        """Return the person whom a text names last; empty for nobody."""
        found = self._anybody.findall(text)
        return self._name(found[-1]) if found else ""

    def _name(self, text: str) -> str:
        return self._names.get(text.casefold(), "")

    @cached_property
    def _known(self) -> dict[str, dict[str, str]]:
        return {key: {value.casefold(): value for value in self.facts.values(key)} for key in ATTRIBUTES}

    def _value(self, attribute: str, text: str, options: tuple[str, ...]) -> str | None:
        """Return the known value that a text begins with, the longest if several do."""
        known = self._known[attribute] | {option.casefold(): option for option in options}
        said = text.casefold()
        fitting = [key for key in known if re.match(re.escape(key) + r"(?!\w)", said)]
        return known[max(fitting, key=len)] if fitting else None


def _denied(clause: str, found: re.Match[str]) -> bool:
    """Return whether a clause denies what was found in it: a denial in what was found or in front, not in its value."""
    end = found.start("value") if found.groupdict().get("value") else found.end()
    return _DENIAL.search(clause[:end]) is not None


def answered_letter(text: str, options: tuple[str, ...]) -> str | None:
    """Return the letter that an answer gives: alone, before its option, or as "the answer is B"; None for none."""
    said = " ".join(text.split()).strip(" .*()")
    listed = [letter for letter, option in zip(LETTERS, options, strict=False) if said == f"{letter}. {option}"]
    if found := _BARE_LETTER.fullmatch(text):
        listed = [found["letter"].upper()]
    concluded = [found["letter"] for found in _LETTER.finditer(text) if found["letter"] and not _denied(text, found)]
    letters = listed or concluded[-1:]
    return letters[0] if letters and letters[0] in LETTERS[: len(options)] else None


def _bare(text: str, options: tuple[str, ...]) -> Iterator[Statement]:
    """Yield the answer that a text is, with nothing beside it: a letter, a letter and its option, or a value."""
    letter = answered_letter(text, options)
    yield Statement(CONCLUDED, text.strip(" \n.*()"), False) if letter is None else Statement("option", letter, False)


def _any(names: Iterable[str]) -> str:
    longest = sorted(names, key=len, reverse=True)
    return rf"(?<!\w)(?P<known>{'|'.join(map(re.escape, longest))})(?!\w)" if longest else r"(?!)"
