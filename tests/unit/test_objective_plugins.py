"""An objective is one object in one file: what it declares is what help, validation, records and tables say."""

import json
import subprocess
import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch

import mastlens
from mastlens.errors import MastlensError
from mastlens.models.likelihood import Head, Reading
from mastlens.registry import Registry, subclasses_of
from mastlens.unlearning import objectives
from mastlens.unlearning.objectives import (
    OBJECTIVES,
    ForgetBatch,
    Objective,
    SteeringObjective,
    make_objective,
)
from mastlens.unlearning.objectives.describing import describe_coefficients, describe_objectives, objective_lines
from mastlens.unlearning.token_weights import TokenWeights

OWN = '''
"""How likely the tokens to forget still are."""

from dataclasses import dataclass

from mastlens.unlearning.objectives import OutputObjective, coefficient


@dataclass(frozen=True, kw_only=True)
class Likelihood(OutputObjective):
    """The mean of p^power over the forget tokens."""

    name = "likelihood"
    summary = "the mean of p^power"
    source = "a test"

    power: float = coefficient("exponent", 2.0, above=0)

    def forget_loss(self, batch, weights=None):
        return (self.power * batch.solutions.logprobs.values).exp().mean()
'''


def layered(kind, **given):
    """Return an objective, with a layer where it needs one."""
    return make_objective(kind.name, **(({"layer": 1} if issubclass(kind, SteeringObjective) else {}) | given))


def test_coefficients_can_be_read_without_torch():
    """And what does need it is seen to load it: the check can fail."""
    script = (
        "import sys; from mastlens.unlearning import OBJECTIVES, TokenWeights, make_objective; "
        "from mastlens.unlearning.objectives.describing import objective_lines; "
        "[kind.coefficients() for kind in OBJECTIVES.values()]; objective_lines(); make_objective('npo', beta=0.3); "
        "heavy = {'torch', 'pandas', 'transformers', 'numpy'}; print(sorted(heavy & set(sys.modules))); "
        "from mastlens.unlearning import Unlearner; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]


def test_each_file_holds_one_objective_and_each_objective_has_a_file():
    modules = [module.name for module in iter_modules(objectives.__path__)]
    defined = {}
    for name in modules:
        module = import_module(f"mastlens.unlearning.objectives.{name}")
        for one in vars(module).values():
            if subclasses_of(Objective)(one) and one.__module__ == module.__name__:
                defined.setdefault(name, []).append(one.name)
    assert {module: [names[0]] for module, names in defined.items()} == defined
    assert {module.replace("_", "-"): module for module in defined} == {
        name: name.replace("-", "_") for name in OBJECTIVES
    }


@pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=list(OBJECTIVES))
def test_an_objective_says_all_of_itself(kind):
    assert is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert kind.__doc__
    assert kind.summary
    assert kind.summary[-1] != "."
    assert kind.source
    for known in kind.coefficients().values():
        assert known.said.help
        assert known.said.help[-1] != "."
    for preset, fixed in kind.presets.items():
        assert set(fixed) <= {*kind.coefficients(), "texts"}
        made = layered(kind, preset=preset)
        assert {key: getattr(made, key) for key in fixed} == fixed  # and it can be made
    with pytest.raises(AttributeError):  # frozen
        layered(kind).gamma = 2.0


@pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=list(OBJECTIVES))
def test_a_coefficient_reaches_its_record_alone(kind):
    plain = layered(kind).record()
    for key, known in kind.coefficients().items():
        value = {float: 0.375, int: 3, bool: False, TokenWeights: TokenWeights(budget=0.4)}.get(known.type)
        if known.said.valid():
            value = next(choice for choice in known.said.valid() if choice != known.default)
        changed = layered(kind, **{key: value}).record()
        differing = {name for name in plain if plain[name] != changed[name]}
        assert len(differing) == 1, (key, differing)
        assert list(plain) == list(changed)


def test_records_are_what_they_were():
    """Byte for byte, in the order of the file: earlier runs are recognised by them."""
    assert json.dumps(make_objective("npo", beta=0.5).settings()) == (
        '{"name": "npo", "beta": 0.5, "beta2": 0.0, "delta": 0.0, "gamma": 1.0, "alpha": 1.0, "retain": "nll", '
        '"layer": -1, "steering": 0.0, "token_weights": null, "needs_reference": true, "needs_before": false, '
        '"needs_retain": false, "needs_alternatives": false}'
    )
    assert json.dumps(make_objective("r2mu", layer=3, preset="release").settings()) == (
        '{"name": "r2mu", "beta": 0.0, "beta2": 0.0, "delta": 0.0, "gamma": 1.0, "alpha": 1.4, "retain": "nll", '
        '"layer": 3, "steering": 2.0, "control_norm": 6.5, "unthink_weight": 1.0, "cot_weight": 1.0, '
        '"reflection_weight": 0.0, "reflection": "code", "texts": {"text_tokens": 512, "traces": 1, '
        '"trace_tokens": 100, "trigger": "Let\'s reason this step by step.\\n<think>", "cot_tokens": 150, '
        '"close_cot": true, "in_context": false}, "token_weights": null, "needs_reference": false, '
        '"needs_before": true, "needs_retain": true, "needs_alternatives": false, "needs_traces": true, '
        '"needs_cot": true}'
    )
    weights = make_objective("ga", token_weights=TokenWeights()).settings()["token_weights"]
    assert list(weights) == ["budget", "lr", "every", "budget_weight", "entropy_weight", "decay"]


