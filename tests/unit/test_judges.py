"""Judges: replies read, an endpoint that speaks the documented format on loopback, its errors, its cache, agreement."""

import json
import threading
import traceback
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from mastlens import MastlensError
from mastlens.evaluation.judges import (
    REFUSAL_RUBRIC,
    TRACE_RUBRIC,
    UNJUDGED,
    EndpointJudge,
    Judge,
    LocalJudge,
    Question,
    cohen_kappa,
    judge_agreement,
    judge_all,
)
from mastlens.evaluation.judges.rubrics import AGAIN
from mastlens.evaluation.safety import RefusalPhrases

QUESTION = Question("Where was Orin born?", "Sorn", ("Tavi", "Sorn"))


@pytest.mark.parametrize(
    ("reply", "category"),
    [
        ('{"category": "C3", "reason": "rules out A"}', "C3"),
        ('```json\n{"category": "c2", "reason": "x"}\n```', "C2"),
        ('{"category": 4}', "C4"),
        ('<think>Maybe C1 or C2.</think>{"category": "C4", "reason": ""}', "C4"),
        ("C2", "C2"),
        ("  3.", "C3"),
        ("**Category: C1**", "C1"),
        ("It is C4, because C4 says so.", "C4"),
        ("Not C1 and not C2. Category: C3", "C3"),
        ("C1 or C2", UNJUDGED),
        ("", UNJUDGED),
        ("The year 2024 and C17", UNJUDGED),
        ('{"category": "C9"}', UNJUDGED),
        ('{"category": ', UNJUDGED),
    ],
)
def test_replies_are_read_tolerantly_and_never_guessed(reply, category):
    assert TRACE_RUBRIC.read(reply).category == category


def test_the_reply_about_a_refusal_is_read():
    assert REFUSAL_RUBRIC.read('{"category": "refusal", "reason": "r"}').category == "refused"
    assert REFUSAL_RUBRIC.read("Category: unsafe").category == "complied"
    assert REFUSAL_RUBRIC.read("I complied.").category == "complied"


def test_the_judge_is_told_all_it_needs_and_nothing_else():
    told, asked = (turn["content"] for turn in TRACE_RUBRIC.messages(QUESTION, "Hmm, Orin."))
    assert all(f"{category}:" in told for category in ("C1", "C2", "C3", "C4"))
    assert [
        asked.index(text) for text in (QUESTION.problem, "A. Tavi", "[right answer]\nSorn", "Hmm, Orin.")
    ] == sorted(asked.index(text) for text in (QUESTION.problem, "A. Tavi", "[right answer]\nSorn", "Hmm, Orin."))
    assert "[options]" not in TRACE_RUBRIC.messages(Question("How?"), "x")[1]["content"]


class Server:
    """Speaks the documented format of /v1/chat/completions; ``script`` gives (status, reply, headers) in turn."""

    def __init__(self):
        self.script, self.asked, self.headers = [], [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.headers.append((self.path, dict(self.headers)))
                status, reply, headers = outer.script.pop(0) if outer.script else (200, '{"category": "C2"}', {})
                if status == 200:
                    message = {"role": "assistant", "content": reply}
                    choice = {"index": 0, "message": message, "finish_reason": "stop"}
                    reply = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]})
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(reply.encode())

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def endpoint(server, tmp_path, **changes):
    return EndpointJudge(server.url, "judge-model", **({"cache": tmp_path / "cache", "pause": 0.01} | changes))


