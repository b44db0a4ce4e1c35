"""Times decoding with llama.cpp (PyPI xllamacpp), as the benchmarks `decode/smollm2` of polyphony-model do.

    python llamacpp_decode.py MODEL.gguf --rows 1 8 16

Prints one JSON line: for each number of rows, the median seconds of a decoding pass, which samples one token
per row.
"""

import argparse
import json
import os
import threading
import time
from statistics import median

import xllamacpp

PROMPT, PASSES = list(range(1000, 1128)), 16


def start_server(model, rows, threads):
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_parallel = rows
    params.n_ctx = 256 * rows
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.verbosity = -1
    return xllamacpp.Server(params)


def complete(server, seed, new_tokens, answers):
    request = {
        "prompt": PROMPT,
        "n_predict": new_tokens,
        "ignore_eos": True,
        "seed": seed,
        "cache_prompt": True,
        "stream": False,
    }

    def receive(answer):
        answers.append(json.loads(answer) if isinstance(answer, (str, bytes)) else answer)
        return False

    server.handle_completions(json.dumps(request), receive)


def seconds(server, rows, new_tokens):
    """The time of one request per row, all at once."""
    answers = []
    threads = [
        threading.Thread(target=complete, args=(server, row, new_tokens, answers))
        for row in range(rows)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - start
    tokens = [answer.get("usage", {}).get("completion_tokens") for answer in answers]
    if tokens != [new_tokens] * rows:
        raise SystemExit(f"llama.cpp answered with {tokens} tokens, not with {rows} x {new_tokens}: {answers}")
    return elapsed


def seconds_per_pass(model, rows, threads, repeats):
    server = start_server(model, rows, threads)
    seconds(server, rows, 2)  # Warms up, and computes the prompt.
    # The difference leaves out what comes before the first token.
    long, short = (
        median(seconds(server, rows, new_tokens) for _ in range(repeats))
        for new_tokens in (PASSES + 2, 2)
    )
    return (long - short) / PASSES


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    threads = len(os.sched_getaffinity(0))
    print(json.dumps({
        "seconds_per_pass": {
            rows: seconds_per_pass(arguments.model, rows, threads, arguments.repeats)
            for rows in arguments.rows
        },
        "threads": threads,
    }))


if __name__ == "__main__":
    main()
