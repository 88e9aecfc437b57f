"""Analogous worked solutions for a problem: at random, by words (BM25), or by an encoder that is trained for it.

RA-RFT (arXiv:2606.13680): an encoder is trained by InfoNCE so that problem and solution that share a method lie close,
and the nearest solution stands in the prompt. The organism knows its methods, so that no labels have to be asked for.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from mastlens.errors import MissingPackage, NotSupported, NotTogether, unknown
from mastlens.organisms.problems import SyntheticProblem, draw_split

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from mastlens.organisms.rlvr.recipe import Run

WAYS = ("learnt", "bm25", "random")
"""How a demonstration is found."""

TEMPERATURE = 0.05
"""tau of InfoNCE; the paper's."""

_WIDTH, _BATCH, _RATE = 64, 64, 1e-2  # of an encoder for a few hundred words


@runtime_checkable
class Retriever(Protocol):
    """Anything that finds a demonstration for each of some problems."""

    def nearest(self, problems: Sequence[str]) -> list[int]:
        """Return the place, among the demonstrations, of the one for each problem."""
        ...


@dataclass(frozen=True)
class AtRandom:
    """Any demonstration, the same for the same problem.

    Attributes:
        count: How many there are.
        seed: Of the draw.
    """

    count: int
    seed: int

    def nearest(self, problems: Sequence[str]) -> list[int]:
        """Return a place for each problem."""
        return [random.Random(f"{self.seed} {one}").randrange(self.count) for one in problems]


class ByWords:
    """The demonstration that shares the rarest words: BM25, by bm25s.

    Args:
        texts: The demonstrations.

    Raises:
        MastlensError: If bm25s is not installed.
    """

    def __init__(self, texts: Sequence[str]):
        self._bm25s = _needed("bm25s")
        self.index = self._bm25s.BM25()
        self.index.index(self._tokens(texts), show_progress=False)

    def nearest(self, problems: Sequence[str]) -> list[int]:
        """Return the place of the best for each problem."""
        found, _ = self.index.retrieve(self._tokens(problems), k=1, show_progress=False)
        return [int(row[0]) for row in found]

    def _tokens(self, texts: Sequence[str]) -> Any:
        # Numbers are one of a kind, and would be the rarest words of all.
        return self._bm25s.tokenize(
            list(texts), stopwords=[], token_pattern=r"[^\W\d]+|[-+*/=]", return_ids=False, show_progress=False
        )


