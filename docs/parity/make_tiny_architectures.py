"""Makes crates/polyphony-model/fixtures/tiny-gemma3 and tiny-qwen3-moe: tiny random models, and what PyTorch
transformers computes with them in f32.

    python docs/parity/make_tiny_architectures.py

Needs torch, transformers and safetensors. Everything follows from fixed seeds.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from make_tiny_models import expected
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

FIXTURES = Path(__file__).parents[2] / "crates/polyphony-model/fixtures"

SIZES = {
    "vocab_size": 256,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "eos_token_id": 1,
    "bos_token_id": None,
    "pad_token_id": None,
}
MODELS = {
    # The window is shorter than the sequences, and the sixth layer attends to all tokens.
    "tiny-gemma3": {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        **SIZES,
        "intermediate_size": 48,
        "num_hidden_layers": 7,
        "sliding_window": 8,
        "query_pre_attn_scalar": 24,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    },
    "tiny-qwen3-moe": {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        **SIZES,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_experts": 5,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    },
}


def main():
    for name, config in MODELS.items():
        folder = FIXTURES / name
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        with torch.no_grad():
            for path, weight in model.named_parameters():
                # Larger than at initialization, so that attention is far from uniform. This includes norms.
                centre = 1.0 if "norm" in path and "gemma" not in name else 0.0
                # Rounded to bf16, so that 1 can be added to the weights of norms and subtracted again.
                weight.copy_((0.3 * torch.randn_like(weight) + centre).to(torch.bfloat16))
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch)
            weights = load_file(Path(scratch) / "model.safetensors")
            shutil.copy(Path(scratch) / "config.json", folder)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        tensors, facts = expected(folder, config)
        assert facts["grad_l2_norms"].keys() == weights.keys()
        save_file(
            {key: tensor.contiguous() for key, tensor in tensors.items()},
            folder / "expected.safetensors",
        )
        (folder / "expected.json").write_text(json.dumps(facts, indent=1) + "\n")
        print(name, "loss", round(tensors["loss"].item(), 4), len(weights), "tensors")


if __name__ == "__main__":
    main()