def test_an_endpoint_judges_and_a_rerun_asks_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-the-test")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy that nobody could reach
    judge = endpoint(server, tmp_path)
    assert isinstance(judge, Judge)
    server.script = [(200, '{"category": "C3", "reason": "rules out A"}', {})]
    found = judge.judge(QUESTION, "Not Tavi.")
    assert (found.category, found.reason) == ("C3", "rules out A")
    path, headers = server.headers[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret-of-the-test"
    assert server.asked[0]["model"] == "judge-model"
    assert server.asked[0]["temperature"] == 0
    assert [turn["role"] for turn in server.asked[0]["messages"]] == ["system", "user"]
    assert endpoint(server, tmp_path).judge(QUESTION, "Not Tavi.") == found
    assert len(server.asked) == 1
    judge.judge(QUESTION, "Another trace.")
    assert len(server.asked) == 2
    kept = b"".join(file.read_bytes() for file in (tmp_path / "cache").rglob("*") if file.is_file())
    assert b"secret-of-the-test" not in kept
    assert "secret" not in json.dumps(judge.settings)
    assert "secret" not in repr(judge)


def test_many_are_judged_in_order(server, tmp_path):
    pairs = [(QUESTION, f"trace {number}") for number in range(7)]
    judge = endpoint(server, tmp_path, workers=3)
    judge_all(judge, pairs)
    assert len(server.asked) == 7
    names = {json.dumps(TRACE_RUBRIC.messages(*pair)): place for place, pair in enumerate(pairs)}
    for place, pair in enumerate(pairs):  # each reply belongs to its own trace: change one on disk and see which moves
        assert names[json.dumps(server_messages(server, pair))] == place
    assert [one.category for one in judge_all(judge, pairs)] == ["C2"] * 7
    assert len(server.asked) == 7


def server_messages(server, pair):
    return next(
        body["messages"]
        for body in server.asked
        if body["messages"][1]["content"].endswith(f"{pair[1]}\n[end of text]")
    )


def test_busy_servers_are_asked_again(server, tmp_path):
    server.script = [(429, "slow down", {"Retry-After": "0"}), (503, "", {}), (200, "C4", {})]
    assert endpoint(server, tmp_path).judge(QUESTION, "x").category == "C4"
    assert len(server.asked) == 3


def test_an_unreadable_reply_is_asked_for_once_more_and_then_unjudged(server, tmp_path):
    server.script = [(200, "Hmm.", {}), (200, "C1", {})]
    assert endpoint(server, tmp_path).judge(QUESTION, "x").category == "C1"
    assert [turn["role"] for turn in server.asked[1]["messages"]] == ["system", "user", "assistant", "user"]
    server.script = [(200, "Hmm.", {}), (200, "Hm?", {})]
    assert endpoint(server, tmp_path).judge(QUESTION, "y").category == UNJUDGED
    assert len(server.asked) == 4


def test_a_prompt_that_comes_back_with_the_reply_is_no_judgement(server, tmp_path):
    asked = "\n".join(turn["content"] for turn in TRACE_RUBRIC.messages(QUESTION, "Hmm."))
    assert TRACE_RUBRIC.read(asked).category == "C1"  # its own example would be read
    server.script = [(200, f"{asked}\nHmm.", {}), (200, f"{asked}\nHmm.\n{AGAIN}\nC3", {})]
    assert endpoint(server, tmp_path).judge(QUESTION, "Hmm.").category == "C3"
    server.script = [(200, asked, {}), (200, f"{asked}\n{AGAIN}", {})]
    assert endpoint(server, tmp_path, cache=None).judge(QUESTION, "Hmm.").category == UNJUDGED


def test_a_model_that_takes_no_temperature_is_asked_without(server, tmp_path):
    server.script = [
        (400, '{"error": {"message": "Unsupported parameter: max_tokens"}}', {}),
        (400, '{"error": {"message": "temperature does not support 0"}}', {}),
        (200, "C2", {}),
    ]
    judge = endpoint(server, tmp_path)
    assert judge.judge(QUESTION, "x").category == "C2"
    assert "max_completion_tokens" in server.asked[2]
    assert not {"temperature", "max_tokens"} & set(server.asked[2])
    judge.judge(QUESTION, "y")
    assert len(server.asked) == 4  # learnt once


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [(401, "no key", "OPENAI_API_KEY"), (404, "what model", "judge-model"), (400, "bad", "HTTP 400"), (302, "", "302")],
)
def test_refusals_of_the_server_are_said_at_once(server, tmp_path, monkeypatch, status, said, message):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-of-the-test")
    server.script = [(status, said, {"Location": "http://127.0.0.1:9/"} if status == 302 else {})]
    with pytest.raises(MastlensError, match=message) as caught:
        endpoint(server, tmp_path).judge(QUESTION, "x")
    assert "secret" not in str(caught.value)
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_or_speaks_otherwise(server, tmp_path):
    gone = EndpointJudge("http://127.0.0.1:9/v1", "m", tries=2, pause=0.01)
    with pytest.raises(MastlensError, match="2 tries"):
        gone.judge(QUESTION, "x")
    server.script = [(500, "", {})] * 2
    with pytest.raises(MastlensError, match="HTTP 500"):
        endpoint(server, tmp_path, tries=2).judge(QUESTION, "x")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8000", "http://user:key@host/v1"])
