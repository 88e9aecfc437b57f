"""What the models of a study say themselves: drawn once for each seed, before the arms that learn from it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mastlens.problems.encoding import EncodedProblem
from mastlens.runs.files import write_table
from mastlens.runs.stages import stage
from mastlens.studies.bench import Bench
from mastlens.studies.settings import FORGET, RETAIN, StudySettings
from mastlens.unlearning.objectives import Objective, OutputObjective, make_objective
from mastlens.unlearning.rewinding import FILE, PARTIAL, Imitated, Responses, imitated, table_of

if TYPE_CHECKING:
    from mastlens.studies.arms import Arm

FOLDER = "own-responses"


@dataclass(frozen=True)
class OwnTexts:
    """What models said themselves, in the place of reference solutions.

    Attributes:
        forget: The SFT model's responses to the forget problems.
        retain: The source's own to the retain problems.
        imitated: What the SFT model says at the tokens of ``forget``, where whole distributions are imitated.
    """

    forget: list[EncodedProblem]
    retain: list[EncodedProblem]
    imitated: Imitated | None


def responses_file(out: Path, seed: int) -> Path:
    """Return the file of the responses that arms of a seed learn from."""
    return out / FOLDER / f"seed-{seed}" / FILE


def draw_responses(
    settings: StudySettings, bench: Bench, arms: "Sequence[Arm]", out: Path, *, overwrite: bool, progress: bool
) -> None:
    """Draw the responses of every seed that an arm learns from, each a stage of its own; what is there stays.

    Args:
        settings: The study.
        bench: Its models and problems.
        arms: Its arms.
        out: Its folder.
        overwrite: Replace responses drawn in another way.
        progress: Whether to show how far it is.
    """
    imitating = [arm for arm in arms if arm.kind == "matched" and make_objective(**arm.making).needs.own_responses]
    for seed in dict.fromkeys(arm.seed for arm in imitating):
        folder = responses_file(out, seed).parent
        asked = {**asdict(settings.drawn), "seed": seed, "chat_template": settings.decoding.chat_template}
        pair = {"rlvr": bench.checkpoint, "sft": bench.sft}
        with stage(
            folder,
            FOLDER,
            outputs=[FILE],
            lineage={role: checkpoint.fingerprint for role, checkpoint in pair.items()},
            behaviour={role: checkpoint.behaviour for role, checkpoint in pair.items()},
            inputs={role: digest for role, digest in bench.inputs.items() if role.endswith("-train")},
            settings=asked,
            device=bench.device,
            overwrite=overwrite,
            partial=PARTIAL,
        ) as current:
            if current.done:
                continue
            key = [asked, bench.inputs, *(checkpoint.behaviour_digest for checkpoint in pair.values())]
            drawn = _responses(settings, bench, seed, out=folder, key=key)
            said = [
                drawn.of(FORGET, bench.sft, bench.problems[FORGET], lambda: load_sft(bench), progress),
                drawn.of(RETAIN, bench.checkpoint, bench.problems[RETAIN], lambda: bench.model, progress),
            ]
            write_table(folder / FILE, table_of(said))


def own_texts(settings: StudySettings, bench: Bench, out: Path, seed: int, objective: Objective) -> OwnTexts | None:
    """Return what an arm of a seed learns from; None where its objective learns from the solutions."""
    if not objective.needs.own_responses:
        return None
    taken = _responses(settings, bench, seed, given=responses_file(out, seed))
    forget = taken.of(FORGET, bench.sft, bench.problems[FORGET], lambda: load_sft(bench), False).encoded
    retain = taken.of(RETAIN, bench.checkpoint, bench.problems[RETAIN], lambda: bench.model, False).encoded
    whole = isinstance(objective, OutputObjective) and objective.imitates_distributions
    return OwnTexts(forget, retain, imitated(load_sft(bench), forget) if whole else None)


def load_sft(bench: Bench):
    """Return the model before RLVR."""
    return bench.sft.load_model(device=bench.device)


def _responses(
    settings: StudySettings,
    bench: Bench,
    seed: int,
    *,
    out: Path | None = None,
    key: object = None,
    given: Path | None = None,
) -> Responses:
    chat = settings.decoding.chat_template
    return Responses(bench.tokenizer, settings.drawn, seed=seed, chat=chat, out=out, key=key, given=given)
