"""How fast a grid of steered responses is generated, beside what the common libraries do.

Run from the project's root; nothing is downloaded:

    python benchmarks/steering.py                         # the embedded toy, with natural ends of text
    python benchmarks/steering.py --model random-100m     # a random Gemma-3 of about 100 M parameters
    python benchmarks/steering.py --model gemma-3-4b      # its full shape in bf16, random weights: needs a GPU

The grid is 12 labels x 6 coefficients x 10 questions x 64 tokens at one layer. On the same model, prompts
and vectors, in one run: (a) one cell at a time through `model.generate` with a hook; (b) the grid as one
padded batch through `model.generate` with a hook that adds to each row its own; (c) ours; (c) without each
of the things that make it fast; and our rate with more and more distinct vectors against that of the same
batch unsteered. Tokens are compared. On a GPU the floor by measured bandwidth and rate is stated as well.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig
from transformers.cache_utils import DynamicCache

from massact.config import LoadConfig
from massact.domain import Generation, ModelIdentity
from massact.models import decode, generate
from massact.models.blocks import steer
from massact.models.decode import Branching, plan_branching
from massact.models.load import SteerableModel, load_model
from massact.models.operators import Edit
from massact.models.prompting import Intervention, Row

N_LABELS, COEFFICIENTS, N_QUESTIONS, N_TOKENS = 12, 6, 10, 64
Responses = list[tuple[int, ...]]


def main() -> None:
    """Measure all ways and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SUBJECTS), default="toy")
    parser.add_argument("--repeat", type=int, default=3, help="runs of (b) and (c), by turns; the least counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--questions", type=int, default=N_QUESTIONS)
    parser.add_argument("--skip-one-by-one", action="store_true", help="leave out (a), which takes long")
    parser.add_argument("--skip-parts", action="store_true", help="leave out (c) without each of its parts")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    subject = SUBJECTS[args.model](args.questions)
    print(f"{args.model} on {device_name(subject.model)}, torch {torch.__version__}, {args.threads} threads")
    print(f"{len(subject.rows)} responses of at most {N_TOKENS} tokens\n")
    measure_ways(subject, args)
    if not args.skip_parts:
        measure_parts(subject, args.repeat)
    measure_vectors(subject, args.repeat)
    if subject.model.device.type == "cuda":
        print_floor(subject)


@dataclass
class Subject:
    """A model and the rows of the grid, a cell after the other."""

    model: SteerableModel
    rows: list[Row]
    n_questions: int


def toy(n_questions: int) -> Subject:
    """The embedded Gemma-3 with vectors from its own extraction."""
    from massact.data.traits import load_prompts, load_trait
    from massact.labels import parse_label
    from massact.models.prompting import encode_chat
    from massact.vectors.activations import split_sides
    from massact.vectors.calibrate import calibrate
    from massact.vectors.extract import make_vectors, read_contrast
    from massact.vectors.positions import parse_position

    base, model = (
        load_model(f"toy:gemma-3-{name}", options=LoadConfig(dtype="float32", device="cpu"))
        for name in ("base", "instruct")
    )
    trait, position, layer = load_trait("toy:refusal"), parse_position("response[:5]"), 3
    calibration = calibrate(model, load_prompts("toy:calibration"), max_new_tokens=32, n_top=10)
    texts, means = read_contrast(base, trait, [position], max_new_tokens=5)
    rows = means[position]
    contrast = split_sides(rows[: texts.n_positive], rows[texts.n_positive :], 0.1)
    suffixes = ("", "_top1", "_top2", "_top3", "_cleaned", "_preclean")
    recipes = [parse_label(method + suffix) for method in ("probe", "mean_diff") for suffix in suffixes]
    vectors = [one.vectors[layer] for one in make_vectors(recipes, contrast, calibration, seed=0).values()]
    prompts = [encode_chat(model, question) for question in trait.questions[:n_questions]]
    return Subject(model, rows_of(prompts, vectors, (12, 16, 20, 24, 30, 38), layer), len(prompts))


