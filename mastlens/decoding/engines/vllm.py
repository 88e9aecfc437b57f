r"""The engine that runs vLLM: responses and log-probabilities from one copy of the weights, started once.

vLLM batches, rounds and draws in ways of its own: its responses are as good as those of transformers and need not be
the same. Two evaluations that are compared should come from one engine.

Prompts go in as token ids and responses come out as token ids: templates, think modes and decoding are those of every
engine here, and vLLM has no tokenizer of its own. What ends a response is told to it too, and the generation
configuration of the checkpoint, which may ask for penalties, is not read.
"""

import importlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm.auto import tqdm

from mastlens.decoding.engines.interface import Decoding, Engine, Finished, Opening
from mastlens.decoding.generation import Response, ends_among
from mastlens.decoding.serving import FILE, FORMAT, INSIDE, all_changes, changes_file, whole_folder
from mastlens.errors import MastlensWarning, MissingPackage, NotSupported
from mastlens.problems.answers import boxed
from mastlens.problems.encoding import AUTO, EncodedProblem, context_length
from mastlens.problems.thinking import CLOSER, OPENER, decode_response, ids_open

_ENVIRONMENT = {
    # A command's stdout is its own: with --json it is read by programs.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",  # what somebody evaluates is told to nobody
}
"""Variables that vLLM is started with, where the user has not set them otherwise."""


class VllmEngine(Engine):
    """vLLM on a checkpoint; it starts when it is first asked something.

    Args:
        vllm: The package.
        opening: What it is opened on.
    """

    name: ClassVar[str] = "vllm"
    options: ClassVar[frozenset[str]] = frozenset(
        {"tensor_parallel_size", "gpu_memory_utilization", "max_model_len", "enforce_eager"}
    )

    def __init__(self, vllm: Any, opening: Opening):
        config, stated = _configurations(opening)
        self._vllm, self._opening, self._context = vllm, opening, context_length(config)
        self.tokenizer = opening.tokenizer
        self.ends = tuple(ends_among(stated, opening.tokenizer))
        self._running: Any = None

    @classmethod
    @contextmanager
    def opened(cls, opening: Opening) -> "Iterator[VllmEngine]":
        """Make sure of vLLM, and leave nothing of it running behind the block (see ``Engine``).

        Raises:
            MastlensError: If vLLM is not installed, or cannot hold this checkpoint on this device.
        """
        with _environment():
            engine = cls(_package(), opening)
            _check(engine._vllm, opening)
        try:
            yield engine
        finally:
            engine.close()

    @property
    def context(self) -> int | None:
        """The model's context length in tokens, or the room that was asked for."""
        asked = self._opening.options.get("max_model_len")
        return asked if self._context is None else min(self._context, asked or self._context)

    @property
    def llm(self) -> Any:
        """The running ``vllm.LLM``; started when first asked for."""
        if self._running is None:
            with _environment():
                self._running = self._start()
        return self._running

    def _start(self) -> Any:
        """Return vLLM with the checkpoint, changes included."""
        checkpoint = self._opening.checkpoint
        changes = all_changes(checkpoint, self._opening.changes)
        if not changes and not checkpoint.remote:
            return self._served(checkpoint.folder)
        said = "its weights are not plain files here"
        if not checkpoint.remote and not checkpoint.dequantised:
            with changes_file(changes) as file:
                loading = {"load_format": FORMAT, "model_loader_extra_config": {FILE: str(file)}}
                try:
                    running = self._served(checkpoint.folder, **loading, worker_extension_cls=INSIDE)
                    wrong = {
                        name
                        for worker in running.collective_rpc("held_otherwise", args=(str(file),))
                        for name in worker
                    }
                except NotSupported as error:
                    said = str(error.__cause__)
                else:
                    if not wrong:
                        return running
                    running.llm_engine.engine_core.shutdown()
                    said = f"{min(wrong)} was not found in it again"
        warnings.warn(
            f"vLLM cannot take what changes {checkpoint.spec} while it loads it ({said}): the changed checkpoint is "
            "written to a temporary folder, and that is loaded.",
            MastlensWarning,
            stacklevel=2,
        )
        with whole_folder(checkpoint, changes) as folder:
            return self._served(folder)

    def _served(self, folder: Path, **loading: Any) -> Any:
        """Start vLLM on a folder.

        Raises:
            MastlensError: If it does not start.
        """
        opening, size = self._opening, self._opening.batch_size
        try:
            return self._vllm.LLM(
                model=str(folder),
                skip_tokenizer_init=True,
                generation_config="vllm",
                dtype=opening.computing.dtype,
                seed=0,
                trust_remote_code=False,
                **({} if size == AUTO else {"max_num_seqs": size}),  # its own default
                **opening.options,
                **loading,
            )
        except Exception as error:  # of a dozen classes; what it wrote before says more
            raise NotSupported(
                f"vLLM does not start on {opening.checkpoint.spec}: {type(error).__name__}: {error} (what it wrote "
                "above says more). Where memory is short: --max-model-len, --gpu-memory-utilization, "
                "--tensor-parallel-size. Or leave the engine at 'transformers'."
            ) from error

    def close(self) -> None:
        """End what runs; the memory is free again."""
        running, self._running = self._running, None
        if running is not None:
            running.llm_engine.engine_core.shutdown()

    def respond(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        names: Sequence[str],
        finished: Finished,
        progress: str | None = None,
    ) -> None:
        """Write a response to each prompt (see ``Engine``).

        Raises:
            MastlensError: If a penalty is asked for, or a prompt leaves no room in the model's context.
        """
        if decoding.penalty is not None:
            raise NotSupported("A penalty on reflection tokens works with the engine 'transformers' only.")
        limit, sampling = self.context, decoding.sampling
        asked = []
        for place, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
            room = decoding.max_new_tokens if limit is None else min(decoding.max_new_tokens, limit - len(prompt))
            if room < 1:
                raise NotSupported(f"Item {place}: the prompt has {len(prompt)} tokens and there is room for {limit}.")
            how = {"temperature": 0.0}
            if sampling is not None:
                seed = sampling.seed_of(name) % 2**63  # vLLM takes a signed number
                how = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}
            asked.append((prompt, how | {"max_tokens": room, "stop_token_ids": list(self.ends)}))
        for place, output in self._outputs(asked, progress):
            opened = decoding.stop_at_answer and ids_open(prompts[place], self.tokenizer)
            ids = list(output.outputs[0].token_ids)
            finished(place, self._response(ids, decoding.stop_at_answer, opened))

    def logprobs(
        self, encoded: Sequence[EncodedProblem], *, batch_size: int | str, progress: str | None = None
    ) -> np.ndarray:
        """Return the summed log-probability of each solution, from a softmax in float32 (see ``Engine``).

        The last token is written, not read: it is the only one allowed, and its log-probability is that of before
        anything was forbidden. So a text as long as the context has room.
        """
        asked = [
            (
                (*one.prompt, *one.solution[:-1]),
                {
                    "temperature": 0.0,
                    "max_tokens": 1,
                    "prompt_logprobs": 0,  # of the token that stands there, and no other
                    "logprobs": 0,
                    "allowed_token_ids": [one.solution[-1]],
                },
            )
            for one in encoded
            if one.solution
        ]
        places = [place for place, one in enumerate(encoded) if one.solution]
        sums = np.zeros(len(encoded))
        for number, output in self._outputs(asked, progress):
            place = places[number]
            one = encoded[place]
            read = [output.prompt_logprobs[at] for at in range(len(one.prompt), len(asked[number][0]))]
            found = [*read, output.outputs[0].logprobs[0]]
            sums[place] = sum(float(said[token].logprob) for said, token in zip(found, one.solution, strict=True))
        return sums

    def _outputs(
        self, asked: Sequence[tuple[Sequence[int], Mapping[str, Any]]], progress: str | None
    ) -> Iterator[tuple[int, Any]]:
        """Yield place and output of each request, prompt and sampling parameters, as soon as it is finished."""
        engine = self.llm.llm_engine
        final = self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY
        for place, (prompt, parameters) in enumerate(asked):
            how = self._vllm.SamplingParams(**parameters, detokenize=False, output_kind=final)
            engine.add_request(str(place), {"type": "token", "prompt_token_ids": list(prompt)}, how)
        with tqdm(total=len(asked), desc=progress, disable=progress is None, unit="item", smoothing=0) as bar:
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        yield int(output.request_id), output
                        bar.update(1)

    def _response(self, ids: list[int], stop_at_answer: bool, opened: bool) -> Response:
        if stop_at_answer:
            for count, token in enumerate(ids, start=1):
                if "}" not in str(self.tokenizer.decode([token])):
                    continue
                text = decode_response(ids[:count], self.tokenizer)
                _, closed, rest = text.rpartition(CLOSER)
                if (closed or not (opened or OPENER in text)) and boxed(rest) is not None:
                    return Response(text, count, "answer", tuple(ids[:count]))
        ended = bool(ids) and ids[-1] in self.ends
        text = decode_response(ids[:-1] if ended else ids, self.tokenizer)
        return Response(text, len(ids), "end" if ended else "length", tuple(ids))


