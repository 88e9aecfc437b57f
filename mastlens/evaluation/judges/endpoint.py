"""A judge behind an OpenAI-compatible endpoint (``/v1/chat/completions``), asked through the standard library.

Every reply is kept on disk under the hash of what was asked, so that a rerun asks nothing. The key comes from the
environment, is sent to the endpoint and is written nowhere.
"""

import http.client
import json
import os
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mastlens.errors import BadFile, BadSetting, MastlensError, NoReply
from mastlens.evaluation.judges.interface import Judgement, Question
from mastlens.evaluation.judges.rubrics import AGAIN, TRACE_RUBRIC, Rubric
from mastlens.evaluation.judges.transport import Response, post
from mastlens.runs.files import sha256_json, write_json
from mastlens.runs.reading import parse_json, read_object

KEY_VARIABLE = "OPENAI_API_KEY"
_TRANSIENT = (408, 409, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for
_REFUSED_ARGUMENT = (400, 415, 422, 501)  # where a server says that it does not take one
_ARGUMENTS = {
    "temperature": ("temperature",),
    "max_tokens": ("max_tokens",),
    "response_format": ("response_format", "json_schema", "structured output", "schema", "grammar"),
}
"""Argument that some servers do not take, and the words by which they say so."""

_SHORTEST_KEY = 8  # characters; "EMPTY", which local servers are given, is no secret


@dataclass(frozen=True)
class EndpointJudge:
    """A model behind an OpenAI-compatible endpoint.

    Attributes:
        url: The endpoint's base, e.g. ``http://127.0.0.1:8000/v1``.
        model: The model's name there.
        rubric: What is judged.
        cache: Folder that keeps every reply; None to keep none.
        key_variable: The environment variable that holds the key, if the endpoint wants one.
        workers: Requests at a time.
        tries: How often a request is sent before giving up; the waits between double.
        pause: Seconds of the first wait.
        timeout: Seconds that one reply may take, all of it together.
        max_tokens: Where a reply is cut off; a judge that thinks needs more.
    """

    url: str
    model: str
    rubric: Rubric = TRACE_RUBRIC
    cache: Path | None = None
    key_variable: str = KEY_VARIABLE
    workers: int = 4
    tries: int = 6
    pause: float = 1.0
    timeout: float = 300.0
    max_tokens: int = 1024
    _dialect: dict[str, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadSetting(
                f"{self.url!r} is no endpoint. Give the base of an OpenAI-compatible server with its scheme, e.g. "
                "http://127.0.0.1:8000/v1."
            )
        if parts.username or parts.password:
            raise BadSetting(f"A key does not belong in the URL: put it into the variable {self.key_variable}.")
        if min(self.workers, self.tries, self.max_tokens) < 1:
            raise BadSetting("An endpoint needs at least one worker, one try and one token.")

    @property
    def settings(self) -> dict[str, Any]:
        """What the judgements depend on."""
        return {
            "judge": "endpoint",
            "url": self.url,
            "model": self.model,
            "rubric": self.rubric.fingerprint,
            "max_tokens": self.max_tokens,
        }

    def judge(self, question: Question, trace: str) -> Judgement:
        """Return the judgement of one text; an unreadable reply is asked for once more.

        Raises:
            MastlensError: If the endpoint cannot be reached or refuses.
        """
        messages = self.rubric.messages(question, trace)
        reply = self.reply(messages)
        judgement = self.rubric.read(_without_echo(reply, messages))
        if judgement.category in self.rubric.categories:
            return judgement
        messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": AGAIN}]
        return self.rubric.read(_without_echo(self.reply(messages), messages))

    def judge_many(self, pairs: Sequence[tuple[Question, str]], *, progress: str | None = None) -> list[Judgement]:
        """Return the judgement of every text, in order, several requests at a time."""
        with (
            ThreadPoolExecutor(self.workers) as pool,
            tqdm(total=len(pairs), desc=progress, disable=progress is None, unit="item") as bar,
        ):
            waiting = [pool.submit(self.judge, *pair) for pair in pairs]
            try:
                found = []
                for one in waiting:
                    found.append(one.result())
                    bar.update(1)
            except BaseException:  # what is not yet asked is not asked after an error or an interruption
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return found

    def reply(self, messages: Sequence[dict[str, str]]) -> str:
        """Return the model's reply to a chat, from disk where it was asked before."""
        asked = {"url": self.url, "model": self.model, "messages": list(messages), "max_tokens": self.max_tokens}
        kept = None
        if self.cache is not None:
            name = sha256_json(asked)
            kept = Path(self.cache) / name[:2] / f"{name}.json"
            try:
                return self._without_key(str(read_object(kept)["reply"]))
            except (MastlensError, KeyError):
                pass  # not there, or torn: ask
        reply = self._ask(messages)
        if kept is not None:
            write_json(kept, {"model": self.model, "reply": reply})
        return reply

    def _ask(self, messages: Sequence[dict[str, str]]) -> str:
        wait, last, attempt = self.pause, "", 0
        while attempt < self.tries:
            body = self._body(messages)
            try:
                response = self._send(body)
                if response.status == 200:
                    return self._without_key(_content(self._without_key(response.text)))
                last = f"HTTP {response.status}: {_excerpt(self._without_key(response.text))}"
                if response.status in _REFUSED_ARGUMENT and self._learns(last, body):
                    continue  # at once, and this was no try
                if response.status not in _TRANSIENT:
                    raise NoReply(f"The judge at {self.url} refused: {last}.{self._advice(response.status)}") from None
                wait = max(wait, _seconds(response.headers.get("Retry-After")))
            except (OSError, http.client.HTTPException, ValueError, BadFile) as error:
                last = _excerpt(self._without_key(f"{type(error).__name__}: {error}"))
            attempt += 1
            if attempt < self.tries:
                time.sleep(min(wait, _LONGEST_WAIT))
                wait *= 2
        raise NoReply(
            f"The judge at {self.url} gave no reply in {self.tries} tries; the last: {last}. Check that it runs; "
            "what it did answer is kept, and the same command asks only for the rest."
        )

    def _body(self, messages: Sequence[dict[str, str]]) -> dict[str, Any]:
        limit = "max_completion_tokens" if self._dialect.get("max_tokens") else "max_tokens"
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), limit: self.max_tokens}
        if not self._dialect.get("temperature"):
            body["temperature"] = 0
        if not self._dialect.get("response_format"):
            body["response_format"] = {"type": "json_schema", "json_schema": self.rubric.schema}
        return body

    def _learns(self, said: str, body: dict[str, Any]) -> bool:
        """Return whether the error names an argument that was sent and is not taken; leave it out from now on.

        Reasoning models of OpenAI take neither a temperature nor ``max_tokens``; not every server can be held to a
        schema, and the reply is read tolerantly anyhow.
        """
        refused = [
            argument
            for argument, words in _ARGUMENTS.items()
            if argument in body and any(word in said.casefold() for word in words)
        ]
        self._dialect.update(dict.fromkeys(refused, True))
        return bool(refused)

    @property
    def _key(self) -> str:
        key = os.environ.get(self.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise BadSetting(f"The variable {self.key_variable} holds characters that no key has. Set it again.")
        return key

    def _send(self, body: dict[str, Any]) -> Response:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return post(f"{self.url.rstrip('/')}/chat/completions", body, headers, timeout=self.timeout)

    def _without_key(self, text: str) -> str:
        """Return what a server said without the key: some repeat it; it is neither shown nor kept."""
        key = self._key
        if len(key) < _SHORTEST_KEY:
            return text
        for spelling in {key, json.dumps(key)[1:-1], urllib.parse.quote(key, safe="")}:
            text = text.replace(spelling, "[key]")
        return text

    def _advice(self, code: int) -> str:
        if code in (401, 403):
            return f" The key is read from the environment variable {self.key_variable}."
        return f" Is there a model {self.model!r} at this address?" if code == 404 else ""


def _content(text: str) -> str:
    reply = parse_json(text, "the reply", "a chat completion")
    try:
        content = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no chat completion: {str(reply)[:200]}") from error
    return "" if content is None else str(content)


def _without_echo(reply: str, messages: Sequence[dict[str, str]]) -> str:
    """Return what a reply says behind the prompt, where the server sent that back with it.

    ``transformers serve`` does for models of Qwen's architectures whose chat template is not Qwen's, such as the R1
    distillations. In the prompt stands an example of a judgement, and nobody has judged by it.
    """
    return reply.rpartition(messages[-1]["content"])[2]


def _excerpt(text: str) -> str:
    return " ".join(text[:3000].split())[:300]


def _seconds(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0  # a date: the doubling wait will do
