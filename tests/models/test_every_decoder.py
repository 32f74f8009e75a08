"""Families of transformers through the tool that tries all of them: a dozen of today's, and those once at fault."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from architectures import Outcome, families, run, table, verdict

COMMON = [
    "llama", "qwen2:sliding", "qwen3_moe", "gemma2", "gemma3", "phi3", "gpt_oss", "deepseek_v3", "glm4_moe",
    "olmo3:window", "starcoder2", "cohere2", "llama4_text", "smollm3",
]  # fmt: skip
ONCE_AT_FAULT = [
    "bloom", "gpt_bigcode", "mpt", "falcon:rw", "gpt_neo", "bart", "roformer", "moshi", "roberta",
    "gemma4_text", "gemma4_text:k_eq_v", "gemma4_text:shared", "gemma4",
    "llama:dynamic", "phi3:longrope", "llama4_text:temperature",
]  # fmt: skip
STATES = [
    "mamba", "mamba2", "xlstm", "jamba", "bamba", "zamba2", "falcon_h1", "nemotron_h", "granitemoehybrid",
    "lfm2", "qwen3_next", "qwen3_5_text", "kimi_linear", "minimax", "recurrent_gemma", "deepseek_v32", "rwkv",
]  # fmt: skip
SEEING = ["qwen2_5_vl", "qwen3_vl", "llava", "mistral3", "smolvlm", "internvl", "paligemma", "lfm2_vl"]
REFUSED = {
    "gemma3n_text": "Gemma3nText pass on 4 residual streams (altup_num_inputs)",
    "deepseek_v4": "DeepseekV4 pass on 4 residual streams (hc_mult)",
    "prophetnet": "decoder block 0 of ProphetNetForCausalLM returned (2, 9, 64) for 2 rows of 3 tokens",
    "openai-gpt": "decoder block 0 returned list",
    "git": "no list of 4 decoder blocks found",
    "image-text:blip-2": "does not run on text alone: it needs pixel_values",
    "image-text:janus": "generates in a way of its own",
    "image-text:kosmos-2.5": "Kosmos2_5 cannot be run on text: RuntimeError: view size is not compatible",
    "xlnet": "pass on [seq, batch, d_model]",
    "image-text:mllama": "without its decoder blocks [3]",
}


ROOT = Path(__file__).resolve().parents[2]
Outcomes = dict[tuple[str, str, str | None], Outcome]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What the tool sees of all of them, in a process that forks before it computes."""
    out = tmp_path_factory.mktemp("outcomes") / "results.jsonl"
    names = {_key(name) for name in (*COMMON, *ONCE_AT_FAULT, *STATES, *REFUSED)} | {
        _key(name, "image-text") for name in SEEING
    }
    patterns = sorted({f"{kind}:{family}" for kind, family, _ in names})
    command = [sys.executable, "benchmarks/architectures.py", "run", "--out", str(out), "--only", *patterns]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    rows = map(json.loads, out.read_text().splitlines())
    return {(one["kind"], one["family"], one["variant"]): one for one in rows}


def _key(name: str, kind: str = "text") -> tuple[str, str, str | None]:
    kind, name = ("image-text", name.removeprefix("image-text:")) if name.startswith("image-text:") else (kind, name)
    family, _, variant = name.partition(":")
    return kind, family, variant or None


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMMON, *ONCE_AT_FAULT, *STATES])
def test_a_decoder_is_exact(name: str, outcomes: Outcomes) -> None:
    outcome = outcomes[_key(name)]
    assert verdict(outcome) == ("exact", ""), outcome
    assert (outcome["note"] is None) == ((name not in STATES and "steps" in outcome) or name.startswith("llama4"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEING)
def test_a_model_that_sees_is_exact_on_text(name: str, outcomes: Outcomes) -> None:
    outcome = outcomes[_key(name, "image-text")]
    assert verdict(outcome) == ("exact", ""), outcome


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_a_decoder_is_refused_before_its_weights_are_read(name: str, outcomes: Outcomes) -> None:
    outcome = outcomes[_key(name)]
    result, reason = verdict(outcome)
    assert result == "refused"
    assert REFUSED[name] in reason
    assert outcome["described"].startswith("refused")
    assert "loaded" not in outcome


def test_families_are_chosen_by_pattern() -> None:
    chosen = families(["gemma3*"])
    assert ("text", "gemma3_text", "bidirectional") in chosen
    assert ("image-text", "gemma3", None) in chosen
    assert families(["text:gemma3"]) == [("text", "gemma3", None)]
    assert len(families()) > 200


def test_what_is_in_the_file_is_not_run_again_and_shards_are_disjoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str, str | None]] = []

    def stand_in(kind: str, family: str, variant: str | None) -> Outcome:
        seen.append((kind, family, variant))
        return {"kind": kind, "family": family, "variant": variant, "class": "X", "built": "ok"}

    monkeypatch.setattr("architectures.study_apart", stand_in)
    out = tmp_path / "results.jsonl"
    for shard in ("1/2", "1/2", "2/2"):
        run(["gemma3*"], shard, out)
    assert sorted(map(str, seen)) == sorted(map(str, families(["gemma3*"])))


def test_the_table_counts_and_names_the_worst(tmp_path: Path) -> None:
    fine = {
        "kind": "text",
        "variant": None,
        "class": "C",
        "built": "ok",
        "note": None,
        "described": "ok",
        "loaded": "ok",
    }
    rows: list[Outcome] = [
        {**fine, "family": "a", "generated": "ok", "steered": "ok", "recorded": "ok"},
        {**fine, "family": "b", "note": "plain", "generated": "wrong: 3 of 24 rows", "steps": "crash: x"},
        {**fine, "family": "c", "generated": "wrong: 1 of 24 rows"},
        {**fine, "family": "d", "described": "refused: FOLDER: why"},
        {**fine, "family": "e", "built": "crash: no"},
    ]
    file = tmp_path / "results.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    text = table([file])
    assert "1 exact" in text
    assert "1 crashed, 1 wrong, 1 refused, 1 not built" in text
    assert "| d | C | shared | – | – | – | – | refused: why |" in text
    assert "e (crash: no)" in text
