"""vLLM as far as it is called, over plain transformers: one request at a time, no batch, no cache.

It shows that what is asked of vLLM is what is meant. That vLLM does it is for ``tests/integration/test_vllm.py``.
"""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


@dataclass
class SamplingParams:
    """The parameters that are used, and no others: a name that vLLM does not have is an error here too."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    stop_token_ids: list[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    allowed_token_ids: list[int] | None = None
    detokenize: bool = True
    output_kind: str = "cumulative"


class StandIn:
    """The package; keeps what it was given."""

    SamplingParams = SamplingParams
    sampling_params = SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY="final only"))

    def __init__(self):
        self.platforms = SimpleNamespace(current_platform=SimpleNamespace(device_type="cpu"))
        self.started, self.requests, self.ended, self.fails = [], [], 0, None
        self.loads_changes, self.held_otherwise = True, []

    def LLM(self, **settings):
        if self.fails is not None:
            raise self.fails
        if settings.get("load_format") == "mastlens" and not self.loads_changes:
            raise ValueError("Load format `mastlens` is not supported")
        self.started.append(settings)
        model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=getattr(torch, settings["dtype"]))
        if settings.get("load_format") == "mastlens":
            model.load_state_dict(load_file(settings["model_loader_extra_config"]["changes"]), strict=False)
        return SimpleNamespace(llm_engine=_Engine(self, model.eval()), collective_rpc=self._inside)

    def _inside(self, method, args):
        assert method == "held_otherwise"
        assert Path(*args).is_file()
        return [self.held_otherwise, []]  # one list a worker


class _Engine:
    def __init__(self, package, model):
        self.package, self.model, self.waiting = package, model, []
        self.engine_core = SimpleNamespace(shutdown=self._shutdown)

    def _shutdown(self):
        self.package.ended += 1
        self.model = None

    def add_request(self, request_id, prompt, params):
        assert not params.detokenize
        assert params.output_kind == "final only"
        self.package.requests.append((list(prompt["prompt_token_ids"]), params))
        self.waiting.append((request_id, list(prompt["prompt_token_ids"]), params))

    def has_unfinished_requests(self):
        return bool(self.waiting)

    def step(self):
        request_id, prompt, params = self.waiting.pop()  # finished in another order than asked
        written, said = [], []
        while len(written) < params.max_tokens and not (written and written[-1] in (params.stop_token_ids or [])):
            logits = self._logits([*prompt, *written])[-1]
            raw = logits.log_softmax(dim=-1)
            if params.allowed_token_ids is not None:
                kept = torch.full_like(logits, -torch.inf)
                kept[params.allowed_token_ids] = logits[params.allowed_token_ids]
                logits = kept
            written.append(int(logits.argmax()))
            said.append({written[-1]: SimpleNamespace(logprob=float(raw[written[-1]]))})
        read = None
        if params.prompt_logprobs is not None:
            scores = self._logits(prompt).log_softmax(dim=-1)
            read = [None] + [
                {token: SimpleNamespace(logprob=float(scores[place, token]))} for place, token in enumerate(prompt[1:])
            ]
        completion = SimpleNamespace(token_ids=written, logprobs=said if params.logprobs is not None else None)
        return [SimpleNamespace(request_id=request_id, finished=True, outputs=[completion], prompt_logprobs=read)]

    @torch.no_grad()
    def _logits(self, ids):
        return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
