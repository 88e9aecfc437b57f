"""Settings of how a model answers and is graded, declared once for every command that lets it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mastlens.errors import BadSetting
from mastlens.runs.settings import setting

if TYPE_CHECKING:
    from mastlens.decoding.engines import Engine

_SERVING = "the engine"


def _graders() -> list[str]:
    from mastlens.decoding.graders import GRADERS, Function

    return [f"Grader {kind.spelling()}: {kind.summary}." for kind in (*GRADERS.values(), Function)]


def grading(help: str = "what is right") -> Any:
    """Declare the grader of a command's answers; ``find_grader`` reads it."""
    return setting(help, "mathematics", listing=_graders, metavar="NAME[:ARGUMENT]")


def _engines() -> list[str]:
    from mastlens.decoding.engines import ENGINES

    return [f"Engines: {', '.join(ENGINES)}."]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What holds the model and lets it speak; settings that an engine has of its own are named as it names them."""

    engine: str = setting(
        "what generates and measures log-probabilities", "transformers", listing=_engines, metavar="ENGINE"
    )
    tensor_parallel_size: int | None = setting(
        "vllm: GPUs that share the model", None, group=_SERVING, shown_default="1", metavar="N"
    )
    gpu_memory_utilization: float | None = setting(
        "vllm: share of each GPU's memory that it takes, on a CPU of the machine's",
        None,
        group=_SERVING,
        shown_default="vLLM's own",
        metavar="SHARE",
    )
    max_model_len: int | None = setting(
        "vllm: tokens of prompt and response that it makes room for",
        None,
        group=_SERVING,
        shown_default="the model's context",
        metavar="N",
    )
    enforce_eager: bool = setting(
        "vllm: without CUDA graphs and compilation, which take a minute", False, group=_SERVING
    )

    def engine_options(self, engine: "type[Engine]") -> dict[str, Any]:
        """Return the settings of engines that were given, by name.

        Raises:
            MastlensError: If the engine does not take one of them, or a number makes no sense.
        """
        given = {
            "tensor_parallel_size": self.tensor_parallel_size,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "max_model_len": self.max_model_len,
            "enforce_eager": self.enforce_eager or None,
        }
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            typed = f"{name} (--{name.replace('_', '-')})"
            if name not in engine.options:
                raise BadSetting(
                    f"The engine {engine.name!r} has no setting {typed}; it is one of --engine vllm. Leave it out, or "
                    "choose that engine."
                )
            most = 1 if name == "gpu_memory_utilization" else None
            if value <= 0 or (most is not None and value > most):
                raise BadSetting(f"{typed} is {'a share above 0, at most 1' if most else 'at least 1'}, not {value:g}.")
        return given
