"""Geometry of increments: mastlens beside the script that a competent user would write.

    python -m benchmarks.geometry    # everything, about 40 minutes on 2 cores; writes benchmarks/results/geometry.*

The table beside it was made part by part: ``--layers 5 --repeats 2 --parts time errors angles cost``, then
``--parts memory``, and ``--layers 28 --repeats 2 --parts default``, which leaves the slow script with --full out.

On a lineage with the attention shapes of Qwen2.5-Math-1.5B (see ``synthetic.py``): time, interleaved in one run;
errors against full float64 decompositions; anonymous memory in fresh processes, also with the shapes of the 7B model;
and what one tensor costs as a function of its size and of k, beside the machine's rate of matrix products.
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from safetensors import safe_open

import mastlens
from benchmarks.synthetic import SHAPES, increment, weight, write_lineage
from mastlens.analysis.increments.subspaces import principal_angles, principal_subspaces
from mastlens.runs.cost import measured

RANK = 16
PARTS = ("time", "default", "errors", "angles", "memory", "cost")


def stages(lineage: Path):
    """Yield (name, base, sft, rlvr) of every tensor, as the script reads them."""
    names = json.loads((lineage / "base" / "model.safetensors.index.json").read_text())["weight_map"]
    for name, file in names.items():
        matrices = []
        for stage in ("base", "sft", "rlvr"):
            with safe_open(lineage / stage / file, framework="pt") as stream:
                matrices.append(stream.get_tensor(name))
        yield name, *matrices


def script(lineage: Path, full: bool, lean: bool = False) -> dict[tuple[str, str], dict[str, float]]:
    """Measure as one would write it down: float32, one decomposition for each thing that needs one.

    Args:
        lineage: Folder with base, sft and rlvr.
        full: Also spectral shift, principal angles and stable rank.
        lean: Take singular values and vectors from one decomposition of each matrix.
    """
    table = {}
    for name, base, sft, rlvr in stages(lineage):
        u, s, vh = torch.linalg.svd(base, full_matrices=False)
        parts = (u[:, :RANK], s, vh[:RANK].T)
        for increment_name, before, after in (("sft", base, sft), ("rlvr", sft, rlvr)):
            delta = after - before
            norm = delta.norm()
            inside = u[:, :RANK].T @ delta @ vh[:RANK].T
            row = {"off_principal": float(1 - inside.norm() ** 2 / norm**2), "delta_norm": float(norm)}
            if full:
                old, parts = parts, _decomposed(after, lean)
                first = old[1] if lean else torch.linalg.svdvals(before)
                second = parts[1] if lean else torch.linalg.svdvals(after)
                row["spectral_shift"] = float((second - first).norm() / first.norm())
                left = scipy.linalg.subspace_angles(old[0].numpy(), parts[0].numpy())
                right = scipy.linalg.subspace_angles(old[2].numpy(), parts[2].numpy())
                row["angle_left_max_deg"], row["angle_right_max_deg"] = math.degrees(left[0]), math.degrees(right[0])
                row["acos_left_deg"] = math.degrees(_acos(old[0], parts[0]))
                row["stable_rank"] = float(norm**2 / torch.linalg.matrix_norm(delta, 2) ** 2)
                row["changed_fraction_bf16"] = float((before.bfloat16() != after.bfloat16()).float().mean())
            table[increment_name, name] = row
    return table


def _decomposed(matrix, lean):
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :RANK], s, vh[:RANK].T


def _acos(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.acos(torch.linalg.svdvals(a.T @ b).clamp(max=1)).max())


def ours(lineage: Path, full: bool):
    """Measure with mastlens; a table keyed as the script's."""
    result = mastlens.geometry(
        base=lineage / "base", sft=lineage / "sft", rlvr=lineage / "rlvr", rank=RANK, full=full, progress=False
    )
    return result.table.set_index(["increment", "name"])


def timed(lineage: Path, repeats: int, default_only: bool = False) -> dict:
    """Return seconds of every arm, interleaved, and the ratio of each repeat."""
    arms = {
        "script": lambda: script(lineage, False),
        "mastlens": lambda: ours(lineage, False),
        "script --full": lambda: script(lineage, True),
        "script --full, lean": lambda: script(lineage, True, lean=True),
        "mastlens --full": lambda: ours(lineage, True),
    }
    if default_only:
        arms = {arm: run for arm, run in arms.items() if "full" not in arm}
    arms["mastlens"]()  # what is imported at the first use is not timed
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for repeat in range(repeats):
        for arm, run in arms.items():
            start = time.perf_counter()
            run()
            seconds[arm].append(time.perf_counter() - start)
            print(f"  repeat {repeat}: {arm} {seconds[arm][-1]:.2f} s", flush=True)
    pairs = {
        "default": ("script", "mastlens"),
        "full": ("script --full", "mastlens --full"),
        "full, lean script": ("script --full, lean", "mastlens --full"),
    }
    ratios = {
        label: [a / b for a, b in zip(seconds[theirs], seconds[own], strict=True)]
        for label, (theirs, own) in pairs.items()
        if own in arms
    }
    return {"seconds": seconds, "ratio": ratios}


