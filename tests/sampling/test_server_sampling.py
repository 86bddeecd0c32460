"""Sampling over HTTP: nothing is lost, nothing drawn twice, and each fault is one sentence."""

from __future__ import annotations

import asyncio
import json
import math
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rsgrpo.config import PromptConfig, SamplingConfig, ServingConfig
from rsgrpo.errors import UserError
from rsgrpo.policy.tiny import build_tokenizer
from rsgrpo.records import Problem, Sample
from rsgrpo.sampling.sample import Progress, sample
from rsgrpo.sampling.server import ServerSampler
from rsgrpo.sampling.store import Part, read_parts
from tests.sampling.small_server import Body, completion, small_server, well

PROBLEMS = {
    "easy": [Problem(f"a{i}", f"{i} 2 3 > 6 :", "6") for i in range(5)],
    "hard": [Problem("b", "2 3 4 > 24 :", "24")],
}
N = 16
DRAWS = {(name, p.id, i) for name, rows in PROBLEMS.items() for p in rows for i in range(N)}
SETTINGS = SamplingConfig(
    backend="server", batch_size=20, seed=5
)  # 4 parts of 5 x 4, one of 1 x 16
SERVER = Path(__file__).with_name("small_server.py")


def draw(
    out: Path,
    urls: Sequence[str],
    settings: SamplingConfig = SETTINGS,
    report: Callable[[Progress], None] | None = None,
    prompt: PromptConfig = PromptConfig(),
    **serving: Any,
) -> list[tuple[str, Sample]]:
    policy = out.parent / "policy"
    policy.mkdir(exist_ok=True)
    serving = {"retries": 0, "timeout": 20, **serving}
    sample(
        policy,
        PROBLEMS,
        N,
        out=out,
        settings=settings,
        prompt=prompt,
        serving=ServingConfig(urls=tuple(urls), **serving),
        report=report,
    )
    return list(read_parts(out))


def refusal(out: Path, urls: Sequence[str], **more: Any) -> str:
    with pytest.raises(UserError) as fault:
        draw(out, urls, **more)
    sentence = str(fault.value)
    assert "\n" not in sentence and len(sentence) < 700
    return sentence


def failing(times: int, answer: tuple[int, bytes]) -> Callable[[Body], tuple[int, bytes]]:
    """Answer well but for the first `times` requests."""
    left = iter(range(times))
    return lambda body: well(body) if next(left, None) is None else answer


def test_each_draw_is_there_once_and_reads_as_the_server_wrote_it(tmp_path: Path) -> None:
    with small_server() as server:
        rows = draw(tmp_path / "out", [server.url])
    assert Counter((b, s.problem_id, s.sample_index) for b, s in rows) == dict.fromkeys(DRAWS, 1)
    assert Counter(body["n"] for body in server.requests) == {4: 20, 16: 1}
    assert len({body["seed"] for body in server.requests}) == 21
    body = next(body for body in server.requests if body["n"] == 16)
    drawn = [sample for _, sample in rows if sample.problem_id == "b"]
    for row, told in zip(drawn, completion(body)["choices"], strict=True):
        logprobs = told["logprobs"]["token_logprobs"]
        assert (row.completion, row.n_tokens) == (told["text"], len(logprobs))
        assert row.logprob == math.fsum(logprobs) and row.mean_entropy is None
        assert row.truncated == (told["finish_reason"] == "length")
    assert {row.truncated for _, row in rows} == {True, False}


def test_which_server_answers_changes_no_draw(tmp_path: Path) -> None:
    with small_server() as one, small_server() as other:
        alone = draw(tmp_path / "alone", [one.url])
        one.requests.clear()
        assert draw(tmp_path / "both", [one.url, f"{other.url}/v1/"], in_flight=2) == alone
    assert len(one.requests) + len(other.requests) == 21
    assert min(len(one.requests), len(other.requests)) >= 5