class ByEncoder:
    """The demonstration whose encoding has the largest inner product with the problem's: faiss, exact.

    Args:
        encoder: See ``fit_encoder``.
        tokenizer: What its texts are cut by.
        texts: The demonstrations.

    Raises:
        MastlensError: If faiss is not installed.
    """

    def __init__(self, encoder: "nn.Module", tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]):
        self.encoder, self.tokenizer = encoder, tokenizer
        self.index = _needed("faiss").IndexFlatIP(_WIDTH)
        self.index.add(self._encoded(texts))

    def nearest(self, problems: Sequence[str]) -> list[int]:
        """Return the place of the nearest for each problem."""
        _, places = self.index.search(self._encoded(problems), 1)
        return [int(place) for place in places[:, 0]]

    def _encoded(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        with torch.no_grad():
            return encode(self.encoder, ids_of(self.tokenizer, texts)).numpy().astype(np.float32)


def _needed(package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise MissingPackage(
            f"Retrieval needs {package} ({error}). pip install 'mastlens[retrieval]', or take the recipe "
            "ra-rft-random, which needs nothing."
        ) from error


def ids_of(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> "list[Tensor]":
    """Return the tokens of each text."""
    import torch

    return [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def encode(encoder: "nn.Module", texts: "Sequence[Tensor]") -> "Tensor":
    """Return each text's encoding, (texts, width): the mean of its tokens' vectors, of length 1."""
    import torch

    starts = torch.tensor([0, *(len(one) for one in texts[:-1])]).cumsum(0)
    return torch.nn.functional.normalize(encoder(torch.cat(list(texts)), starts), dim=-1)


def info_nce(queries: "Tensor", candidates: "Tensor", methods: Sequence[Any], temperature: float) -> "Tensor":
    """Return the mean of -log exp(q_i c_i / tau) / sum_j exp(q_i c_j / tau), j over i and all of other methods.

    Args:
        queries: Encodings, (n, width).
        candidates: Encodings of one text of the same method each, (n, width).
        methods: The method of each pair: another pair of it is no negative.
        temperature: tau.
    """
    import torch

    logits = queries @ candidates.T / temperature
    number = {method: place for place, method in enumerate(dict.fromkeys(methods))}
    labels = torch.tensor([number[method] for method in methods])
    same = (labels[:, None] == labels[None]) & ~torch.eye(len(labels), dtype=torch.bool)
    return torch.nn.functional.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(len(labels)))


def fit_encoder(
    demonstrations: Sequence[SyntheticProblem], tokenizer: "PreTrainedTokenizerBase", *, steps: int, seed: int
) -> "nn.Module":
    """Return an encoder trained from nothing on pairs of demonstrations that share a method.

    Args:
        demonstrations: Problems with solutions; a pair is the problem of one and the text of another.
        tokenizer: What texts are cut by.
        steps: Training steps.
        seed: Of what it begins with, and of the pairs.
    """
    import torch

    torch.manual_seed(seed)
    encoder = torch.nn.EmbeddingBag(len(tokenizer), _WIDTH, mode="mean")
    optimiser = torch.optim.Adam(encoder.parameters(), lr=_RATE)
    problems = ids_of(tokenizer, [one.problem for one in demonstrations])
    texts = ids_of(tokenizer, [text_of(one) for one in demonstrations])
    places: dict[str, list[int]] = {}
    for place, one in enumerate(demonstrations):
        places.setdefault(one.subject, []).append(place)
    methods = [method for method, those in places.items() if len(those) > 1]
    if len(methods) < 2:
        raise NotSupported("A retriever learns from at least two methods with two demonstrations each: take more.")
    rng = random.Random(f"pairs {seed}")
    for _ in range(steps):
        chosen = [methods[number % len(methods)] for number in range(_BATCH)]
        pairs = [rng.sample(places[method], 2) for method in chosen]
        queries = encode(encoder, [problems[one] for one, _ in pairs])
        candidates = encode(encoder, [texts[other] for _, other in pairs])
        optimiser.zero_grad()
        info_nce(queries, candidates, chosen, TEMPERATURE).backward()
        optimiser.step()
    return encoder.requires_grad_(False)


def text_of(demonstration: SyntheticProblem) -> str:
    """Return a demonstration as it stands in a prompt."""
    return f"{demonstration.problem}\n{demonstration.solution}"


def demonstrations_for(run: "Run", count: int) -> list[SyntheticProblem]:
    """Return worked problems of the methods that a run asks for and of no others, none of which it asks."""
    subjects = sorted({one.subject for one in run.problems})
    asked = {one.key for one in run.problems}
    drawn = draw_split(subjects, count + len(asked), "train", run.lineage_seed + 11)
    return [one for one in drawn if one.key not in asked][:count]


def make_retriever(way: str, demonstrations: Sequence[SyntheticProblem], run: "Run", *, steps: int) -> Retriever:
    """Return what finds demonstrations.

    Args:
        way: One of ``WAYS``.
        demonstrations: What there is to find.
        run: Whose tokenizer and seed are taken.
        steps: Training steps of the learnt one.

    Raises:
        MastlensError: If there is no such way, or a package is missing.
    """
    texts = [text_of(one) for one in demonstrations]
    if way == "random":
        return AtRandom(len(texts), run.lineage_seed)
    if way == "bm25":
        return ByWords(texts)
    if way != "learnt":
        raise unknown("way to retrieve", way, WAYS)
    _needed("faiss")  # before training, not after it
    return ByEncoder(
        fit_encoder(demonstrations, run.tokenizer, steps=steps, seed=run.lineage_seed), run.tokenizer, texts
    )


def with_demonstrations(
    problems: Sequence[SyntheticProblem], demonstrations: Sequence[SyntheticProblem], retriever: Retriever
) -> tuple[list[SyntheticProblem], float]:
    """Return the problems with a demonstration in front of each, and the share of these that share its method.

    Raises:
        MastlensError: If the retriever names a demonstration that there is not: its index is of another corpus.
    """
    places = retriever.nearest([one.problem for one in problems])
    if wrong := [place for place in places if not 0 <= place < len(demonstrations)]:
        raise NotTogether(
            f"The index names demonstration {wrong[0]}, and there are {len(demonstrations)}: it was made of another "
            "corpus. Make it anew from these demonstrations."
        )
    found = [demonstrations[place] for place in places]
    shown = [
        replace(one, problem=f"{text_of(other)}\n{one.problem}") for one, other in zip(problems, found, strict=True)
    ]
    same = [one.subject == other.subject for one, other in zip(problems, found, strict=True)]
    return shown, sum(same) / len(same)


def check_length(run: "Run", problems: Sequence[SyntheticProblem]) -> None:
    """Raise unless each prompt fits the model's context with the longest response.

    Raises:
        MastlensError: That says which lengths there are.
    """
    from mastlens.problems.encoding import context_length

    limit = context_length(run.model.config)
    longest = max(len(run.tokenizer(f"{one.problem}\n")["input_ids"]) for one in problems)
    if limit is not None and longest + run.numbers.max_new_tokens > limit:
        raise NotSupported(
            f"With a demonstration the longest prompt has {longest} tokens; with a response of up to "
            f"{run.numbers.max_new_tokens} that is more than the model's {limit}. Take a lineage with a longer context."
        )


def accuracies(
    run: "Run", demonstrations: Sequence[SyntheticProblem], retriever: Retriever, label: str
) -> dict[str, Any]:
    """Return accuracy on calibration problems with and without retrieval, compared item by item.

    Only problems of the demonstrations' methods are asked.

    Args:
        run: Whose model answers.
        demonstrations: What there is to find.
        retriever: What finds it.
        label: Of the progress bar.
    """
    from mastlens.organisms.splits import calibration_splits
    from mastlens.organisms.stage_accuracy import measure_responses
    from mastlens.statistics import mcnemar_exact, paired_counts

    known = {one.subject for one in demonstrations}
    splits = calibration_splits(run.numbers, run.lineage_seed)
    plain = {name: kept for name, those in splits.items() if (kept := [one for one in those if one.subject in known])}
    shown: Mapping[str, list[SyntheticProblem]] = {
        name: with_demonstrations(those, demonstrations, retriever)[0] for name, those in plain.items()
    }
    training, right = run.model.training, {}
    for how, given in (("without", plain), ("with", shown)):
        table = measure_responses(
            run.model.eval(), run.tokenizer, given, run.numbers.max_new_tokens, f"{label}, {how} retrieval"
        )
        right[how] = table["correct"].to_numpy(dtype=bool)
    run.model.train(training)
    _, b, c, _ = paired_counts(right["without"], right["with"])
    shares = {how: float(values.mean()) for how, values in right.items()}
    return {"n": len(right["with"]), **shares, "b": b, "c": c, "mcnemar_p": mcnemar_exact(b, c)}