def errors(lineage: Path) -> dict:
    """Return the largest errors of mastlens and of the script against full float64 decompositions."""
    plain = script(lineage, True)
    table, rough = ours(lineage, True), ours(lineage, False)
    found: dict[str, list[float]] = {}

    def note(key: str, value: float) -> None:
        found.setdefault(key, []).append(value)

    for name, *matrices in stages(lineage):
        exact = [torch.linalg.svd(m.double(), full_matrices=False) for m in matrices]
        u, s, vh = exact[0]
        mine = principal_subspaces(matrices[0], RANK)
        angle = max(principal_angles(mine.left, u[:, :RANK])[-1], principal_angles(mine.right, vh[:RANK].T)[-1])
        note("subspace angle, rad", float(angle))
        note("subspace bound, rad", mine.error)
        note("relative gap at k", float((s[RANK - 1] - s[RANK]) / s[0]))
        for i, which in enumerate(("sft", "rlvr")):
            (u0, s0, _), (u1, s1, _) = exact[i], exact[i + 1]
            delta = (matrices[i + 1] - matrices[i]).double()
            off = 1 - float((u[:, :RANK].T @ delta @ vh[:RANK].T).norm() ** 2 / delta.norm() ** 2)
            shift = float((s1 - s0).norm() / s0.norm())
            left = float(principal_angles(u0[:, :RANK], u1[:, :RANK])[-1])
            row, theirs = table.loc[which, name], plain[which, name]
            note("off_principal, mastlens", abs(rough.loc[(which, name), "off_principal"] - off))
            note("off_principal, mastlens' own bound", rough.loc[(which, name), "off_principal_error"])
            note("off_principal, script", abs(theirs["off_principal"] - off))
            note(f"spectral_shift of {which}, relative, mastlens", abs(row["spectral_shift"] / shift - 1))
            note(f"spectral_shift of {which}, relative, script", abs(theirs["spectral_shift"] / shift - 1))
            note("angle, rad, mastlens", abs(math.radians(row["angle_left_max_deg"]) - left))
            note("angle, rad, script (scipy on float32)", abs(math.radians(theirs["angle_left_max_deg"]) - left))
            note("angle, rad, script (acos)", abs(math.radians(theirs["acos_left_deg"]) - left))
            note(f"true angle of {which}, rad", left)
    return {key: {"max": max(v), "median": float(np.median(v)), "min": min(v)} for key, v in found.items()}


def small_angles() -> list[dict]:
    """Return true angles down to 1e-6 rad beside what mastlens and plain float32 make of them."""
    generator = torch.Generator().manual_seed(0)
    base, left, right = weight(1536, 1536, 0.5, generator)
    rows = []
    for relative in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 2e-8):
        after = base + increment("isotropic", left, right, relative * float(base.norm()), generator)
        exact = [torch.linalg.svd(m.double(), full_matrices=False)[0][:, :RANK] for m in (base, after)]
        single = [torch.linalg.svd(m, full_matrices=False)[0][:, :RANK] for m in (base, after)]
        mine = [principal_subspaces(m, RANK).left for m in (base, after)]
        rows.append(
            {
                "relative size of the increment": relative,
                "true, rad": float(principal_angles(*exact)[-1]),
                "mastlens, rad": float(principal_angles(*mine)[-1]),
                "float32 and acos, rad": _acos(*single),
                "float32 and scipy, rad": float(scipy.linalg.subspace_angles(*(x.numpy() for x in single))[0]),
            }
        )
    return rows


def memory(shape: str, layers: int, full: bool, workers: int) -> dict:
    """Return the anonymous memory of a run beyond what the process holds before, measured in a fresh process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.geometry",
        "--memory-of",
        shape,
        "--layers",
        str(layers),
        "--workers",
        str(workers),
    ]
    done = subprocess.run([*command, *(["--full"] if full else [])], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory_here(shape: str, layers: int, full: bool, workers: int) -> dict:
    """Measure in this process, after a small run has loaded everything there is to load."""
    organism = {stage: f"organism:qwen2/{stage}" for stage in ("base", "sft", "rlvr")}
    mastlens.geometry(**organism, full=full, workers=workers, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        lineage = Path(folder)
        build = ["-m", "benchmarks.geometry", "--build", shape, "--layers", str(layers), folder]
        subprocess.run([sys.executable, *build], check=True)
        with measured() as cost:
            mastlens.geometry(
                base=lineage / "base", sft=lineage / "sft", rlvr=lineage / "rlvr", full=full, workers=workers,
                progress=False,
            )  # fmt: skip
    return {"shape": shape, "full": full, "workers": workers, "layers": layers, "peak_mb": cost.peak_mb}


def best(run, repeats: int = 3) -> float:
    """Return the shortest of several timings: what the machine can do."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def cost_by_size() -> dict:
    """Return seconds of one subspace by size and k, one thread, beside the products that checking it takes."""
    torch.set_num_threads(1)
    square = torch.randn(2048, 2048)
    rate = {str(d).removeprefix("torch."): 2 * 2048**3 / best(lambda d=d: square.to(d) @ square.to(d)) for d in
            (torch.float32, torch.float64)}  # fmt: skip
    rows = []
    for size in (512, 1024, 1536, 2048, 3584):
        matrix, _, _ = weight(size, size, 0.5, torch.Generator().manual_seed(size))
        exact = best(lambda m=matrix: torch.linalg.svd(m, full_matrices=False), 1)
        for k in (4, 16, 64, 128):
            method = principal_subspaces(matrix, k).method
            seconds = best(lambda m=matrix, k=k: principal_subspaces(m, k))
            floor = 2 * 2 * size * size * k / rate["float64"]  # W V and W'U in float64: what the residuals need
            rows.append(
                {"size": size, "k": k, "method": method, "seconds": seconds, "svd, float32": exact,
                 "checking products": floor, "ratio to them": seconds / floor}
            )  # fmt: skip
            print(f"  {rows[-1]}", flush=True)
    return {"gemm_gflops_one_thread": {k: v / 1e9 for k, v in rate.items()}, "rows": rows}