def test_requests_in_flight_are_bounded_and_made_one_by_one(tmp_path: Path) -> None:
    def slow(body: Body) -> tuple[int, bytes]:
        time.sleep(0.002)
        return well(body)

    part = Part("b", 0, 0, 1, 1, tuple(Problem(str(i), "1", "1") for i in range(66)))
    made: list[int] = []

    class Parts(Sequence[Part]):
        """Parts of 66 problems: 675,840 requests in all."""

        def __len__(self) -> int:
            return 10_240

        def __getitem__(self, index: Any) -> Any:
            made.append(index)
            return part._replace(start=index, stop=index + 1)

    def stop(part: Part, _: list[Sample]) -> None:
        assert len(asyncio.all_tasks()) <= 8 + 2
        raise UserError("enough")

    with small_server(slow) as server:
        sampler = ServerSampler(
            "tiny", SETTINGS, PromptConfig(), ServingConfig(urls=(server.url,), in_flight=8)
        )
        with pytest.raises(UserError, match="enough"):
            sampler.draw(Parts(), stop)
    assert 2 <= server.most_at_work <= 8
    assert len(server.requests) < 100 and max(made) <= 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((500, b'{"error": {"message": "out of memory"}}'), r"HTTP 500 \(out of memory\), 2 times"),
        ((503, b"<html>\nbusy"), r"HTTP 503 \(<html> busy\)"),
        ((200, b'{"choices": [{"te'), r"answered no JSON \(\{\"choices\": \[\{\"te\)"),
        ((200, b'{"choices": [{"text": 3}]}'), "answered what is no completion"),
        ((200, b"[]"), "answered what is no completion"),
        ((200, b"[" * 100_000), "answered no JSON"),
        ((200, b'{"choices": [{"text": "", "finish_reason": "abort"}]}'), "gave up a completion"),
        ((400, b'{"detail": "n is too large"}'), r"refuses the request \(n is too large\)"),
        ((401, b""), "wants another key .HTTP 401.: put it in the environment variable OPENAI_API"),
        ((404, b'{"error": "gone"}'), r"with the model tiny \(gone; its models: tiny\)"),
    ],
)
def test_a_server_that_answers_amiss_is_one_sentence_and_finished_parts_are_kept(
    answer: tuple[int, bytes], words: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with small_server() as server:
        seen: list[Progress] = []

        def behave(body: Body) -> tuple[int, bytes]:
            return answer if seen and seen[-1].drawn else well(body)

        server.behave = behave
        sentence = refusal(out, [server.url], report=seen.append, in_flight=1, retries=1)
        assert server.url in sentence
        assert re.search(words, sentence), sentence
        kept = len(list(read_parts(out)))
        assert kept == seen[-1].done and 0 < kept < len(DRAWS)
        server.behave = well
        server.requests.clear()
        assert len(draw(out, [server.url])) == len(DRAWS)
        assert sum(body["n"] for body in server.requests) == len(DRAWS) - kept


def test_a_server_that_hangs_is_one_sentence(tmp_path: Path) -> None:
    def hang(body: Body) -> tuple[int, bytes]:
        time.sleep(3)
        return well(body)

    with small_server(hang) as server:
        began = time.monotonic()
        sentence = refusal(tmp_path / "out", [server.url], timeout=0.2, retries=1)
    assert "did not answer within 0.2 s, 2 times" in sentence
    assert time.monotonic() - began < 20


def test_too_few_choices_are_asked_for_again_with_other_seeds(tmp_path: Path) -> None:
    def stingy(body: Body) -> tuple[int, bytes]:
        return 200, json.dumps(completion(body, n=(body["n"] + 1) // 2)).encode()

    with small_server(stingy) as server:
        rows = draw(
            tmp_path / "out", [server.url], SETTINGS.model_copy(update={"n_of": {"hard": 4}})
        )
    assert len(rows) == 84
    asked = [body for body in server.requests if body["prompt"] == PROBLEMS["hard"][0].problem]
    assert [body["n"] for body in asked] == [4, 2, 1]
    assert len({body["seed"] for body in asked}) == 3


def test_a_choice_that_a_server_repeats_is_one_draw(tmp_path: Path) -> None:
    def stuttering(body: Body) -> tuple[int, bytes]:
        answer = completion(body)
        return 200, json.dumps({**answer, "choices": answer["choices"] * 2}).encode()

    def one_less(body: Body) -> tuple[int, bytes]:
        answer = completion(body, n=max(body["n"] - 1, 1))
        return 200, json.dumps({**answer, "choices": answer["choices"] * 2}).encode()

    with (
        small_server() as plain,
        small_server(stuttering) as server,
        small_server(one_less) as short,
    ):
        undisturbed = draw(tmp_path / "plain", [plain.url])
        assert draw(tmp_path / "twice", [server.url]) == undisturbed
        assert len(draw(tmp_path / "less", [short.url])) == len(undisturbed)
        assert len(short.requests) > len(server.requests) == len(plain.requests)


def test_too_few_choices_again_and_again_are_one_sentence(tmp_path: Path) -> None:
    def miserly(body: Body) -> tuple[int, bytes]:
        return 200, json.dumps({**completion(body), "choices": []}).encode()

    with small_server(miserly) as server:
        sentence = refusal(tmp_path / "out", [server.url], in_flight=1)
    assert "fewer completions than asked" in sentence and ", 3 times: 0 of 4" in sentence
    assert len(server.requests) == 3


def test_a_server_that_cannot_be_reached_is_one_sentence(tmp_path: Path) -> None:
    with small_server() as server:
        pass
    sentence = refusal(tmp_path / "out", [server.url])
    assert "cannot be reached" in sentence and "start one with rsgrpo serve MODEL" in sentence
    assert "write http://HOST:PORT" in refusal(tmp_path / "out", ["localhost:8000"])


def test_the_model_is_the_only_one_or_the_one_that_is_named(tmp_path: Path) -> None:
    models = [{"id": "tiny"}, {"id": "large"}]
    with small_server(models=models) as server:
        assert "lists these models: tiny, large" in refusal(tmp_path / "out", [server.url])
        wrong = refusal(tmp_path / "out", [server.url], model="lerge")
        assert "unknown model 'lerge': did you mean large?" in wrong
        draw(tmp_path / "out", [server.url], model="large")
    assert {body["model"] for body in server.requests} == {"large"}


def test_a_vllm_that_serves_another_policy_is_refused(tmp_path: Path) -> None:
    vllm = {"id": "tiny", "owned_by": "vllm", "parent": None}
    folders = [tmp_path / name for name in ("policy", "copy", "other")]
    for folder, text in zip(folders, ("{}", "{}", '{"a": 1}'), strict=True):
        folder.mkdir()
        (folder / "config.json").write_text(text, encoding="utf-8")
    with small_server(models=[{**vllm, "root": str(folders[2])}]) as server:
        sentence = refusal(tmp_path / "out", [server.url])
    assert f"serves {folders[2]}, not {folders[0]}: serve that one" in sentence
    assert server.requests == []
    for root in (str(folders[1]), "/elsewhere/policy", None):
        with small_server(models=[{**vllm, "root": root}]) as server:
            draw(tmp_path / "out", [server.url])


def test_failures_that_pass_cost_nothing(tmp_path: Path) -> None:
    with small_server(failing(2, (500, b""))) as server:
        rows = draw(tmp_path / "out", [server.url], retries=3, in_flight=1)
    with small_server() as server:
        assert draw(tmp_path / "again", [server.url]) == rows


def test_only_a_server_known_to_be_vllm_gets_what_openai_lacks(tmp_path: Path) -> None:
    with small_server() as server:
        draw(tmp_path / "out", [server.url])
    plain = {"model", "prompt", "n", "max_tokens", "temperature", "top_p", "seed", "logprobs"}
    assert all(set(body) == plain and body["logprobs"] == 1 for body in server.requests)
    with small_server(models=[{"id": "tiny", "owned_by": "vllm"}]) as server:
        draw(tmp_path / "vllm", [server.url])
    penalties = {"top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"}
    assert all(set(body) == plain | penalties for body in server.requests)
    assert {
        (body["logprobs"], body["top_k"], body["repetition_penalty"]) for body in server.requests
    } == {(0, -1, 1.0)}


def test_without_log_probabilities_tokens_are_counted_by_the_usage(tmp_path: Path) -> None:
    def silent(body: Body) -> tuple[int, bytes]:
        if "logprobs" in body:
            return 400, b'{"error": {"message": "logprobs are not supported"}}'
        return well(body)

    with small_server(silent) as server:
        rows = draw(tmp_path / "out", [server.url])
    assert len(rows) == len(DRAWS)
    assert {row.logprob for _, row in rows} == {None}
    assert all(row.n_tokens == len(row.completion) for _, row in rows)


def test_long_completions_are_asked_for_in_smaller_answers(tmp_path: Path) -> None:
    with small_server() as server:
        draw(tmp_path / "out", [server.url], SETTINGS.model_copy(update={"max_new_tokens": 30_000}))
    assert Counter(body["n"] for body in server.requests) == {2: 48}


def test_the_chat_template_needs_the_tokenizer_and_brings_its_start_token(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "<{{ messages[0].content }}>"
    (tmp_path / "policy").mkdir()
    tokenizer.save_pretrained(tmp_path / "policy")
    with small_server() as server:
        draw(tmp_path / "out", [server.url], prompt=PromptConfig(template="chat"))
    assert {body["add_special_tokens"] for body in server.requests} == {False}
    assert "<2 3 4 > 24 :>" in {body["prompt"] for body in server.requests}


def test_the_key_is_sent_and_never_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with small_server(lambda _: (500, b'{"error": "bad key sk-secret"}')) as server:
        sentence = refusal(tmp_path / "out", [server.url], key_variable="MY_KEY")
    assert server.keys == {"Bearer sk-secret"}
    assert "bad key ***" in sentence and "sk-secret" not in sentence


@pytest.mark.parametrize(
    ("key", "sent"), [("sk-secret\n", "Bearer sk-secret"), ('sk-"secret', 'Bearer sk-"secret')]
)
def test_a_key_is_not_told_in_another_spelling(
    key: str, sent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    answer = json.dumps({"other": f"bad key {key.strip()}"}).encode()
    with small_server(lambda _: (500, answer)) as server:
        sentence = refusal(tmp_path / "out", [server.url], key_variable="MY_KEY")
    assert server.keys == {sent}
    assert "bad key ***" in sentence and "secret" not in sentence


def test_a_key_or_an_address_that_cannot_be_sent_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("http://127.0.0.1:99999", "http://[::1", "http://127.0.0.1:abc", "http://\x01:1"):
        assert "is no address: write http://HOST:PORT" in refusal(tmp_path / "out", [url])
    sentence = refusal(tmp_path / "out", ["http://me:secret@127.0.0.1:9"])
    assert "holds a name or password" in sentence and "secret" not in sentence
    monkeypatch.setenv("MY_KEY", "sk-sécret")
    sentence = refusal(tmp_path / "out", ["http://127.0.0.1:9"], key_variable="MY_KEY")
    assert "MY_KEY holds a key with a character that cannot be sent" in sentence
    assert "cret" not in sentence


@pytest.mark.parametrize("encoding", ["hex", "idna", "utf-16", "undefined"])
def test_an_error_in_no_encoding_is_one_sentence(encoding: str, tmp_path: Path) -> None:
    def claim(self: Any, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"text/html; charset={encoding}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.sampling.small_server._Handler._send", claim)
        with small_server(lambda _: (500, b"<b>busy \xff")) as server:
            assert "HTTP 500 (<b>busy" in refusal(tmp_path / "out", [server.url])


def test_figures_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    def change(figures: Body) -> Callable[[Body], tuple[int, bytes]]:
        def behave(body: Body) -> tuple[int, bytes]:
            answer = completion(body)
            answer["choices"] = [row | figures for row in answer["choices"]]
            return 200, json.dumps(
                answer | {"usage": figures.get("usage", answer["usage"])}
            ).encode()

        return behave

    with small_server(change({"logprobs": {"token_logprobs": []}})) as server:
        rows = draw(tmp_path / "empty", [server.url])
        assert {row.logprob for _, row in rows} == {None}
        assert all(row.n_tokens == len(row.completion) for _, row in rows)
    for spent in (10**12, -5, True):
        silent = {"logprobs": None, "usage": {"completion_tokens": spent}}
        with small_server(change(silent)) as server:
            sentence = refusal(tmp_path / "silent", [server.url])
            assert "so their numbers of tokens are unknown" in sentence
    with small_server(change({"logprobs": {"token_logprobs": [10**400]}})) as server:
        assert "answered what is no completion" in refusal(tmp_path / "large", [server.url])


def test_text_that_is_no_unicode_is_kept_as_far_as_it_is(tmp_path: Path) -> None:
    def torn(body: Body) -> tuple[int, bytes]:
        answer = completion(body)
        answer["choices"][0]["text"] = "half \ud83d"
        return 200, json.dumps(answer).encode()

    with small_server(torn) as server:
        rows = draw(tmp_path / "out", [server.url])
    assert "half ?" in {row.completion for _, row in rows}


@contextmanager
def process(log: Path, port: int = 0, delay: float = 0.02) -> Iterator[tuple[Any, str]]:
    command = [sys.executable, str(SERVER), str(port), str(log), str(delay)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        yield server, server.stdout.readline().strip()
    finally:
        server.kill()
        server.wait()


def requests_in(log: Path) -> list[tuple[str, int, int]]:
    return [tuple(json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()]


def test_a_replica_killed_midway_loses_nothing_and_all_killed_keep_what_is_there(
    tmp_path: Path,
) -> None:
    with small_server() as server:
        undisturbed = draw(tmp_path / "undisturbed", [server.url])
    out, logs = tmp_path / "out", [tmp_path / f"{i}.log" for i in range(3)]
    with process(logs[0]) as (one, one_url), process(logs[1]) as (other, other_url):

        def kill_one(progress: Progress) -> None:
            if progress.drawn:
                one.send_signal(signal.SIGKILL)

        urls = [one_url, other_url]
        assert draw(out, urls, report=kill_one, in_flight=3, retries=3) == undisturbed
        assert one.wait() == -signal.SIGKILL
        assert requests_in(logs[0]) and requests_in(logs[1])

        again = tmp_path / "again"
        one_port, other_port = (url.rsplit(":", 1)[1] for url in urls)
        with process(logs[2], int(one_port)) as (new, new_url):
            assert new_url == one_url

            def kill_both(progress: Progress) -> None:
                for server in (new, other) if progress.drawn else ():
                    server.send_signal(signal.SIGKILL)

            sentence = refusal(again, urls, report=kill_both, in_flight=2, retries=1)
        assert "and none of the 2 servers is left" in sentence
        kept = list(read_parts(again))
        assert 0 < len(kept) < len(DRAWS) and set(kept) < set(undisturbed)

        last = tmp_path / "last.log"
        with process(last, int(other_port)) as (_, url):
            assert draw(again, [url]) == undisturbed
        assert sum(n for _, n, _ in requests_in(last)) == len(DRAWS) - len(kept)


def test_evaluate_through_a_server_that_fails_exits_with_2_and_goes_on_from_there(
    policy: Path, tiny_arguments: list[str], tmp_path: Path
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("name: served\n", encoding="utf-8")

    def evaluate(url: str) -> subprocess.CompletedProcess[str]:
        program = [str(Path(sys.executable).with_name("rsgrpo")), "evaluate", str(policy)]
        limits = ["--set", "serving.retries=0", "--set", "serving.in_flight=1"]
        more = ["-c", str(study), *tiny_arguments, "--server", url, *limits]
        more += ["--out", str(tmp_path / "runs")]
        return subprocess.run([*program, *more], capture_output=True, text=True, timeout=300)

    with small_server() as server:
        # six parts of two problems: three are finished, and half of the fourth
        server.behave = lambda body: (500, b"") if len(server.requests) > 7 else well(body)
        done = evaluate(server.url)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("rsgrpo: problem ") and "answered HTTP 500" in last
        server.requests.clear()
        server.behave = well
        assert evaluate(server.url).returncode == 0
        assert [body["n"] for body in server.requests] == [16] * 6
