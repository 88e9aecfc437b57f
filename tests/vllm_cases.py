"""What a real vLLM is asked in one start, run by its environment's interpreter: see ``integration/test_vllm.py``.

PYTHON -m tests.vllm_cases CHECKPOINT EDIT ASKED.json ANSWERED.json
"""

import json
import os
import sys
import warnings
from pathlib import Path

from mastlens.checkpoints.checkpoint import Checkpoint
from mastlens.checkpoints.computing import Computing
from mastlens.decoding.engines import Decoding, Opening
from mastlens.decoding.engines.vllm import VllmEngine
from mastlens.decoding.sampling import Sampling
from mastlens.edits.edit import Edit
from mastlens.errors import MastlensWarning
from mastlens.problems.encoding import EncodedProblem


def main() -> None:
    """Answer what is asked."""
    warnings.simplefilter("error", MastlensWarning)  # the edit goes in place, not by way of a folder
    folder, edit, asked, answered = sys.argv[1:]
    checkpoint, given = Checkpoint(folder), json.loads(Path(asked).read_text())
    prompts, names = given["prompts"], [f"some/{place}/0" for place in range(len(given["prompts"]))]
    texts = [EncodedProblem(tuple(prompt), tuple(solution)) for prompt, solution in given["texts"]]
    options = {"max_model_len": 128, "enforce_eager": True}
    computing = Computing("cpu", "float32")
    opening = Opening(checkpoint, checkpoint.load_tokenizer(), Edit.load(edit).after, computing, 8, options)
    found = {}

    def responses(sampling=None, chosen=slice(None)):
        made = {}
        decoding = Decoding(max_new_tokens=12, sampling=sampling)
        engine.respond(prompts[chosen], decoding, names=names[chosen], finished=made.__setitem__)
        return [made[place].ids for place in sorted(made)]

    with VllmEngine.opened(opening) as engine:
        found["logprobs"] = engine.logprobs(texts, batch_size="auto").tolist()
        found["greedy"] = responses()
        found["drawn"] = responses(Sampling(1.0, 0.95, 3))
        found["drawn again, some"] = responses(Sampling(1.0, 0.95, 3), slice(2, 5))
        found["drawn, another seed"] = responses(Sampling(1.0, 0.95, 4))
        found["left while running"] = [p.name for p in Path(os.environ["TMPDIR"]).iterdir() if "mastlens" in p.name]
    Path(answered).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