def random_gemma(config: Gemma3TextConfig, dtype: torch.dtype, n_questions: int) -> Subject:
    """A Gemma-3 of random weights; prompts of 14 to 30 random tokens, random vectors, the middle layer."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        network = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    network = network.eval().requires_grad_(False)
    network.generation_config.eos_token_id = 1

    class Tokenizer:
        chat_template = None
        eos_token_id = 1

    model = SteerableModel(network, Tokenizer(), ModelIdentity("random", "0", str(dtype)))
    random = torch.Generator().manual_seed(1)
    prompts = [
        (2, *torch.randint(5, config.vocab_size, (14 + i * 16 // 9,), generator=random).tolist())
        for i in range(n_questions)
    ]
    vectors = [torch.randn(config.hidden_size, generator=random) for _ in range(N_LABELS)]
    layer = config.num_hidden_layers // 2
    rows = rows_of(prompts, [v / v.norm() for v in vectors], (5, 10, 20, 40, 80, 160), layer)
    return Subject(model, rows, n_questions)


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "toy": toy,
    "random-100m": lambda n: random_gemma(
        Gemma3TextConfig(
            vocab_size=32768, hidden_size=768, intermediate_size=3072, num_hidden_layers=9, num_attention_heads=6,
            num_key_value_heads=2, head_dim=128, eos_token_id=1, bos_token_id=2, pad_token_id=0,
        ),
        torch.float32,
        n,
    ),
    "gemma-3-4b": lambda n: random_gemma(
        Gemma3TextConfig(
            vocab_size=262208, hidden_size=2560, intermediate_size=10240, num_hidden_layers=34, num_attention_heads=8,
            num_key_value_heads=4, head_dim=256, sliding_window=1024, eos_token_id=1, bos_token_id=2, pad_token_id=0,
        ),
        torch.bfloat16,
        n,
    ),
}  # fmt: skip


def rows_of(
    prompts: Sequence[tuple[int, ...]], vectors: Sequence[torch.Tensor], coefficients: Sequence[float], layer: int
) -> list[Row]:
    """Every vector with every coefficient on every prompt."""
    return [
        Row(prompt, Intervention(layer, vector, coefficient), draw)
        for vector in vectors
        for coefficient in coefficients
        for draw, prompt in enumerate(prompts)
    ]


def by_transformers(model: SteerableModel, rows: Sequence[Row]) -> Responses:
    """The rows as one padded batch through `model.generate`, steered by a hook."""
    width = max(len(row.prompt) for row in rows)
    tokens, mask = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    additions: dict[int, torch.Tensor] = {}
    for i, row in enumerate(rows):
        tokens[i, width - len(row.prompt) :] = torch.tensor(row.prompt)
        mask[i, width - len(row.prompt) :] = 1
        if row.intervention is not None:
            empty = torch.zeros(len(rows), 1, model.shape.d_model)
            additions.setdefault(row.intervention.layer, empty)[i, 0] = row.intervention.values
    moved = {layer: Edit(addition.to(model.device)) for layer, addition in additions.items()}
    with steer(model.blocks, moved), torch.inference_mode():
        found = model.model.generate(
            input_ids=tokens.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=N_TOKENS,
            do_sample=False,
            eos_token_id=sorted(model.end_tokens),
            pad_token_id=0,
        )
    said = found[:, width:].tolist()
    ends = [next((i for i, token in enumerate(row) if token in model.end_tokens), None) for row in said]
    return [tuple(row[:end]) for row, end in zip(said, ends, strict=True)]


def ours(subject: Subject, rows: Sequence[Row] | None = None, **how: Any) -> Callable[[], Responses]:
    """Our way with a generator that is kept, as a sweep does; its first call makes ready."""
    generator = generate.Generator(subject.model, **how)
    wanted = subject.rows if rows is None else rows
    return lambda: generator.generate(wanted, Generation(N_TOKENS))


def measure_ways(subject: Subject, args: argparse.Namespace) -> None:
    """(a), (b) and (c) beside each other."""
    model, rows = subject.model, subject.rows
    found: dict[str, tuple[float, Responses]] = {}
    if not args.skip_one_by_one:
        cells = [rows[i : i + subject.n_questions] for i in range(0, len(rows), subject.n_questions)]
        by_transformers(model, cells[0])
        found["(a) one cell at a time"] = clock(lambda: [one for cell in cells for one in by_transformers(model, cell)])
    both = by_turns({"b": lambda: by_transformers(model, rows), "c": ours(subject)}, args.repeat)
    found["(b) one padded batch"], found["(c) ours"] = both["b"], both["c"]
    reference, (_, expected) = both["c"][0], both["b"]
    print("| way | seconds | times ours | tokens/s | responses as (b) |\n|---|---|---|---|---|")
    for name, (seconds, said) in found.items():
        same = sum(one == other for one, other in zip(said, expected, strict=True)) / len(said)
        rate = sum(map(len, said)) / seconds
        print(f"| {name} | {seconds:.2f} | {seconds / reference:.2f} | {rate:,.0f} | {same:.1%} |")
    lengths = [len(one) for one in both["c"][1]]
    print(f"\nmean length {statistics.fmean(lengths):.1f} tokens, {sum(n < N_TOKENS for n in lengths)} ended\n")


def measure_parts(subject: Subject, repeat: int) -> None:
    """(c) without each of its parts, by turns."""
    ways: dict[str, Callable[[], Responses]] = {"all parts": ours(subject)}
    if subject.model.device.type == "cuda":
        ways["without recorded steps"] = ours(subject, recorded=False)
    doubled = subject.rows + subject.rows[: len(subject.rows) // 4]
    ways["a quarter of the rows twice"] = ours(subject, doubled)
    for name, patch in PARTS.items():
        plain = ours(subject, doubled if "alike" in name else None, recorded=False)
        ways[name] = within(patch, plain)
    print("| (c) | seconds |\n|---|---|")
    for name, (seconds, _) in by_turns(ways, repeat).items():
        print(f"| {name} | {seconds:.2f} |")
    print()


def measure_vectors(subject: Subject, repeat: int) -> None:
    """Our rate with more and more distinct vectors in one batch, against the same batch unsteered."""
    prompts = [row.prompt for row in subject.rows[: subject.n_questions]]
    layer = subject.rows[0].intervention.layer if subject.rows[0].intervention else 0
    vectors = torch.randn(256, subject.model.shape.d_model)
    batch = [prompts[i % len(prompts)] for i in range(256)]
    ways: dict[str, Callable[[], Responses]] = {}
    for count in (0, 1, 16, 256):
        rows = [
            Row(prompt, Intervention(layer, vectors[i % count], 1e-3) if count else None, i)
            for i, prompt in enumerate(batch)
        ]
        ways[f"{count}"] = within(_no_sharing_no_ends, ours(subject, rows))
    found = by_turns(ways, repeat)
    print("| distinct vectors | tokens/s | of unsteered |\n|---|---|---|")
    for name, (seconds, _) in found.items():
        print(f"| {name} | {256 * N_TOKENS / seconds:,.0f} | {found['0'][0] / seconds:.1%} |")
    print()


def plain_branching(rows: Sequence[Row], n_layers: int, device: torch.device) -> Branching:
    """As if every row had a prompt of its own."""
    own = [Row((*row.prompt, -i - 1), row.intervention) for i, row in enumerate(rows)]
    plan = plan_branching(own, n_layers, device)
    return Branching([row.prompt for row in rows], plan.steps, plan.sources)


class ConcatenatingCache(DynamicCache):
    """transformers' own cache in the place of ours."""

    def __init__(self, config: Any, n_rows: int, capacity: int) -> None:
        super().__init__()
        self.n_rows, self.capacity = n_rows, capacity
        self._sources: list[torch.Tensor | None] = [None] * config.num_hidden_layers

    def begin(self, _n_live: int) -> None:
        """Forget what is kept."""
        self.layers.clear()

    def sources(self, rows: list[torch.Tensor | None]) -> None:
        """See `massact.models.cache.RowCache`."""
        self._sources = list(rows)

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Keep the rows' keys; give those of the streams at the prefill."""
        source, self._sources[layer_idx] = self._sources[layer_idx], None
        if source is not None:
            super().update(key_states[source], value_states[source], layer_idx)
            return key_states, value_states
        return super().update(key_states, value_states, layer_idx)

    def move(self, taken: torch.Tensor, places: torch.Tensor, n_live: int) -> None:
        """Select the rows that go on."""
        kept = torch.arange(n_live, device=places.device)
        kept[places] = taken
        self.batch_select_indices(kept)