@contextmanager
def _environment() -> Iterator[None]:
    """Set the variables that vLLM and the processes that it starts read; the process' own are as they were after it."""
    missing = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _package() -> Any:
    try:
        package: Any = importlib.import_module("vllm")
        for part in ("platforms", "sampling_params"):
            importlib.import_module(f"vllm.{part}")
    except ImportError as error:
        raise MissingPackage(
            "engine='vllm' (--engine vllm) needs vLLM, which is not installed here, or not whole "
            f"({error}): pip install 'mastlens[vllm]' in an environment of its own; docs/vllm.md has it for GPUs and "
            "CPUs. Or leave the engine at 'transformers'."
        ) from error
    return package


def _configurations(opening: Opening) -> tuple[Any, Any]:
    """Return the model's configuration, and the tokens that its generation configuration ends at."""
    from transformers import AutoConfig, GenerationConfig

    folder = opening.checkpoint.folder
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if (folder / "generation_config.json").is_file():
        return config, GenerationConfig.from_pretrained(folder).eos_token_id
    return config, getattr(config.get_text_config(), "eos_token_id", None)


def _check(vllm: Any, opening: Opening) -> None:
    """Raise where vLLM would run elsewhere than was asked for."""
    device = opening.computing.device
    there = vllm.platforms.current_platform.device_type
    kind, _, number = device.partition(":")
    if kind != there:
        raise NotSupported(f"--device {device}: this vLLM was built for {there}. Use --device {there}.")
    if number not in ("", "0"):
        raise NotSupported(
            f"--device {device}: vLLM takes the devices that it sees, from the first on. Set CUDA_VISIBLE_DEVICES="
            f"{number} and use --device {kind}."
        )
