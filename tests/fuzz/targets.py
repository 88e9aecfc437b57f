"""Every reader with the input it is given: how a damaged one is written, and what reads it."""

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save

from mastlens import Checkpoint, Edit, MastlensError, compare, inspect, rank, report, show_edit
from mastlens.cli import main
from mastlens.evaluation.judges import TRACE_RUBRIC, EndpointJudge, Question
from mastlens.evaluation.judges import endpoint as endpoints
from mastlens.evaluation.judges.transport import Response
from mastlens.evaluation.multiple_choice import read_choices
from mastlens.evaluation.perplexity import read_texts
from mastlens.evaluation.safety.requests import read_requests
from mastlens.evaluation.traces.facts import read_facts
from mastlens.evaluation.traces.questions import read_questions
from mastlens.problems.reading import read_problems
from mastlens.runs.stages import stage
from mastlens.selection.ranking import read_selection
from mastlens.studies.planning import check_objectives, plan_arms
from mastlens.studies.selecting import check_selections
from mastlens.studies.settings import read_study
from mastlens.unlearning.documents import read_documents

from . import bases
from .mutations import damaged_bytes, damaged_table, damaged_value, encoded, weird


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        write: Writes a damaged input into an empty folder.
        read: Reads it; a ``MastlensError`` is as good as a result.
        share: How many of a hundred inputs are its.
        lines: Commands that read it; ``{i}`` stands for the folder. None where every command that reads it runs a
            model first.
    """

    write: Callable[[Path, random.Random], None]
    read: Callable[[Path], object]
    share: int
    lines: tuple[str, ...] = ()

    def type(self, folder: Path) -> None:
        """Read it by its commands, as they are typed: they end with 0, or with 2 and a reason."""
        _each(*(lambda line=line: _typed(line.format(i=folder)) for line in self.lines))


def _typed(line: str) -> None:
    """Run a command as the command line does.

    Raises:
        MastlensError: If it is refused.
        AssertionError: If it exits otherwise, or without a reason.
    """
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(line.split())
    told = said.getvalue().strip()
    assert code == 0 or (code == 2 and told and "Traceback" not in told), f"{line} exits with {code}: {told}"
    if code == 2:
        raise MastlensError(told)


def _write_lines(kind: str) -> Callable[[Path, random.Random], None]:
    def write(folder: Path, rng: random.Random) -> None:
        lines = [encoded(record, rng) for record in bases.LINES[kind]]
        place = rng.randrange(len(lines))
        lines[place] = encoded(damaged_value(bases.LINES[kind][place], rng), rng)
        data = b"\n".join(lines)
        (folder / "lines.jsonl").write_bytes(damaged_bytes(data, rng) if rng.random() < 0.2 else data)

    return write


def _write_facts(folder: Path, rng: random.Random) -> None:
    (folder / "facts.json").write_bytes(encoded(damaged_value(bases.FACTS, rng), rng))


def _write_requests(folder: Path, rng: random.Random) -> None:
    value = damaged_value(bases.LINES["requests"], rng)
    (folder / "requests.json").write_bytes(encoded(value, rng))
    text = "question\tcategory\n" + "\n".join(f"{weird(rng)}\t{weird(rng)}" for _ in range(3))
    (folder / "requests.tsv").write_bytes(damaged_bytes(text.encode(errors="replace"), rng))


def _read_requests(folder: Path) -> None:
    _each(*(lambda name=name: read_requests("star1", folder / name) for name in ("requests.json", "requests.tsv")))


def _each(*reads: Callable[[], object]) -> None:
    """Call several readers, though the first refuse; then raise what the first said that did."""
    refused = []
    for read in reads:
        try:
            read()
        except MastlensError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _write_table(folder: Path, rng: random.Random) -> None:
    (folder / "run.json").write_text(json.dumps(bases.record()))
    tables = bases.tables()
    chosen = rng.choice(list(tables))
    for name, table in tables.items():
        data = _parquet(damaged_table(table, rng) if name == chosen else table)
        (folder / f"{name}.parquet").write_bytes(
            damaged_bytes(data, rng) if name == chosen and rng.random() < 0.2 else data
        )


def _parquet(table) -> bytes:
    try:
        return table.to_parquet(index=False)
    except Exception:  # a mixture that parquet does not hold
        return b"PAR1"


def _read_tables(folder: Path) -> None:
    _each(
        lambda: rank(folder, top=2, anyway=True),
        lambda: read_selection(folder / "ranking.parquet"),
        lambda: compare(folder, folder),
        lambda: report(folder),
    )


def _write_record(folder: Path, rng: random.Random) -> None:
    (folder / "run.json").write_bytes(encoded(damaged_value(bases.record(), rng), rng))
    for name in ("ranking", "responses"):
        bases.tables()[name].to_parquet(folder / f"{name}.parquet", index=False)


def _read_record(folder: Path) -> None:
    def open_stage() -> None:
        with stage(folder, "rank", outputs=["ranking.parquet"], lineage={"rlvr": "x"}, settings={"rank": "16"}):
            pass

    _each(open_stage, lambda: report(folder), lambda: read_selection(folder / "ranking.parquet", "ab" * 32))


def _write_edit(folder: Path, rng: random.Random) -> None:
    before = {name: tensor for name, tensor in bases.weights(0).items() if "q_proj.weight" in name}
    edit = Edit(before, {name: tensor + 1 for name, tensor in before.items()}, "ab" * 32, {"objective": "ga"})
    tensors = {name: tensor.contiguous() for name, tensor in edit._sides().items()}
    metadata = damaged_value(edit._metadata(), rng) if rng.random() < 0.7 else edit._metadata()
    data = save(tensors, metadata={"mastlens": encoded(metadata, rng).decode(errors="replace")})
    (folder / "edit.safetensors").write_bytes(damaged_header(data, rng) if rng.random() < 0.5 else data)


def damaged_header(data: bytes, rng: random.Random) -> bytes:
    """Return a safetensors file with its header, or its bytes, damaged."""
    if rng.random() < 0.3:
        return damaged_bytes(data, rng)
    size = int.from_bytes(data[:8], "little")
    header = encoded(damaged_value(json.loads(data[8 : 8 + size]), rng), rng)
    claimed = len(header) if rng.random() < 0.9 else rng.choice((0, 1, 2**40, 2**63))
    return claimed.to_bytes(8, "little") + header + data[8 + size :]


def _write_study(folder: Path, rng: random.Random) -> None:
    for name in ("f.jsonl", "r.jsonl"):
        (folder / name).write_text(json.dumps(bases.PROBLEM))
    bases.write_checkpoint(folder / "rlvr")
    data = "\n".join(_toml(damaged_value(bases.STUDY, rng))).encode(errors="replace")
    (folder / "study.toml").write_bytes(damaged_bytes(data, rng) if rng.random() < 0.3 else data)


def _toml(value, path: tuple[str, ...] = ()) -> list[str]:
    if not isinstance(value, dict):
        return [f"x = {_inline(value)}"]
    lines = [f"{json.dumps(str(key))} = {_inline(part)}" for key, part in value.items() if not isinstance(part, dict)]
    for key, part in value.items():
        if isinstance(part, dict):
            own = (*path, json.dumps(str(key)))
            lines += [f"[{'.'.join(own)}]", *_toml(part, own)]
    return lines


def _inline(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_inline(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return '"null"' if value is None else {"NaN": "nan", "Infinity": "inf"}.get(json.dumps(value), json.dumps(value))


def _read_study(folder: Path) -> None:
    settings = read_study(folder / "study.toml")
    check_objectives(settings)
    check_selections(settings)
    small = len(settings.seeds) * settings.draws < 1000  # a study of a million arms is the user's own wish
    if small:
        plan_arms(settings, folder, Checkpoint(folder / "rlvr"), seed=0)


def _write_reply(folder: Path, rng: random.Random) -> None:
    said = {"category": rng.choice(("C1", "c4", "4", "no")), "reason": "because"}
    content = encoded(damaged_value(said, rng), rng).decode(errors="replace")
    content = (
        rng.choice(("", "I think {x} ", "<think>C1 {", '{"category": "C2"} ')) + content + rng.choice(("", "}", " C1"))
    )
    reply = {"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}
    value = damaged_value(reply, rng) if rng.random() < 0.5 else reply
    (folder / "reply.json").write_bytes(encoded(value, rng))


def _read_reply(folder: Path) -> None:
    text = (folder / "reply.json").read_bytes().decode("utf-8", "replace")
    TRACE_RUBRIC.read(text)
    original = endpoints.post
    endpoints.post = lambda *_, **__: Response(200, text, {})  # type: ignore[assignment] - the network, and nothing else
    try:
        EndpointJudge("http://127.0.0.1:9/v1", "m", tries=1, cache=folder / "cache").judge(Question("q"), "t")
    finally:
        endpoints.post = original


def _write_checkpoint(folder: Path, rng: random.Random) -> None:
    made = bases.write_checkpoint(folder / "model")
    if rng.random() < 0.6:
        (made / "config.json").write_bytes(encoded(damaged_value(bases.CONFIG, rng), rng))
    if rng.random() < 0.4:
        weights = made / "model.safetensors"
        weights.write_bytes(damaged_header(weights.read_bytes(), rng))
    if rng.random() < 0.3:
        index = {"metadata": {"total_size": 9}, "weight_map": dict.fromkeys(bases.weights(0), "model.safetensors")}
        (made / "model.safetensors.index.json").write_bytes(encoded(damaged_value(index, rng), rng))
    if rng.random() < 0.2:
        (made / "pytorch_model.bin").write_bytes(PICKLE)
        (made / "model.safetensors").unlink()


PICKLE = b"cposix\nsystem\n(S'touch escaped'\ntR."
"""Unpickled, it would run a command."""


def _read_checkpoint(folder: Path) -> None:
    inspect(folder / "model")
    checkpoint = Checkpoint(folder / "model")
    for projection in checkpoint.projections:
        checkpoint.matrix(projection)


def _write_adapter(folder: Path, rng: random.Random) -> None:
    bases.write_checkpoint(folder / "base")
    made = bases.write_adapter(folder / "adapter")
    if rng.random() < 0.7:
        (made / "adapter_config.json").write_bytes(encoded(damaged_value(bases.ADAPTER, rng), rng))
    if rng.random() < 0.4:
        weights = made / "adapter_model.safetensors"
        weights.write_bytes(damaged_header(weights.read_bytes(), rng))
    if rng.random() < 0.1:
        shutil.copy(made / "adapter_config.json", made / "config.json")


def _read_adapter(folder: Path) -> None:
    def matrices(spec: str) -> None:
        checkpoint = Checkpoint(spec)
        for projection in checkpoint.projections:
            checkpoint.matrix(projection)

    _each(lambda: matrices(f"{folder / 'base'}+{folder / 'adapter'}"), lambda: matrices(str(folder / "adapter")))


def _of_lines(*readers: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: _each(*(lambda read=read: read(folder / "lines.jsonl") for read in readers))


TARGETS: dict[str, Target] = {
    "problems": Target(
        _write_lines("problems"),
        _of_lines(read_problems),
        10,
        ("benchmarks take {i}/lines.jsonl --count 1 --out {i}/few.jsonl",),
    ),
    "choices": Target(_write_lines("choices"), _of_lines(read_choices, read_questions), 8),
    "texts": Target(_write_lines("texts"), _of_lines(read_texts, read_documents), 5),
    "requests": Target(_write_requests, _read_requests, 5),
    "facts": Target(_write_facts, lambda folder: read_facts(folder / "facts.json").values("river"), 5),
    "tables": Target(
        _write_table,
        _read_tables,
        9,
        ("rank {i} --top 2 --anyway", "compare {i} {i}", "report {i}"),
    ),
    "record": Target(_write_record, _read_record, 8, ("rank {i} --top 2 --anyway", "report {i}")),
    "edit": Target(
        _write_edit,
        lambda folder: show_edit(folder / "edit.safetensors").table,
        10,
        ("edit show {i}/edit.safetensors",),
    ),
    "study": Target(_write_study, _read_study, 10),
    "reply": Target(_write_reply, _read_reply, 10),
    "checkpoint": Target(_write_checkpoint, _read_checkpoint, 10, ("inspect {i}/model",)),
    "adapter": Target(_write_adapter, _read_adapter, 10, ("inspect {i}/base+{i}/adapter", "inspect {i}/adapter")),
}