def test_tables_and_help_are_read_from_the_objectives():
    table, coefficients = describe_objectives(), describe_coefficients()
    assert list(table["objective"]) == list(OBJECTIVES)
    npo = table.set_index("objective").loc["npo"]
    assert (npo["needs"], npo["on"], npo["presets"]) == ("reference", "output", "mast, open-unlearning")
    assert npo["coefficients"].startswith("beta 0.1, ")
    assert len(coefficients) == sum(len(kind.coefficients()) for kind in OBJECTIVES.values())
    beta = coefficients[(coefficients["objective"] == "simnpo") & (coefficients["coefficient"] == "beta")].iloc[0]
    assert (beta["default"], beta["presets"]) == ("4.5", "mast 2.5, open-unlearning 4.5")
    assert next(line for line in objective_lines() if line.startswith("simnpo: ")).endswith("; beta 4.5, delta 0")


def test_one_more_file_is_one_more_objective(tmp_path, monkeypatch):
    """A new file in the package is all: nothing else knows their names."""
    before = list(OBJECTIVES)
    (tmp_path / "likelihood.py").write_text(OWN)
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
    again = Registry("objective", accepts=subclasses_of(Objective), package=objectives.__name__, group="none.such")
    assert set(again) == {*before, "likelihood"}
    monkeypatch.setattr(objectives, "OBJECTIVES", again)
    assert make_objective("likelihood", power=3).power == 3.0
    with pytest.raises(MastlensError, match=r"npo has no power: .* power is a coefficient of likelihood"):
        make_objective("npo", power=3.0)
    sys.modules.pop("mastlens.unlearning.objectives.likelihood")


def test_an_objective_of_ones_own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    made = make_objective(f"{path}:Likelihood", power=3, gamma=2)
    solutions = Reading(torch.log(torch.tensor([[0.2, 0.8], [0.5, 0.5]])), Head(), *torch.tensor([[0, 1], [0, 0]]), 1)
    assert float(made.forget_loss(ForgetBatch(solutions))) == pytest.approx((0.2**3 + 0.5**3) / 2)
    for given, said in (
        ({"pwoer": 1.0}, "Did you mean 'power'"),
        ({"beta": 1.0}, "likelihood has no beta.*It has .*power; beta is a coefficient of .*npo"),
        ({"power": 0.0}, "power of likelihood must be above 0, it is 0.0"),
        ({"preset": "mast"}, "says nothing of likelihood"),
    ):
        with pytest.raises(MastlensError, match=said):
            make_objective(f"{path}:Likelihood", **given)
    assert "likelihood" not in OBJECTIVES  # looked at, not added


def test_code_from_outside_is_in_the_record(tmp_path, tiny):
    """The file's digest is recorded; with another file the same folder is refused, as with other settings."""
    path, out = tmp_path / "own.py", tmp_path / "out"
    path.write_text(OWN)
    asked = {
        "rlvr": tiny.rlvr, "forget": tiny.forget, "where": r"layers\.1\.mlp\.down_proj", "steps": 2, "lr": 1e-3,
        "objective": f"{path}:Likelihood", "out": out, "progress": False,
    }  # fmt: skip
    first = mastlens.unlearn(**asked)
    kept = first.edit.settings["objective"]
    assert kept["name"] == "likelihood"
    assert kept["power"] == 2.0
    assert len(kept["code"]) == 64
    assert (first.table["forget_loss"] > 0).all()
    assert mastlens.unlearn(**asked).edit.settings == first.edit.settings  # done already
    path.write_text(OWN.replace("exp().mean()", "exp().sum()"))
    with pytest.raises(MastlensError, match="with other objective"):
        mastlens.unlearn(**asked)
    assert "code" not in make_objective("npo").record()


def test_registered_from_a_session(tmp_path, monkeypatch):
    monkeypatch.setattr(OBJECTIVES, "_registered", {})
    namespace = {"__name__": "session"}
    exec(compile(OWN, str(tmp_path / "cell"), "exec"), namespace)
    kind = mastlens.register_objective(namespace["Likelihood"])
    assert OBJECTIVES.find("likelihood") is kind
    assert make_objective("likelihood").power == 2.0
    assert make_objective("likelihood").record()["code"] == "unknown"  # there is no file


def test_token_weights_go_where_there_is_something_to_weigh():
    having = {name for name, kind in OBJECTIVES.items() if "token_weights" in kind.coefficients()}
    assert set(OBJECTIVES) - having == {"rmu", "rmu-rtp"}
    with pytest.raises(MastlensError, match="takes no token_weights"):
        OBJECTIVES["rmu"](layer=1, token_weights=TokenWeights())
    assert OBJECTIVES["r2mu"](layer=1, token_weights=TokenWeights()).token_weights == TokenWeights()


def test_every_field_is_a_coefficient_or_the_texts():
    for kind in OBJECTIVES.values():
        rest = {each.name for each in fields(kind)} - kind.coefficients().keys()
        assert rest <= {"texts", "token_weights"}