def render(result: dict) -> str:
    """Return the tables of what is measured as Markdown."""
    lines = ["# Geometry of increments", "", f"`python -m benchmarks.geometry`, {result['where']}."]
    for part in [part for part in ("time", "default") if part in result]:
        seconds, ratio, layers = (result[part][key] for key in ("seconds", "ratio", "layers"))
        repeats = len(seconds["script"])
        lines += ["", f"## Time, {layers} layers of Qwen2.5-Math-1.5B's attention, {repeats} repeats", ""]
        lines += ["| arm | seconds, median | range |", "|---|---:|---:|"]
        lines += [f"| {a} | {np.median(s):.2f} | {min(s):.2f} to {max(s):.2f} |" for a, s in seconds.items()]
        lines += ["", "| script over mastlens | median | range |", "|---|---:|---:|"]
        lines += [f"| {a} | {np.median(r):.1f} | {min(r):.1f} to {max(r):.1f} |" for a, r in ratio.items()]
    if "errors" in result:
        found = result["errors"].items()
        lines += ["", "## Errors against float64 decompositions, all tensors", ""]
        lines += ["| quantity | largest | median | smallest |", "|---|---:|---:|---:|"]
        lines += [f"| {k} | {v['max']:.2e} | {v['median']:.2e} | {v['min']:.2e} |" for k, v in found]
    if "small_angles" in result:
        lines += ["", "## Small principal angles, 1536 x 1536, k = 16", "", *_table(result["small_angles"])]
    if "memory" in result:
        lines += ["", "## Anonymous memory beyond what the process holds before", "", *_table(result["memory"])]
    if "cost" in result:
        rates = ", ".join(f"{k} {v:.0f} GFLOP/s" for k, v in result["cost"]["gemm_gflops_one_thread"].items())
        lines += ["", f"## One tensor, one thread, by size and k (matrix products: {rates})", ""]
        lines += _table(result["cost"]["rows"])
    return "\n".join(lines) + "\n"


def _table(rows: list[dict]) -> list[str]:
    heads = list(rows[0])
    cells = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *(f"| {' | '.join(c)} |" for c in cells)]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="with --build: where to")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; the rest is kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--build", choices=SHAPES)
    parser.add_argument("--memory-of", choices=SHAPES)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.build:
        write_lineage(Path(arguments.folder), dataclasses.replace(SHAPES[arguments.build], layers=arguments.layers))
        return
    if arguments.memory_of:
        print(json.dumps(memory_here(arguments.memory_of, arguments.layers, arguments.full, arguments.workers)))
        return
    kept = arguments.out / "geometry.json"
    result = json.loads(kept.read_text()) if kept.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        lineage = Path(folder)
        if {"time", "default", "errors"} & set(arguments.parts):
            write_lineage(lineage, dataclasses.replace(SHAPES["1.5b"], layers=arguments.layers))
        for part in ("time", "default"):
            if part in arguments.parts:
                result[part] = timed(lineage, arguments.repeats, part == "default") | {"layers": arguments.layers}
        if "errors" in arguments.parts:
            result["errors"] = errors(lineage)
    if "angles" in arguments.parts:
        result["small_angles"] = small_angles()
    if "memory" in arguments.parts:
        result["memory"] = [
            memory(shape, min(arguments.layers, layers), full, workers)
            for shape, layers in (("1.5b", 4), ("7b", 2))
            for full in (False, True)
            for workers in (1, 2)
        ]
    if "cost" in arguments.parts:
        result["cost"] = cost_by_size()
    result["where"] = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    arguments.out.mkdir(exist_ok=True)
    kept.write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / "geometry.md").write_text(render(result))
    print(render(result))


if __name__ == "__main__":
    main()
