"""The command that draws the paper's figures."""

import argparse

from mastlens.cli.outcome import Outcome, device_of


def add_figures(command) -> None:
    """Add figures."""
    figures = command("figures", draw, "the paper's figures and tables from the organism, with data and captions")
    figures.add_argument("--out", default="figures", metavar="DIR", help="where to (default figures)")
    figures.add_argument("--demo", default="demo", metavar="DIR", help="a demo's folder; run first if it is missing")
    figures.add_argument("--study", metavar="DIR", help="a study's folder; by default the tables kept in --out")
    figures.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these figures alone")
    figures.add_argument(
        "--images", nargs="*", default=["svg", "pdf"], metavar="KIND", help="of svg, png, pdf (default svg pdf)"
    )


def draw(arguments: argparse.Namespace) -> Outcome:
    """Draw the figures."""
    from pathlib import Path

    from mastlens.paper import make_paper_figures
    from mastlens.plots.tables import layout_of
    from mastlens.reporting.demonstration import ARMS, demo

    device = device_of(arguments)
    if not (Path(arguments.demo) / ARMS).is_file():
        demo(arguments.demo, seed=arguments.seed, device=device, progress=not arguments.json)
    made = make_paper_figures(
        arguments.out, demo=arguments.demo, study=arguments.study, only=arguments.only, images=arguments.images
    )
    lines = [f"{name}: {layout_of(figure).meta['title']}" for name, figure in made.figures.items()]
    lines += [f"{name}: left out; {why}" for name, why in made.missing.items()]
    lines += [made.note] if made.note else []
    text = "\n".join(lines)
    return Outcome(
        f"{text}\n\n{len(made.files)} files are in {arguments.out}",
        {
            "figures": {name: layout_of(figure).meta["title"] for name, figure in made.figures.items()},
            "missing": made.missing,
            "note": made.note,
            "files": [str(path) for path in made.files],
            "out": str(arguments.out),
        },
    )
