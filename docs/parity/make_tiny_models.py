"""Makes crates/polyphony-model/fixtures/rope: tiny random models of every architecture, and for every
rope type the values that PyTorch transformers computes with them in f32. The weights are bf16 and
sharded, with a separate output head.

    python docs/parity/make_tiny_models.py

Needs torch, transformers and safetensors. Everything follows from fixed seeds.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

TARGET = Path(__file__).parents[2] / "crates/polyphony-model/fixtures/rope"
PROMPT, LENGTH, NEW = 12, 40, 16
# The original context. It is shorter than the sequences, so that stretched wavelengths matter.
ORIGINAL = 16

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "eos_token_id": 1,
}
ARCHITECTURES = {
    "llama": {"architectures": ["LlamaForCausalLM"], "num_key_value_heads": 4},
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": False,
        "sliding_window": 8,
        "max_window_layers": 1,
    },
    # Heads wider than the hidden size divided by their number.
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 16},
}
ROPES = {
    "default": {},
    "linear": {"factor": 3.0},
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": ORIGINAL},
}


def configuration(architecture, rope, newer):
    """A configuration with the newer or the older spelling of the rope settings."""
    config = {"model_type": architecture, **SIZES, **ARCHITECTURES[architecture]}
    settings = ROPES[rope]
    if newer:
        config["rope_parameters"] = {"rope_type": rope, "rope_theta": 1000.0, **settings}
    else:
        config["rope_theta"] = 1000.0
        config["rope_scaling"] = {"type": rope, **settings} if settings else None
    return config


def save_weights(folder, architecture):
    """Random weights in two files with an index."""
    torch.manual_seed(7)
    config = AutoConfig.for_model(**configuration(architecture, "default", True))
    weights = AutoModelForCausalLM.from_config(config).state_dict()
    # Larger than at initialization, so that attention is far from uniform. This includes norms and biases.
    weights = {
        name: (0.3 * torch.randn_like(w) + (1.0 if "norm" in name else 0.0)).to(torch.bfloat16)
        for name, w in weights.items()
    }
    names = sorted(weights)
    shards = [names[::2], names[1::2]]
    files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for file, part in zip(files, shards):
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(2 * w.numel() for w in weights.values())},
        "weight_map": {name: file for file, part in zip(files, shards) for name in part},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def gradients(model):
    """The gradient of every weight, under its name in the file. transformers joins the weights of all experts
    of a layer in memory."""
    for name, weight in model.named_parameters():
        path, _, last = name.rpartition(".")
        if not path.endswith("experts"):
            yield name, weight.grad
            continue
        for expert, gradient in enumerate(weight.grad):
            if last == "gate_up_proj":
                gate, up = gradient.chunk(2)
                yield f"{path}.{expert}.gate_proj.weight", gate
                yield f"{path}.{expert}.up_proj.weight", up
            else:
                yield f"{path}.{expert}.{last}.weight", gradient


def expected(folder, config):
    """The values that transformers computes: tensors, and the norms of all gradients."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for file in folder.glob("model*"):
            shutil.copy(file, scratch)
        (scratch / "config.json").write_text(json.dumps(config))
        model = AutoModelForCausalLM.from_pretrained(
            scratch, dtype=torch.float32, attn_implementation="eager"
        )
    torch.manual_seed(11)
    ids = torch.randint(2, config["vocab_size"], (2, LENGTH))
    advantages = torch.tensor([1.0, -0.5])
    logits = model(ids).logits
    logprobs = torch.log_softmax(logits[:, PROMPT - 1 : -1], -1)
    chosen = logprobs.gather(-1, ids[:, PROMPT:, None])[..., 0]
    loss = -(advantages * chosen.sum(-1)).mean()
    loss.backward()
    norms = {name: gradient.norm().item() for name, gradient in gradients(model)}
    greedy = ids[:1, :PROMPT]
    with torch.no_grad():
        for _ in range(NEW):
            greedy = torch.cat([greedy, model(greedy).logits[:, -1:].argmax(-1)], 1)
    tensors = {
        "input_ids": ids,
        "logits": logits.detach(),
        "completion_logprobs": chosen.detach(),
        "advantages": advantages,
        "loss": loss.detach()[None],
        "greedy": greedy[0],
    }
    return tensors, {"prompt_len": PROMPT, "grad_l2_norms": norms}


def main():
    shutil.rmtree(TARGET, ignore_errors=True)
    for architecture in ARCHITECTURES:
        weights = TARGET / architecture
        weights.mkdir(parents=True)
        save_weights(weights, architecture)
        for number, rope in enumerate(ROPES):
            config = configuration(architecture, rope, newer=number % 2 == 0)
            folder = weights / rope
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
            tensors, facts = expected(weights, config)
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()},
                folder / "expected.safetensors",
            )
            (folder / "expected.json").write_text(json.dumps(facts, indent=1) + "\n")
            print(architecture, rope, "loss", round(tensors["loss"].item(), 4))


if __name__ == "__main__":
    main()
