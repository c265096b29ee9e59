from __future__ import annotations

import json
import math
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import launcher
from launcher.core.errors import TaskError, UserError
from launcher.core.types import Endpoint, Response, Status
from launcher.tasks.perplexity import Perplexity
from tests.running import launch_here
from tests.scoring import score

ANSWERS = {
    "/v1/models": {"data": [{"id": "m", "max_model_len": 8}]},
    "/tokenizer_info": {"eos_token": "!"},
}


class _Server(ThreadingHTTPServer):
    def __init__(self, answers):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers


class _Handler(BaseHTTPRequestHandler):
    """A tokenizer with a token for each character, of a model with a context of 8 tokens."""

    server: _Server

    def do_GET(self):
        self._say(self.server.answers[self.path])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._say({"tokens": [ord(c) for c in body["prompt"]]})

    def _say(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def endpoint(**answers):
    server = _Server(ANSWERS | answers)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m", "external", "none")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def samples(task, **answers):
    with endpoint(**answers) as served:
        task.prepare(served)
        return list(task.samples("t", "m"))


def answer(tokens, value=-2.0):
    """Answer with this log-probability for every token but the first."""
    logprobs = {"token_logprobs": [None, *[value] * tokens], "text_offset": [0] * (tokens + 1)}
    return Response(200, {"choices": [{"index": 0, "text": "?", "logprobs": logprobs, "finish_reason": "length"}]})


def results(task, made, value=-2.0):
    """Return the value of each metric for these samples."""
    scores = [score(task, one, answer(len(one.requests[0].body["prompt"]), value)) for one in made]
    assert {found.status for found in scores} == {Status.scored}
    values = {m.name: [(one.id, f.scores[m.name]) for one, f in zip(made, scores, strict=True)] for m in task.metrics}
    return {metric.name: metric.result(values[metric.name], len(made)).value for metric in task.metrics}


def test_a_long_text_is_cut_into_windows_that_fill_the_context(jsonl):
    made = samples(Perplexity(path=jsonl({"id": "a", "text": "abcdefghijklm n"})))
    prompts = ["".join(map(chr, one.requests[0].body["prompt"])) for one in made]
    assert prompts == ["!abcdef", "fghijkl", "ijklm n"]
    assert [one.id for one in made] == ["a:0", "a:1", "a:2"]
    assert [(one.target["context"], one.target["tokens"]) for one in made] == [(1, 6), (1, 6), (4, 3)]
    assert sum(one.target["words"] for one in made) == 2
    assert sum(one.target["bytes"] for one in made) == 15


def test_a_smaller_stride_gives_more_context(jsonl):
    made = samples(Perplexity(path=jsonl({"text": "abcdefghij"}), stride=2))
    prompts = ["".join(map(chr, one.requests[0].body["prompt"])) for one in made]
    assert prompts == ["!abcdef", "bcdefgh", "defghij"]
    assert [one.target["tokens"] for one in made] == [6, 2, 2]


def test_texts_are_joined_only_if_that_is_asked_for(jsonl):
    path = jsonl({"text": "ab"}, {"text": "cd"}, {"text": "ef"})
    assert [one.target["text"] for one in samples(Perplexity(path=path))] == ["1", "2", "3"]
    [joined] = samples(Perplexity(path=path, join="-", limit=2))
    assert "".join(map(chr, joined.requests[0].body["prompt"])) == "!ab-cd"


def test_the_metrics_divide_the_log_likelihood_of_all_texts(jsonl):
    task = Perplexity(path=jsonl({"text": "café au lait"}, {"text": "x"}))
    found = results(task, samples(task))
    assert found["token_perplexity"] == pytest.approx(math.exp(2))
    assert found["word_perplexity"] == pytest.approx(math.exp(2 * 13 / 4))
    assert found["byte_perplexity"] == pytest.approx(math.exp(2 * 13 / 14))
    assert found["bits_per_byte"] == pytest.approx(2 * 13 / 14 / math.log(2))


def test_of_a_window_only_the_scored_tokens_are_kept_and_scored_the_same(jsonl):
    task = Perplexity(path=jsonl({"text": "abcdefghij"}), stride=2)
    found = samples(task)
    assert found[-1].target["context"] > 1
    for sample in found:
        body = answer(len(sample.requests[0].body["prompt"])).body
        [choice] = body["choices"]
        choice["logprobs"]["tokens"] = list("?" * len(choice["logprobs"]["text_offset"]))
        (kept,) = task.kept(sample, [body])
        size = len(kept["choices"][0]["logprobs"]["token_logprobs"])
        assert size == sample.target["tokens"] + 2
        assert score(task, sample, Response(200, kept)) == score(task, sample, Response(200, body))


def test_windows_of_two_lengths_give_no_number(jsonl):
    task = Perplexity(path=jsonl({"text": "abcdefghij"}))
    mixed = samples(task)[:1]
    shorter = Perplexity(path=task.path, max_length=5)
    with pytest.raises(ValueError, match="different lengths"):
        results(task, mixed + samples(shorter)[1:])


@pytest.mark.parametrize("values", [[None, -1.0], [None, -1.0, -1.0, None, -1.0], "no"])
def test_an_answer_without_a_number_for_each_token_fails(jsonl, values):
    task = Perplexity(path=jsonl({"text": "abc"}))
    [sample] = samples(task)
    body = {"choices": [{"index": 0, "text": "", "logprobs": {"token_logprobs": values}, "finish_reason": "length"}]}
    found = score(task, sample, Response(200, body))
    assert (found.status, found.scores) == (Status.failed, {})


@pytest.mark.parametrize(
    ("settings", "answers", "said"),
    [
        ({"max_length": 9}, {}, "max_length=9 is more than the server's context of 8 tokens"),
        ({"stride": 7}, {}, "stride=7 leaves out tokens; a window of 8 scores at most 6"),
        ({}, {"/v1/models": {"data": [{"id": "m"}]}}, "set max_length=<tokens>"),
        ({}, {"/tokenizer_info": {}}, "set prefix_token_id=<token id>"),
        ({"tokenizer": "nowhere"}, {}, "tokenizer=nowhere is not a folder"),
    ],
)
def test_settings_that_do_not_fit_the_server_are_one_line(jsonl, settings, answers, said):
    with pytest.raises(TaskError) as caught:
        samples(Perplexity(path=jsonl({"text": "abc"}), **settings), **answers)
    assert said in str(caught.value)


AWAY = Endpoint("http://127.0.0.1:9/v1", "m", "external", "none")
"""Nothing listens at the address."""


def test_stored_answers_are_scored_without_the_server_that_gave_them(jsonl):
    path = jsonl({"text": "abcdef"})
    tokenizer = str(Path(launcher.__file__).parent / "assets/tiny/iter_0000800/tokenizer")
    task = Perplexity(path=path, tokenizer=tokenizer, max_length=64)
    task.prepare(AWAY)
    assert len(list(task.samples("t", "m"))) == 1
    for lacking in ({"tokenizer": tokenizer}, {"max_length": 64}):
        with pytest.raises(TaskError, match=r"without the server, set tokenizer=<.*> and max_length=<tokens>"):
            Perplexity(path=path, **lacking).prepare(AWAY)


def test_a_window_that_scores_nothing_is_refused():
    with pytest.raises(UserError, match="max_length=2 is too short"):
        Perplexity(max_length=2)


def test_a_plan_shows_the_texts_and_a_bad_one_ends_it(tmp_path):
    (tmp_path / "my.txt").write_text("Some text.")
    asked = ("mode=plan", "tasks=[perplexity]")
    done = launch_here(tmp_path, *asked, "tasks.perplexity.path=my.txt")
    assert done.returncode == 0, done.stderr
    for path, said in (("", "path is empty"), ("none.txt", "there is no file or folder")):
        done = launch_here(tmp_path, *asked, f"tasks.perplexity.path={path}")
        assert done.returncode == 1
        assert said in done.stderr.strip().splitlines()[-1]
