"""Loads in PEFT the adapters that a run with `fine_tuning: Lora()` saved, compares their
log-probabilities with those of `polyphony logprobs`, merges them with polyphony and compares again.

    pip install torch transformers peft
    python docs/parity/check_adapters.py --polyphony target/release/polyphony runs/x/agents/*
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import AutoPeftModelForCausalLM

SEQUENCES, LENGTH = 4, 80


def ours(polyphony, model, sequences):
    """The log-probabilities that polyphony computes."""
    lines = "".join(json.dumps({"ids": ids}) + "\n" for ids in sequences)
    command = [polyphony, "logprobs", "--model", model, "--input", "-"]
    printed = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line)["logprobs"] for line in printed.stdout.splitlines()]


def theirs(model, sequences):
    """The log-probabilities that PyTorch computes."""
    with torch.no_grad():
        logits = model(torch.tensor(sequences)).logits[:, :-1]
    table = torch.log_softmax(logits, -1)
    return table.gather(-1, torch.tensor(sequences)[:, 1:, None])[..., 0].tolist()


def largest_gap(a, b):
    pairs = [(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)]
    return max(abs(x - y) for x, y in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--polyphony", default="polyphony")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("adapters", nargs="+")
    arguments = parser.parse_args()
    failed = False
    for adapter in arguments.adapters:
        model = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()
        torch.manual_seed(1)
        vocabulary = model.config.vocab_size
        sequences = torch.randint(3, vocabulary, (SEQUENCES, LENGTH)).tolist()
        with model.disable_adapter():
            plain = theirs(model, sequences)
        adapted = theirs(model, sequences)
        gap = largest_gap(adapted, ours(arguments.polyphony, adapter, sequences))
        with tempfile.TemporaryDirectory() as folder:
            merged = str(Path(folder) / "merged")
            command = [arguments.polyphony, "models", "merge", adapter, merged]
            subprocess.run(command, check=True)
            merged_gap = largest_gap(adapted, ours(arguments.polyphony, merged, sequences))
        moved = largest_gap(adapted, plain)
        print(f"{adapter}: adapters change log-probabilities by up to {moved:.2e} nats; "
              f"polyphony differs by {gap:.2e}, merged by {merged_gap:.2e}")
        failed |= max(gap, merged_gap) > arguments.tolerance or moved == 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
