"""Times what bounds training and decoding on a processor, with PyTorch: matrix products and reading memory.

    python torch_limits.py --precision bf16

Prints one JSON line: GFLOP/s of the product of two matrices of 2048 x 2048, and GB/s of summing 800 MB of 32-bit
floats.
"""

import argparse
import json
import time
from statistics import median

import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SIZE, FLOATS = 2048, 200_000_000


def seconds(work, repeats):
    """The median time of the work."""
    work()  # Warms up.
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--precision", choices=DTYPES, default="f32")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()

    torch.manual_seed(1)
    dtype = DTYPES[arguments.precision]
    a, b = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    # Not zeros: Linux maps memory that was never written to a single page, which stays in the cache.
    floats = torch.ones(FLOATS)
    print(json.dumps({
        "product_gflop_per_second": 2 * SIZE**3 / seconds(lambda: a @ b, arguments.repeats) / 1e9,
        "read_gb_per_second": 4 * FLOATS / seconds(floats.sum, arguments.repeats) / 1e9,
        "threads": torch.get_num_threads(),
    }))


if __name__ == "__main__":
    main()
