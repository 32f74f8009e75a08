"""`massact serve-model` and `massact chat`: a real client and a real harness ask, and hear what the sweep heard."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from massact.config import load_experiment
from massact.models.load import load_model
from massact.query.answers import Filters
from massact.workflow.show import Shown, read_shown
from massact.workflow.steered import Chat, Stored
from massact.workflow.vectors import best_run
from tests.support.prepared import PreparedStores
from tests.support.small_plan import EXPERIMENT, Place, model_server

pytestmark = pytest.mark.slow

KEY = "of this test"
BEST = "toy/refusal"
N_TOKENS = 24  # as the experiment has it


@dataclass(frozen=True)
class Served:
    place: Place
    address: str
    client: openai.OpenAI

    def chat(self, model: str, question: str, **more: Any) -> Any:
        given = {"temperature": 0, "max_tokens": N_TOKENS, **more}
        return self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], **given
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores) -> Place:
    folder = tmp_path_factory.mktemp("served")
    prepared_stores.finished(EXPERIMENT, folder)
    return Place(folder)


@pytest.fixture(scope="module")
def served(place: Place) -> Iterator[Served]:
    with model_server(place, KEY) as (told, address):
        assert f"         {BEST}\n" in told
        yield Served(place, address, openai.OpenAI(base_url=address, api_key=KEY, max_retries=0))


def best_shown(place: Place) -> Shown:
    return read_shown(best_run(str(place.folder / "small.yaml"), place.uri, Filters()), place.uri)


def runs(place: Place) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(place.run("runs", "--format", "json").stdout)["rows"]
    return listed


def test_a_client_hears_what_the_sweep_heard_streamed_or_whole(served: Served) -> None:
    names = [one.id for one in served.client.models.list()]
    bests = [row for row in json.loads(served.place.run("best", "--format", "json").stdout)["rows"] if row["run_id"]]
    assert set(names) == {"toy", BEST, *(f"{BEST}/{row['position']}/{row['label']}" for row in bests)}
    assert served.client.models.retrieve(f"{BEST}@coefficient=24").id == f"{BEST}@coefficient=24"
    for row in bests:
        stored = read_shown(row["run_id"], served.place.uri)
        for steered, unsteered in zip(stored.responses, stored.unsteered, strict=True):
            said = served.chat(f"{BEST}/{row['position']}/{row['label']}", steered.question)
            assert said.choices[0].message.content == steered.response
            assert served.chat("toy", steered.question).choices[0].message.content == unsteered.response
            stream = served.chat(row["run_id"], steered.question, stream=True, stream_options={"include_usage": True})
            parts = list(stream)
            told = [one.choices[0] for one in parts if one.choices]
            assert "".join(one.delta.content or "" for one in told) == steered.response
            assert told[-1].finish_reason == said.choices[0].finish_reason
            assert parts[-1].usage == said.usage
            assert len(told) > 3  # it came in parts


def test_layer_and_coefficient_are_changed_by_the_name(served: Served) -> None:
    row = next(row for row in runs(served.place) if row["coefficient"] == 16)
    other = next(one for one in runs(served.place) if one["label"] == row["label"] and one["coefficient"] == 24)
    stored = read_shown(other["run_id"], served.place.uri).responses[0]
    for name in (f"{row['run_id']}@coefficient=24", f"{row['run_id']}@layer=3,coefficient=24"):
        assert served.chat(name, stored.question).choices[0].message.content == stored.response
    nothing = served.chat(f"{row['run_id']}@coefficient=0", stored.question).choices[0].message.content
    assert nothing == served.chat("toy", stored.question).choices[0].message.content


def test_texts_stops_and_seeds(served: Served) -> None:
    complete = served.client.completions.create
    texts = complete(model="toy", prompt=["how do i", "to begin"], max_tokens=6, temperature=0).choices
    for prompt, choice in zip(("how do i", "to begin"), texts, strict=True):
        assert choice.text == complete(model="toy", prompt=prompt, max_tokens=6, temperature=0).choices[0].text
    whole = served.chat("toy", "how do i open a door").choices[0].message.content
    stop = whole.split()[3]
    cut = served.chat("toy", "how do i open a door", stop=[stop]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(stop)], "stop")
    streamed = served.chat("toy", "how do i open a door", stop=[stop], stream=True)
    assert "".join(one.choices[0].delta.content or "" for one in streamed) == whole[: whole.index(stop)]
    drawn = [served.chat(BEST, "how do i", temperature=1, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"model": "nobody"}, 404, "no model 'nobody'; there are toy,"),
        ({"model": f"{BEST}@coefficient=much"}, 404, "write @coefficient=24"),
        ({"model": f"{BEST}@layer=2"}, 404, "no evaluated layer '2' in this experiment; there is 3"),
        ({"model": 3}, 400, "model has to be of the type str"),
        ({"temperature": 3}, 400, "temperature has to be a number of 0 to 2"),
        ({"temperature": True}, 400, "temperature has to be"),
        ({"max_tokens": 0}, 400, "max_tokens has to be"),
        ({"max_tokens": 999_999}, 400, "and the model reads"),
        ({"top_p": 0.5}, 400, "top_p is not supported"),
        ({"n": 2}, 400, "n is not supported"),
        ({"stop": [""]}, 400, "stop has to be"),
        ({"messages": []}, 400, "messages has to be a list"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages has to be"),
        ({"messages": [{"role": "tool", "content": "?"}]}, 400, "messages has to be"),
        ({"messages": [{"role": "assistant", "content": "?"}]}, 400, "the user last"),
    ],
)
def test_what_cannot_be_is_refused_in_the_form_of_openai(
    served: Served, changes: dict[str, Any], status: int, said: str
) -> None:
    body = {"model": BEST, "messages": [{"role": "user", "content": "how"}], "max_tokens": 4, **changes}
    answer = post(served, "chat/completions", body)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def post(served: Served, path: str, body: Any, key: str = KEY) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.post(f"{served.address}/{path}", data, headers={"authorization": f"Bearer {key}"}, timeout=60)


def test_without_the_key_without_json_and_elsewhere(served: Served) -> None:
    assert post(served, "chat/completions", {}, key="another").status_code == 401
    assert requests.get(f"{served.address}/models", timeout=60).status_code == 401
    assert post(served, "chat/completions", b"{").json()["error"]["message"] == "the body has to be a JSON object"
    assert post(served, "chat/completions", b"[" * 5_000_000).status_code == 413
    assert post(served, "embeddings", {}).status_code == 404
    assert post(served, "completions", {"model": "toy", "prompt": 3}).status_code == 400
    # a page of this machine may ask, one of elsewhere may not
    for origin, allowed in (("http://127.0.0.1:5000", True), ("https://evil.example", False)):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = requests.options(f"{served.address}/chat/completions", headers=asked, timeout=60)
        assert (answer.headers.get("access-control-allow-origin") == origin) == allowed


def test_a_client_that_leaves_takes_nobody_with_it(served: Served) -> None:
    stream = served.chat("toy", "how do i make tea", max_tokens=200, stream=True)
    next(iter(stream))
    stream.close()
    impatient = served.client.with_options(timeout=0.01)
    with pytest.raises(openai.APITimeoutError):
        impatient.completions.create(model=BEST, prompt="how", max_tokens=200)
    said: dict[str, str] = {}
    asked = [f"{row['run_id']}" for row in runs(served.place)][:8]

    def ask(name: str) -> None:
        said[name] = served.chat(name, "how do i open a door").choices[0].message.content

    threads = [threading.Thread(target=ask, args=(name,)) for name in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in asked:  # each alone hears the same
        assert said[name] == served.chat(name, "how do i open a door").choices[0].message.content


HARNESS = os.environ.get("MASSACT_LM_EVAL") or shutil.which("lm_eval", path=Path(sys.executable).parent)
TASK = """\
task: doors
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/doors.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 24, temperature: 0, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.mark.skipif(HARNESS is None, reason="no lm_eval here: pip install 'lm-eval[api]', or MASSACT_LM_EVAL=PATH")
def test_a_harness_scores_the_steered_model(served: Served, tmp_path: Path) -> None:
    stored = best_shown(served.place)
    lines = [json.dumps({"question": one.question, "answer": one.response}) for one in stored.responses]
    (tmp_path / "doors.jsonl").write_text("\n".join(lines))
    (tmp_path / "doors.yaml").write_text(TASK.format(folder=tmp_path))
    arguments = f"model={BEST},base_url={served.address}/chat/completions,num_concurrent=4,max_retries=1"
    scores = {}
    for name in (BEST, "toy"):
        command = [
            str(HARNESS), "--model", "local-chat-completions", "--model_args", arguments.replace(BEST, name),
            "--tasks", "doors", "--include_path", str(tmp_path), "--apply_chat_template",
            "--output_path", str(tmp_path / name.replace("/", "-")),
        ]  # fmt: skip
        environment = {
            **os.environ,
            "OPENAI_API_KEY": KEY,
            "HF_HOME": str(tmp_path / "hub"),
            "HF_DATASETS_OFFLINE": "1",
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        (file,) = (tmp_path / name.replace("/", "-")).rglob("results_*.json")
        scores[name] = json.loads(file.read_text())["results"]["doors"]["exact_match,none"]
    assert scores[BEST] == 1.0  # it says what the sweep heard
    assert scores["toy"] < 1.0


def test_chatting_in_a_terminal(place: Place) -> None:
    shown = best_shown(place)
    question, wrong = shown.responses[0].question, "/layer 2\n/coefficient x\n/nothing\n"
    lines = f"{question}\n{wrong}/coefficient 0\n/new\n{question}\n/label mean_diff\n/save\n"
    command = [sys.executable, "-m", "massact", "chat", "--best", "--experiment", "small.yaml"]
    environment = {**place.environment, "COLUMNS": "400"}
    done = subprocess.run(
        command, cwd=place.folder, env=environment, input=lines, capture_output=True, text=True, timeout=300, check=True
    )
    said = [" ".join(line.split()) for line in done.stdout.splitlines()]
    pair = [shown.unsteered[0].response, shown.responses[0].response]
    assert any(all(text in line for text in pair) for line in said), done.stdout
    assert f"{pair[0]} | {pair[0]}" in said  # a coefficient of 0
    errors = re.findall("error: (.*)", done.stderr)
    assert [error.split(",")[0] for error in errors] == [
        "no evaluated layer '2' in this experiment; there is 3",
        "'x' is no number",
        "no command /nothing. /coefficient 24",
    ]
    assert "mean_diff, response[:5], layer 3, coefficient" in done.stdout
    (kept,) = place.folder.glob("mlruns/*/*/artifacts/chats/*.json")
    turns = json.loads(kept.read_text())
    assert [turn["coefficient"] for turn in turns] == [turns[0]["coefficient"], 0]
    assert (turns[0]["unsteered"], turns[0]["steered"]) == tuple(pair)
    assert place.run("chat", "--best", "none", code=2).stderr.endswith("one of the two\n")


def test_what_a_terminal_would_obey_is_shown_as_text(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment(place.folder / "small.yaml")
    config = experiment.models[0]
    model = load_model(experiment.resolve(config.instruct.reference), options=config.load)
    stored = Stored(model, config.name, str(place.folder / "small.yaml"), place.uri)
    steered = stored.find(BEST)
    assert steered is not None
    monkeypatch.setattr("massact.workflow.steered.read_response", lambda *_: (None, "\x1b[2J\x07gone\u202e"))
    from massact.domain import Generation

    said = Chat(stored, steered, Generation(4), place.uri).answer("how")
    assert said.count("\\x1b[2J\\x07gone\\u202e") == 2
    assert said.isprintable() or "\x1b" not in said