def _never_ends(chosen: torch.Tensor, _ends: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(chosen, dtype=torch.bool)


def _no_sharing_no_ends(stack: ExitStack) -> None:
    stack.enter_context(mock.patch.object(decode, "plan_branching", plain_branching))
    stack.enter_context(mock.patch.object(decode, "is_end", _never_ends))
    stack.enter_context(
        mock.patch.object(generate, "distinct_rows", lambda rows, _: (list(rows), list(range(len(rows)))))
    )


def patching(module: Any, name: str, value: Any) -> Callable[[ExitStack], None]:
    """Put a value in a module's place for a while."""

    def patch(stack: ExitStack) -> None:
        stack.enter_context(mock.patch.object(module, name, value))

    return patch


PARTS: dict[str, Callable[[ExitStack], None]] = {
    "without shared prompts": patching(decode, "plan_branching", plain_branching),
    "rows that ended stay": patching(decode, "is_end", _never_ends),
    "with transformers' cache": patching(generate, "RowCache", ConcatenatingCache),
    "a quarter twice, alike rows generated apart": patching(
        generate, "distinct_rows", lambda rows, _: (list(rows), list(range(len(rows))))
    ),
}


def within(patch: Callable[[ExitStack], None], way: Callable[[], Responses]) -> Callable[[], Responses]:
    """A way, run with a patch."""

    def run() -> Responses:
        with ExitStack() as stack:
            patch(stack)
            return way()

    return run


def by_turns(ways: dict[str, Callable[[], Responses]], repeat: int) -> dict[str, tuple[float, Responses]]:
    """The least time of each way, all run in turn, after a first run that counts for nothing on a GPU."""
    best: dict[str, tuple[float, Responses]] = {}
    if torch.cuda.is_available():
        for way in ways.values():
            way()
    for _ in range(repeat):
        for name, way in ways.items():
            found = clock(way)
            best[name] = min(best.get(name, found), found, key=lambda one: one[0])
    return best


def clock(way: Callable[[], Responses]) -> tuple[float, Responses]:
    """Seconds of a run, and what it gave."""
    with synchronised():
        began = time.perf_counter()
        said = way()
    return time.perf_counter() - began, said


@contextmanager
def synchronised() -> Iterator[None]:
    """Wait for the GPU before and after."""
    for last in (False, True):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if not last:
            yield


def print_floor(subject: Subject) -> None:
    """The least seconds that the grid can take: bytes over measured bandwidth, operations over measured rate."""
    bandwidth, rate = measured_bandwidth(), measured_rate(subject.model.model.dtype)
    network, config = subject.model.model, subject.model.model.config
    weights = sum(one.numel() * one.element_size() for one in network.parameters())
    active = sum(one.numel() for one in network.parameters())
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * network.dtype.itemsize
    prompts = {row.prompt for row in subject.rows}
    prompt_tokens = sum(map(len, prompts))
    seconds = max(weights / bandwidth, 2 * active * prompt_tokens / rate)
    for step in range(1, N_TOKENS):
        cached = sum(len(row.prompt) + step for row in subject.rows) * token
        seconds += max((weights + cached) / bandwidth, 2 * active * len(subject.rows) / rate)
    print(f"measured: {bandwidth / 1e12:.2f} TB/s, {rate / 1e12:.0f} Tflop/s; floor of the grid {seconds:.2f} s")


def measured_bandwidth() -> float:
    """Bytes a second, read and written, of a copy of 4 GB."""
    source = torch.empty(1 << 30, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    seconds = min(_seconds(lambda: target.copy_(source)) for _ in range(5))
    return 2 * source.numel() * 4 / seconds


def measured_rate(dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product."""
    one = torch.randn(8192, 8192, dtype=dtype, device="cuda")
    return 2 * 8192**3 / min(_seconds(lambda: one @ one) for _ in range(5))


def _seconds(work: Callable[[], object]) -> float:
    with synchronised():
        began = time.perf_counter()
        work()
    return time.perf_counter() - began


def device_name(model: SteerableModel) -> str:
    """The GPU's name, or the processor's kind."""
    return torch.cuda.get_device_name() if model.device.type == "cuda" else platform.machine() + " CPU"


if __name__ == "__main__":
    main()
