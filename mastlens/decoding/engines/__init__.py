"""What lets a model speak: one engine a file. A new one is one file here, or a class that is registered."""

from mastlens.decoding.engines.huggingface import HuggingFaceEngine
from mastlens.decoding.engines.interface import Decoding, Engine, Finished, Opening
from mastlens.registry import Registry, subclasses_of

ENGINES: Registry[type[Engine]] = Registry(
    "engine", accepts=subclasses_of(Engine), package=__name__, group="mastlens.engines"
)
"""Name to engine."""

__all__ = ["ENGINES", "Decoding", "Engine", "Finished", "HuggingFaceEngine", "Opening"]
