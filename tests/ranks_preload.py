"""What every rank needs, imported once, by the process that they are forked from."""

import torch.distributed.fsdp
import torch.distributed.tensor
import transformers.models.auto.modeling_auto
import transformers.models.qwen2.modeling_qwen2

import mastlens.analysis.causal.causal_map
import mastlens.analysis.coupling.coupling
import mastlens.cli.parser
import mastlens.unlearning.editing

__all__ = ["mastlens", "torch", "transformers"]
