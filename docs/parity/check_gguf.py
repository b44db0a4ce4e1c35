"""Compares a converted model with the `gguf` package: every tensor of the GGUF file, dequantized, is
in the directory under its Hugging Face name, bit for bit.

    python check_gguf.py MODEL.gguf DIRECTORY

Needs `gguf`, `numpy` and `safetensors`. Supports the architectures Llama, Qwen2 and Qwen3.
"""

import argparse
import json
import pathlib

import gguf
import numpy
from safetensors.numpy import load_file

TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def expected(tensor, config):
    """The tensor's Hugging Face name and values."""
    values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
    if tensor.name in TOP:
        return TOP[tensor.name], values
    _, layer, part, kind = tensor.name.split(".")
    heads = {
        "attn_q": config["num_attention_heads"],
        "attn_k": config["num_key_value_heads"],
    }.get(part)
    if heads and config["model_type"] == "llama":
        # GGUF stores the rows of a Llama head in the order for interleaved rotation.
        half = values.shape[0] // heads // 2
        shape = values.shape
        values = values.reshape(heads, half, 2, -1).swapaxes(2, 1).reshape(shape)
    return f"model.layers.{layer}.{LAYER[part]}.{kind}", values


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("gguf")
    parser.add_argument("directory", type=pathlib.Path)
    arguments = parser.parse_args()
    config = json.loads((arguments.directory / "config.json").read_text())
    own = load_file(arguments.directory / "model.safetensors")
    count = 0
    for tensor in gguf.GGUFReader(arguments.gguf).tensors:
        if tensor.name == "rope_freqs.weight":
            continue  # The directory has it in its configuration.
        name, values = expected(tensor, config)
        found = own.pop(name)
        same = found.shape == values.shape and numpy.array_equal(
            found.view(numpy.uint32), values.view(numpy.uint32)
        )
        if not same:
            raise SystemExit(f"{name} differs")
        count += values.size
    if own:
        raise SystemExit(f"not in the GGUF file: {sorted(own)}")
    print(json.dumps({"directory": str(arguments.directory), "equal_values": count}))


if __name__ == "__main__":
    main()
