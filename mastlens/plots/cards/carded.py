"""Results that show themselves: a card in a notebook, a few lines on a terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mastlens.plots.cards.card import Card


class Carded:
    """A result with a card: what it says in a sentence, the rows that matter, and the next call.

    A result is a frozen dataclass with ``repr=False``, so that its card takes the place of a dump of its tables; these
    are shown in full by asking for them (``result.table``).
    """

    def card(self) -> "Card":
        """Return the card."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return self.card().html

    def __repr__(self) -> str:
        return self.card().text