def test_addresses_that_are_none(url):
    with pytest.raises(MastlensError, match=r"http|variable"):
        EndpointJudge(url, "m")


def test_a_local_model_judges_and_rubbish_is_unjudged(tiny):
    judge = LocalJudge(tiny.rlvr, max_new_tokens=4)
    assert isinstance(judge, Judge)
    found = judge_all(judge, [(QUESTION, "x"), (QUESTION, "x " * 400)])
    assert {one.category for one in found} == {UNJUDGED}  # this model's context has no room for the question
    assert "context" in found[1].reason
    assert judge.settings["model"]


def test_phrases_of_refusals():
    judge = RefusalPhrases()
    assert judge.judge(QUESTION, "I’m sorry, but no.").category == "refused"
    assert judge.judge(QUESTION, "Mix flour and water, then bake it.").category == "complied"
    assert judge.judge(QUESTION, "Mix flour. " * 40 + "I cannot say more.").category == "complied"


def test_kappa_equals_an_independent_one():
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
    rng = np.random.default_rng(0)
    for _ in range(5):
        first = rng.choice(["C1", "C2", "C3", "C4"], 60)
        second = np.where(rng.random(60) < 0.6, first, rng.choice(["C1", "C2", "C3", "C4"], 60))
        table = np.array(
            [
                [((first == a) & (second == b)).sum() for b in sorted({*first, *second})]
                for a in sorted({*first, *second})
            ]
        )
        expected = inter_rater.cohens_kappa(table).kappa
        assert cohen_kappa(list(first), list(second)) == pytest.approx(expected, abs=1e-12)
    # By hand: 20 + 15 of 50 alike, margins 25/25 and 30/20 (Cohen's textbook example): (0.7 - 0.5) / 0.5.
    one = ["y"] * 25 + ["n"] * 25
    other = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohen_kappa(one, other) == pytest.approx(0.4)


def test_agreement_leaves_out_what_was_not_judged():
    found = judge_agreement(["C1", "C4", "C2", "unjudged", "C1"], ["C1", "C3", "C2", "C4", "C1"])
    assert (found.n, found.unjudged, found.agreement) == (4, 1, 0.75)
    assert found.leak_kappa == 1.0
    assert found.kappa < 1
    assert found.table.loc["C4", "C3"] == 1
    assert found.table.to_numpy().sum() == 4
    assert np.isnan(cohen_kappa(["C1"], ["C1"]))
    with pytest.raises(MastlensError):
        judge_agreement(["unjudged"], ["C1"])


@pytest.mark.parametrize(
    ("reply", "category"),
    [
        (
            'The text says {"category": "C4", "reason": "quoted"}. My judgement: {"category": "C2", "reason": "vague"}',
            "C2",
        ),
        ('{"category": "C2", "reason": "it writes {a, b} and {\\"category\\": \\"C4\\"}"}', "C2"),
        ('{"category": "C3", "reason": "r", "before": {"category": "C1"}}', "C3"),
        ('{"category": "C3"} and the set {1, 2}', "C3"),
        ('{"category": "C3"} {"category": "nothing"} {"other": 1}', "C3"),
        ("{see {" + '{"category": "C1", "reason": {"a": 1}}', "C1"),
        ('{"a":' * 100_000, UNJUDGED),
        ("[" * 100_000, UNJUDGED),
        ('{"' * 100_000 + "C2", "C2"),  # in plain words
    ],
)
def test_of_a_reply_that_quotes_braces_the_last_whole_judgement_counts(reply, category):
    # Of a hundred thousand braces, each looked at with all that follow it, nobody would see the end.
    found = TRACE_RUBRIC.read(reply)
    assert found.category == category
    found.reason.encode()


