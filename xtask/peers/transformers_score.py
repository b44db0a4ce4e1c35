"""Times forward and backward pass with PyTorch transformers, as the benchmark `score/smollm2` of polyphony-model
does: 402 packed tokens, of which 256 are predicted.

    python transformers_score.py MODEL_DIRECTORY --precision bf16

Prints one JSON line with the median seconds. The 402 tokens are one causal sequence, which is as many tokens as
polyphony packs for a prompt and four responses.
"""

import argparse
import json
import time
from statistics import median

import torch
from transformers import AutoModelForCausalLM

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# A prompt of 150 tokens and four responses of 64. The last token of a response is only predicted.
TOKENS, PREDICTED = 150 + 4 * 63, 4 * 64


def seconds(model, ids):
    start = time.perf_counter()
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=PREDICTED).logits[0]
    targets = ids[0, -PREDICTED:, None]
    torch.log_softmax(logits, -1).gather(-1, targets).sum().backward()
    elapsed = time.perf_counter() - start
    model.zero_grad()
    return elapsed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", help="Hugging Face directory")
    parser.add_argument("--precision", choices=DTYPES, default="f32")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=DTYPES[arguments.precision])
    model.train()
    ids = torch.randint(3, model.config.vocab_size, (1, TOKENS))
    seconds(model, ids)  # Warms up.
    print(json.dumps({
        "seconds": median(seconds(model, ids) for _ in range(arguments.repeats)),
        "tokens": TOKENS,
        "threads": torch.get_num_threads(),
    }))


if __name__ == "__main__":
    main()
