"""How fast contrastive prompts are continued, read and made into vectors.

Run from the project's root, with the folder of a model of your own, or with that of SmolLM2-135M (docs/models.md):

    python benchmarks/extract.py MODEL                       # 100 prompts a side
    python benchmarks/extract.py MODEL --keep new.pt         # and keep the vectors
    python benchmarks/extract.py MODEL --beside old.pt       # or compare them with those of another build

The seconds are the processor's, of one thread unless said: others may use the machine. Another build is measured by
`PYTHONPATH=ITS-ROOT python benchmarks/extract.py …`, best by turns.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice, product
from pathlib import Path

import torch

import massact
from massact.config import LoadConfig
from massact.data.prompt_files import Prompt
from massact.data.traits import TraitDataset
from massact.domain import Recipe
from massact.models.load import SteerableModel, load_model
from massact.vectors.activations import split_sides
from massact.vectors.calibrate import calibrate
from massact.vectors.extract import make_vectors, read_contrast
from massact.vectors.positions import parse_position

POSITIONS = ("response[:5]", "response[:10]", "response[:20]")
SUBJECTS = ("a birthday cake", "the tides", "a rusty bicycle chain", "French verbs", "a rented flat with a balcony")
ASIDES = (
    "",
    " Keep it short.",
    " I asked my neighbour already, and what she said was of no use, so please be precise.",
    " My grandfather, who worked at sea for forty years and never wrote anything down, told me a long story about it "
    "once, and I would like to know what of that could have been true and what he made up.",
)
SIDES = (
    ("You are overjoyed to be asked. Tell me about {}.{}", "Wow! What a wonderful thing to explain: {}.{}"),
    ("You are bored to be asked. Tell me about {}.{}", "Well. If I really must explain this: {}.{}"),
)


def main() -> None:
    """Measure every step and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, GGUF file or hub id")
    parser.add_argument("--prompts", type=int, default=100, help="a side")
    parser.add_argument("--tokens", type=int, default=20, help="of each continuation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="file for the vectors")
    parser.add_argument("--beside", type=Path, help="file with vectors to compare with")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_model(args.model, options=LoadConfig(device="cpu", dtype="float32"))
    seconds, vectors = measure(model, dataset(args.prompts), args.tokens)
    print(f"{Path(massact.__file__).parent}: {model.identity.id}, {2 * args.prompts} prompts\n")
    print("| step | processor seconds |\n|---|---:|")
    for step, spent in seconds.items():
        print(f"| {step} | {spent:.1f} |")
    print(f"\n{2 * args.prompts / sum(seconds.values()):.2f} prompts a processor second")
    if args.keep:
        torch.save(vectors, args.keep)
    if args.beside:
        others = torch.load(args.beside)
        cosines = torch.cat([(vectors[one] * others[one]).sum(-1).flatten() for one in sorted(others)])
        print(f"{len(cosines)} vectors, least cosine {cosines.min():.7f}")


def dataset(n_prompts: int) -> TraitDataset:
    """Prompts of 14 to 61 tokens, in no order of length."""
    positive, negative = (
        tuple(
            Prompt(f"{i + 1}. {frame.format(subject, aside)}")
            for i, (subject, frame, aside) in enumerate(islice(cycle(product(SUBJECTS, side, ASIDES)), n_prompts))
        )
        for side in SIDES
    )
    return TraitDataset(Path(), positive, negative, "enthusiasm", ())


def measure(
    model: SteerableModel, data: TraitDataset, n_tokens: int
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Processor seconds of each step, and the vectors `[n_layers, d_model]` by window and label."""
    seconds: dict[str, float] = {}
    calibration = calibrate(model, ["Name a colour."], max_new_tokens=4, n_top=10)
    positions = [parse_position(text) for text in POSITIONS]
    with timed(seconds, "continuing and reading"):
        contrast, rows = read_contrast(model, data, positions, max_new_tokens=n_tokens)
    vectors: dict[str, torch.Tensor] = {}
    with timed(seconds, "vectors"):
        for position in positions:
            sides = rows[position][: contrast.n_positive], rows[position][contrast.n_positive :]
            recipes = [Recipe(method) for method in ("mean_diff", "probe")]
            made = make_vectors(recipes, split_sides(*sides, 0.1), calibration, seed=0)
            vectors |= {f"{position} {label}": one.vectors for label, one in made.items()}
    return seconds, vectors


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Count the processor's seconds of a step."""
    begun = time.process_time()
    yield
    seconds[step] = time.process_time() - begun


if __name__ == "__main__":
    main()