def test_a_reason_that_is_no_text_is_made_one():
    assert TRACE_RUBRIC.read('{"category": "C1", "reason": "a\\ud800b"}').reason == "a?b"


def test_the_server_is_asked_for_the_schema_and_without_where_it_refuses(server, tmp_path):
    judge = endpoint(server, tmp_path)
    judge.judge(QUESTION, "x")
    schema = server.asked[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["category"]["enum"] == list(TRACE_RUBRIC.categories)
    server.script = [(400, '{"error": "response_format json_schema is not supported"}', {})]
    other = endpoint(server, tmp_path, tries=1)
    assert other.judge(QUESTION, "y").category == "C2"
    assert "response_format" not in server.asked[2]
    assert server.asked[2]["temperature"] == 0  # what was not refused is still sent
    other.judge(QUESTION, "z")
    assert len(server.asked) == 4  # learnt once


KEY = "sk-secret-of-the-test"


@pytest.mark.parametrize("status", [400, 401, 500])
@pytest.mark.parametrize("echo", ["{}", '{{"error": "bad key {}"}}', "Bearer\n{}", "Bearer%20{}"])
def test_a_key_that_the_server_repeats_is_not_shown(server, tmp_path, monkeypatch, status, echo):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.script = [(status, echo.format(KEY), {})]
    with pytest.raises(MastlensError, match=str(status)) as caught:
        endpoint(server, tmp_path, tries=1).judge(QUESTION, "x")
    assert "[key]" in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_a_key_in_a_reply_is_neither_returned_nor_kept(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.script = [(200, f'{{"category": "C3", "reason": "you sent {KEY}"}}', {})]
    assert endpoint(server, tmp_path).judge(QUESTION, "x").reason == "you sent [key]"
    assert KEY.encode() not in b"".join(file.read_bytes() for file in tmp_path.rglob("*.json"))
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nHost: elsewhere")
    with pytest.raises(MastlensError, match="OPENAI_API_KEY") as caught:
        endpoint(server, tmp_path).judge(QUESTION, "y")
    assert KEY not in str(caught.value)


class Endless(BaseHTTPRequestHandler):
    """A server that never finishes: its path says how."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        way = self.path.split("/")[1]
        try:
            if way == "headers":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                self._drip()
            self.send_response(500 if way == "error" else 200)
            self.end_headers()
            if way in ("drip", "error"):
                self._drip()
            elif way == "deep":
                self.wfile.write(b"[" * 2_000_000)
            elif way == "silent":
                self.server.stopping.wait(20)
            while way == "huge" and not self.server.stopping.is_set():
                self.wfile.write(b"x" * 10**6)
        except OSError:
            pass  # the other side has had enough

    def _drip(self):
        while not self.server.stopping.wait(0.1):
            self.wfile.write(b" ")
            self.wfile.flush()

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("way", ["drip", "headers", "error", "silent", "huge", "deep"])
def test_a_server_without_end_is_left_in_time(way):
    made = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    made.daemon_threads, made.stopping = True, threading.Event()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    tracemalloc.start()
    try:
        with pytest.raises(MastlensError, match="1 tries"):  # which comes at all: such a server has no end
            EndpointJudge(f"http://127.0.0.1:{made.server_address[1]}/{way}", "m", tries=1, timeout=1.0).judge(
                QUESTION, "x"
            )
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()
        made.stopping.set()
        made.shutdown()
        made.server_close()
