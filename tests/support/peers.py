"""Other tools' real packages, each in a folder of its own that only the process sees which makes something with it.

    python -m tests.support.peers FOLDER    makes anew what lies in tests/data/peers

torch, transformers and the rest are this project's; repeng alone brings its numpy, which it pins below 2.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from massact import toy
from tools.smollm2 import UnavailableError

REPENG, STEERING_VECTORS, LM_EVAL = "repeng==0.4.0", "steering-vectors==0.12.2", "lm-eval==0.4.13"
SAE_LENS = "sae-lens==6.54.12"
_BESIDE = {
    REPENG: ("numpy==1.26.4",),
    SAE_LENS: (
        *("transformer-lens==3.9.0", "better-abc==0.0.3", "datasets==5.2.0", "dill==0.4.1", "docstring-parser==0.18.0"),
        *("einops==0.8.2", "jaxtyping==0.3.11", "multiprocess==0.70.19", "simple-parsing==0.1.9", "wandb==0.31.0"),
        "xxhash==4.1.0",
    ),
}
MODEL, TRAIT = toy.resolve("toy:gemma-2-instruct"), toy.resolve("toy:refusal")
FILES = {REPENG: "repeng-0.4.0.gguf", STEERING_VECTORS: "steering-vectors-0.12.2.pt", SAE_LENS: "sae-lens-6.54.12"}
_SECONDS = 600

_PROLOGUE = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
sides = [Path(sys.argv[2], f"{side}.txt").read_text().splitlines() for side in ("positive", "negative")]
"""
SCRIPTS = {
    REPENG: _PROLOGUE
    + """
from repeng import ControlModel, ControlVector, DatasetEntry

model = ControlModel(model, list(range(1, model.config.num_hidden_layers)))
ControlVector.train(model, tokenizer, [DatasetEntry(*pair) for pair in zip(*sides)]).export_gguf(sys.argv[3])
""",
    STEERING_VECTORS: _PROLOGUE
    + """
from steering_vectors import train_steering_vector

torch.save(train_steering_vector(model, tokenizer, list(zip(*sides))), sys.argv[3])
""",
    SAE_LENS: """
import sys
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.saes.sae import SAEMetadata

torch.manual_seed(0)
place = SAEMetadata(hook_name="blocks.5.hook_resid_post")
StandardSAE(StandardSAEConfig(d_in=96, d_sae=4, metadata=place)).save_model(sys.argv[3])
""",
    LM_EVAL: """
import json, sys
import torch
from lm_eval.models.hf_steered import SteeredModel

model = SteeredModel(pretrained=sys.argv[1], steer_path=sys.argv[2], device="cpu", dtype="float32")
with torch.no_grad():
    torch.save(model._model_call(torch.tensor([json.loads(sys.argv[3])])), sys.argv[4])
""",
}
"""repeng's PCA of paired differences and steering-vectors' mean difference, both at the last token of a prompt; a
random sparse autoencoder; logits of lm-eval's steered model."""
REPENG_READS = """
import json, sys
from repeng import ControlVector

found = ControlVector.import_gguf(sys.argv[1])
with open(sys.argv[2], "w") as file:
    json.dump([found.model_type, {layer: one.tolist() for layer, one in found.directions.items()}], file)
"""


def run_peer(package: str, *arguments: str, script: str | None = None) -> None:
    """Run a package's script, or another with it.

    Raises:
        UnavailableError: the package cannot be fetched, or its script fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(_installed(package)), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    _run([sys.executable, "-c", script or SCRIPTS[package], *arguments], environment)


def make_vectors(folder: Path) -> None:
    """What each package that makes vectors makes of the toy's contrastive prompts."""
    for package, name in FILES.items():
        run_peer(package, str(MODEL), str(TRAIT), str(folder / name))


def _installed(package: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "massact/peers"
    folder = cache / package
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            made = Path(partial, "made")
            wanted = [package, *_BESIDE.get(package, ())]
            _run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(made), *wanted])
            made.rename(folder)
    return folder


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise UnavailableError(f"{command[1:4]}: {done.stderr[-600:]}")


if __name__ == "__main__":
    make_vectors(Path(sys.argv[1]))
