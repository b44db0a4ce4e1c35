"""Compares saved agents with PyTorch transformers: every weight is there, and the same tokens have the
same log-probabilities.

    python check_agents.py --polyphony target/release/polyphony RUN/agents/summarizer RUN/agents/elaborator

Needs `torch` and `transformers`. Prints one JSON line per agent, and ends with an error if one differs.
"""

import argparse
import json
import random
import subprocess

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "My neighbour mowed my lawn for a month without being asked and now wants $120.",
    "def f(x):\n    return x ** 2  # naïve, ½ and 四\n",
]


def sequences(tokenizer, vocabulary, longest):
    """Texts, and random ids from the whole vocabulary."""
    rng = random.Random(1)
    drawn = [[rng.randrange(vocabulary) for _ in range(n)] for n in (2, 33, longest)]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS] + drawn


def logprobs_in_torch(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def logprobs_in_polyphony(program, directory, rows):
    lines = "".join(json.dumps({"ids": ids}) + "\n" for ids in rows)
    command = [program, "logprobs", "--model", directory, "--input", "-"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line)["logprobs"] for line in done.stdout.splitlines()]


def check(program, directory, tolerance, longest):
    model, loading = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys}
    if wrong:
        raise SystemExit(f"{directory}: transformers reports {wrong}")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = sequences(tokenizer, model.config.vocab_size, longest)
    ours = logprobs_in_polyphony(program, directory, rows)
    gap = max(
        (logprobs_in_torch(model.eval(), ids) - torch.tensor(own)).abs().max().item()
        for ids, own in zip(rows, ours, strict=True)
    )
    figures = {
        "agent": directory,
        "class": type(model).__name__,
        "dtype": str(model.dtype),
        "missing_or_unexpected_keys": 0,
        "tokens": sum(len(ids) - 1 for ids in rows),
        "largest_logprob_difference": gap,
    }
    print(json.dumps(figures))
    if not gap <= tolerance:
        raise SystemExit(f"{directory}: log-probabilities differ by {gap}, more than {tolerance}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("agents", nargs="+", help="agent directories of a run")
    parser.add_argument("--polyphony", default="polyphony", help="the program")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="in nats")
    parser.add_argument("--longest", type=int, default=256, help="tokens of the longest sequence")
    arguments = parser.parse_args()
    for directory in arguments.agents:
        check(arguments.polyphony, directory, arguments.tolerance, arguments.longest)


if __name__ == "__main__":
    main()
