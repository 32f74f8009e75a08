"""`massact serve-model` asked by several clients, each for another intervention, at once and one after another.

Run from the project's root, in a folder or with a store where the demo (`make demo`) has run:

    python benchmarks/serve_model.py --experiment experiments/toy.yaml --model toy-gemma-3

Every client asks for the same number of tokens, greedily, of a best of its own; both ways are measured in turn,
--repeat times, after one round that counts for nothing. Given are tokens per second.
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import openai
from query import versions


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions()}")
    print(f"{args.model}; load when it began: {os.getloadavg()[0]:.1f}\n")
    command = [sys.executable, "-m", "massact", "serve-model", "--experiment", args.experiment, "--model", args.model]
    server = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        told = ""
        while "id of any" not in told:
            told += server.stdout.readline()
        address, key = re.findall(r"API: +(\S+)\nkey: +(\S+)", told)[0]
        client = openai.OpenAI(base_url=address, api_key=key)
        names = [one.id for one in client.models.list() if one.id.count("/") == 3][: args.clients]

        def ask(name: str) -> int:
            messages: list[openai.types.chat.ChatCompletionMessageParam] = [
                {"role": "user", "content": "how do i cook rice"}
            ]
            said = client.chat.completions.create(model=name, messages=messages, max_tokens=args.tokens, temperature=0)
            assert said.usage is not None
            return said.usage.completion_tokens

        found: dict[str, list[float]] = {"one after another": [], f"{len(names)} at once": []}
        for _ in range(1 + args.repeat):
            for way, n_threads in zip(found, (1, len(names)), strict=True):
                with ThreadPoolExecutor(n_threads) as pool:
                    began = time.perf_counter()
                    n_tokens = sum(pool.map(ask, names))
                    found[way].append(n_tokens / (time.perf_counter() - began))
    finally:
        server.terminate()
        server.wait(30)
    print("| clients | tokens/s, median | greatest |\n|---|---:|---:|")
    for way, figures in found.items():
        print(f"| {way} | {statistics.median(figures[1:]):.0f} | {max(figures[1:]):.0f} |")
    alone, together = (statistics.median(figures[1:]) for figures in found.values())
    print(f"\n{together / alone:.1f} times as many at once")


if __name__ == "__main__":
    main()
