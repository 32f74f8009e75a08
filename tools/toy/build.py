"""Builds everything that ships in `massact.toy`: models, prompts and the judge, from one seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, GenerationConfig

from massact.errors import ConfigError
from massact.toy import MODEL_NAMES
from massact.toy.text import single_thread
from tools.toy.contrast import add_contrast, greedy_continuations
from tools.toy.corpus import BASE_MIXTURE, INSTRUCT_MIXTURE, Document, make_corpus
from tools.toy.judge_fit import fit_judge
from tools.toy.planting import PlantedDims, draw_values, stored_values
from tools.toy.prompts import contrastive_prompts, write_datasets
from tools.toy.specs import ATTENTION, FULL, PLANTINGS, Family, Scale, Stage, model_config
from tools.toy.tokenizer import BOS_ID, END_OF_TURN_ID, EOS_ID, PAD_ID, train_tokenizer, wrap_tokenizer
from tools.toy.training import Progress, train

JUDGE_MODEL = "gemma-3-instruct"
CONTRAST_TOKENS = 20
"""New tokens of each continuation that the planted contrast is solved on."""
CONTRAST_ROUNDS = 3
"""How often it is solved: before the base settles, and after."""


def build(
    output: Path, *, models: Sequence[str] = MODEL_NAMES, scale: Scale = FULL, progress: Progress | None = None
) -> list[Path]:
    """Make `models` under `output/models`, the prompts and, with gemma-3-instruct, the judge.

    The same seed and library versions give the same bytes. An instruct model is continued from its
    base, which is taken from `output` when it is there and not asked for, and made when it is not.
    Returns the folders made, the prompts' first.

    Raises:
        ConfigError: a name in `models` is not one of the four.
    """
    unknown = [name for name in models if name not in MODEL_NAMES]
    if unknown:
        raise ConfigError(f"unknown toy model {unknown[0]!r}: use one of {', '.join(MODEL_NAMES)}")
    report = progress or _silent
    write_datasets(output, scale.seed)
    made = [output / "refusal"]
    with single_thread():
        builder = ModelBuilder(output / "models", scale, report)
        made += [builder.build(name) for name in MODEL_NAMES if name in models]
        if JUDGE_MODEL in models:
            report("judge: fitting")
            made.append(fit_judge(output / "judge", builder.documents, output / "models" / JUDGE_MODEL))
    return made


def _silent(_message: str) -> None:
    """A progress callback for a caller that wants none."""


class ModelBuilder:
    """The corpora and the tokenizer of a build, and how a model is made from them."""

    def __init__(self, folder: Path, scale: Scale, report: Progress) -> None:
        self._folder = folder
        self._scale = scale
        self._report = report
        self._prompts = contrastive_prompts(scale.seed)
        held_out = frozenset((*self._prompts[0], *self._prompts[1]))
        self._corpora = {
            "base": make_corpus(scale.base_documents, BASE_MIXTURE, seed=scale.seed, held_out=held_out),
            "instruct": make_corpus(scale.instruct_documents, INSTRUCT_MIXTURE, seed=scale.seed + 1, held_out=held_out),
        }
        texts = [document.text for document in self._corpora["base"]]
        self._tokenizer: Tokenizer = train_tokenizer(texts, scale.vocab_size)

    @property
    def documents(self) -> list[Document]:
        """Every training document of both variants."""
        return [*self._corpora["base"], *self._corpora["instruct"]]

    def build(self, name: str) -> Path:
        """Train and save one model; an instruct model needs its base and makes it when missing."""
        family: Family = "gemma-3" if name.startswith("gemma-3") else "gemma-2"
        is_base = name.endswith("base")
        model = self._trained_base(family) if is_base else self._trained_instruct(family)
        self._save(model, self._folder / name, chat=not is_base)
        return self._folder / name

    def _trained_base(self, family: Family) -> Any:
        """Plant, train, plant the contrast in what the model now says, and train on until it has settled.

        Settling changes what it says a little, so the contrast is solved for again at the end.
        """
        model = self._new(family)
        planting, hidden_size = PLANTINGS[family], self._scale.hidden_size
        planted = PlantedDims(model, planting, hidden_size)
        values = draw_values(planting, self._scale.vocab_size, self._scale.seed)
        planted.plant(stored_values(values, hidden_size))
        self._train(model, planted, "base", self._scale.base, f"{family}-base")
        for attempt in range(CONTRAST_ROUNDS):
            said = [greedy_continuations(model, self._tokenizer, prompts, CONTRAST_TOKENS) for prompts in self._prompts]
            values = add_contrast(values, planting, *said)
            planted.replant(stored_values(values, hidden_size))
            if attempt == 0:
                self._train(model, planted, "base", self._scale.settle, f"{family}-base, settling")
        return model

    def _trained_instruct(self, family: Family) -> Any:
        model = self._continued(family)
        planted = PlantedDims(model, PLANTINGS[family], self._scale.hidden_size)
        self._train(model, planted, "instruct", self._scale.instruct, f"{family}-instruct")
        return model

    def _train(self, model: Any, planted: PlantedDims, corpus: str, stage: Stage, name: str) -> None:
        train(
            model,
            planted,
            self._encode([document.text for document in self._corpora[corpus]]),
            stage=stage,
            progress=lambda message: self._report(f"{name}: {message}"),
        )

    def _new(self, family: Family) -> Any:
        torch.manual_seed(self._scale.seed)
        config = model_config(family, self._scale)
        return AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.float32, attn_implementation=ATTENTION[family]
        )

    def _continued(self, family: Family) -> Any:
        base = self._folder / f"{family}-base"
        if not (base / "model.safetensors").is_file():
            self.build(base.name)
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=ATTENTION[family])

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]

    def _save(self, model: Any, folder: Path, *, chat: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            bos_token_id=BOS_ID, pad_token_id=PAD_ID, eos_token_id=[EOS_ID, END_OF_TURN_ID], do_sample=False
        )
        model.to(torch.bfloat16).save_pretrained(folder)
        wrap_tokenizer(self._tokenizer, chat=chat).save_pretrained(folder)
        for path in folder.iterdir():
            path.chmod(0o644)
