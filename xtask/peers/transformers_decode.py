"""Times decoding with PyTorch transformers, as the benchmarks `decode/smollm2` of polyphony-model do.

    python transformers_decode.py MODEL_DIRECTORY --precision bf16 --rows 1 4 8

Prints one JSON line: for each number of rows, the median seconds of a decoding pass, which samples one token
per row. The pass over the prompt is not counted.
"""

import argparse
import json
import time
from statistics import median

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
PROMPT_TOKENS, PASSES = 128, 16


class Clock(StoppingCriteria):
    """Never stops, but records when each token has been sampled."""

    def __init__(self):
        self.times = []

    def __call__(self, input_ids, scores, **_):
        if input_ids.is_cuda:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def seconds_per_pass(model, prompt, rows):
    clock = Clock()
    model.generate(
        prompt.repeat(rows, 1),
        attention_mask=torch.ones(rows, PROMPT_TOKENS, dtype=torch.long, device=prompt.device),
        # The first token comes from the pass over the prompt.
        min_new_tokens=PASSES + 1,
        max_new_tokens=PASSES + 1,
        do_sample=True,
        top_k=0,
        stopping_criteria=[clock],
    )
    assert len(clock.times) == PASSES + 1
    return (clock.times[-1] - clock.times[0]) / PASSES


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", help="Hugging Face directory")
    parser.add_argument("--precision", choices=DTYPES, default="f32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=DTYPES[arguments.precision])
    model.eval().to(arguments.device)
    prompt = torch.randint(3, model.config.vocab_size, (1, PROMPT_TOKENS)).to(arguments.device)
    seconds = {}
    for rows in arguments.rows:
        seconds_per_pass(model, prompt, rows)  # Warms up.
        seconds[rows] = median(
            seconds_per_pass(model, prompt, rows) for _ in range(arguments.repeats)
        )
    print(json.dumps({
        "seconds_per_pass": seconds,
        "threads": torch.get_num_threads(),
    }))


if __name__ == "__main__":
    main()
