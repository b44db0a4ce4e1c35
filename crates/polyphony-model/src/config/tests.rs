//! The older and the newer form, defaults, and values that are refused.

use serde_json::json;

use super::*;

/// The older keys, as SmolLM2 has them.
fn older() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "attention_bias": false, "mlp_bias": false, "hidden_act": "silu",
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 100000, "rope_scaling": null, "tie_word_embeddings": true,
    })
}

fn parse(config: &Value) -> Result<ModelConfig, ModelError> {
    ModelConfig::from_json(config, Path::new("some/config.json"))
}

/// The older configuration with some keys changed; `null` removes a key.
fn with(changes: Value) -> Value {
    let mut config = older();
    let object = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        object.insert(key.clone(), value.clone());
    }
    config
}

#[test]
fn older_and_newer_keys_have_the_same_meaning() {
    let expected = ModelConfig {
        architecture: Architecture::LLAMA,
        parts: Parts::default(),
        vocab_size: 49152,
        hidden_size: 576,
        intermediate_size: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        head_size: 64,
        norm_epsilon: 1e-5,
        rope: Rope {
            theta: 1e5,
            scaling: RopeScaling::Unscaled,
        },
        max_positions: 8192,
        tied_head: true,
    };
    let newer = json!({
        "rope_theta": null, "head_dim": 64, "architectures": null,
        "rope_parameters": {"rope_theta": 1e5, "rope_type": "default"},
    });
    for config in [older(), with(newer), with(json!({"model_type": null}))] {
        assert_eq!(parse(&config).unwrap(), expected);
    }
}

#[test]
fn absent_keys_take_the_defaults_of_transformers() {
    let config = parse(&with(json!({
        "num_key_value_heads": null, "rope_theta": null, "rms_norm_eps": null,
        "max_position_embeddings": null, "tie_word_embeddings": null, "hidden_act": null,
    })))
    .unwrap();
    assert_eq!(
        (config.kv_heads, config.max_positions, config.tied_head),
        (9, 2048, false)
    );
    assert_eq!((config.rope.theta, config.norm_epsilon), (1e4, 1e-6));
}

#[test]
fn qwen_has_its_own_defaults_and_may_name_a_window_that_is_off() {
    let common = json!({
        "head_dim": null, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 256,
        "max_position_embeddings": null, "use_sliding_window": false, "sliding_window": 4096,
        "max_window_layers": 28, "layer_types": ["full_attention", "full_attention"],
    });
    let rows = [
        ("Qwen2ForCausalLM", "qwen2", Architecture::QWEN2, 32),
        ("Qwen3ForCausalLM", "qwen3", Architecture::QWEN3, 128),
    ];
    for (class, model_type, architecture, head_size) in rows {
        let mut config = with(common.clone());
        config["architectures"] = json!([class]);
        config["model_type"] = json!(model_type);
        let config = parse(&config).unwrap();
        assert_eq!(
            (config.architecture, config.head_size, config.max_positions),
            (architecture, head_size, 32_768)
        );
    }
}

#[test]
fn every_rope_type_is_read_in_either_form() {
    let llama3 = RopeScaling::Llama3 {
        factor: 32.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_positions: 8192.0,
    };
    let yarn = |attention_factor, original_positions, truncate| RopeScaling::Yarn {
        factor: 4.0,
        attention_factor,
        fast: 32.0,
        slow: 1.0,
        original_positions,
        truncate,
    };
    let rows = [
        (json!({"rope_type": "default"}), RopeScaling::Unscaled),
        (
            json!({"type": "linear", "factor": 2}),
            RopeScaling::Linear { factor: 2.0 },
        ),
        (
            json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0}),
            llama3,
        ),
        (
            json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
            yarn(0.1 * 4.0f64.ln() + 1.0, 32_768.0, true),
        ),
        (
            json!({"rope_type": "yarn", "original_max_position_embeddings": 2048,
                   "attention_factor": 1.5, "truncate": false}),
            yarn(1.5, 2048.0, false),
        ),
        (
            json!({"rope_type": "yarn", "factor": 4.0, "mscale": 2.0, "mscale_all_dim": 1.0}),
            yarn(
                (0.2 * 4.0f64.ln() + 1.0) / (0.1 * 4.0f64.ln() + 1.0),
                8192.0,
                true,
            ),
        ),
    ];
    for (rope, scaling) in rows {
        for key in ["rope_scaling", "rope_parameters"] {
            let config = parse(&with(json!({ key: rope }))).unwrap();
            let expected = Rope {
                theta: 1e5,
                scaling: scaling.clone(),
            };
            assert_eq!(config.rope, expected, "{key}: {rope}");
        }
    }
}

#[test]
fn the_original_context_at_the_top_level_comes_first() {
    let original = |changes: Value| match parse(&with(changes)).unwrap().rope.scaling {
        RopeScaling::Llama3 {
            original_positions, ..
        }
        | RopeScaling::Yarn {
            original_positions, ..
        } => original_positions,
        other => panic!("{other:?}"),
    };
    const KEY: &str = "original_max_position_embeddings";
    let kinds = [
        json!({"rope_type": "yarn", "factor": 4.0}),
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0}),
    ];
    for rope in kinds {
        let mut inside = rope.clone();
        inside[KEY] = json!(1024);
        for (changes, expected) in [
            (json!({"rope_parameters": rope}), 8192.0),
            (json!({"rope_parameters": inside}), 1024.0),
            (json!({"rope_parameters": rope, KEY: 2048}), 2048.0),
            (json!({"rope_scaling": inside, KEY: 2048}), 2048.0),
        ] {
            assert_eq!(original(changes.clone()), expected, "{changes}");
        }
    }
}

#[test]
fn both_rope_keys_may_be_given_if_they_agree() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0});
    let rows = [
        (json!({"rope_parameters": yarn, "rope_scaling": yarn}), true),
        (
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 4, "rope_theta": 1e5},
                   "rope_scaling": {"type": "yarn", "factor": 4.0}}),
            true,
        ),
        (json!({"rope_parameters": yarn, "rope_scaling": {}}), true),
        (json!({"rope_parameters": {}, "rope_scaling": yarn}), true),
        (
            json!({"rope_parameters": {"rope_type": "default"}, "rope_scaling": yarn}),
            false,
        ),
        (
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6},
                   "rope_scaling": yarn}),
            false,
        ),
    ];
    let expected = parse(&with(json!({"rope_scaling": yarn}))).unwrap().rope;
    for (changes, agree) in rows {
        let rope = parse(&with(changes.clone())).map(|config| config.rope);
        match rope {
            Ok(rope) => assert!(agree && rope == expected, "{changes}: {rope:?}"),
            Err(error) => {
                let message = error.to_string();
                assert!(!agree, "{changes}: {message}");
                for part in ["config.json: `rope_scaling` is {", "`rope_parameters`, {"] {
                    assert!(message.contains(part), "{message}");
                }
            }
        }
    }
}

#[test]
fn a_window_may_be_switched_on_if_no_layer_uses_it() {
    let rows = [
        (json!({"sliding_window": null}), true),
        (
            json!({"sliding_window": 4096, "max_window_layers": 30}),
            true,
        ),
        (
            json!({"sliding_window": 4096, "max_window_layers": 31}),
            true,
        ),
        (json!({"layer_types": ["full_attention"]}), true),
        (
            json!({"sliding_window": 4096, "max_window_layers": 29}),
            false,
        ),
        (
            json!({"sliding_window": 4096, "max_window_layers": 0}),
            false,
        ),
        // The defaults of transformers: a window of 4096 tokens from layer 28 on, counted from 0. Here
        // there are 30 layers.
        (json!({"sliding_window": 4096}), false),
        (json!({"max_window_layers": 29}), false),
    ];
    for (changes, accepted) in rows {
        let mut config = with(json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
            "use_sliding_window": true,
        }));
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        assert_eq!(parse(&config).is_ok(), accepted, "{changes}");
    }
}

#[test]
fn a_whole_number_is_as_good_as_a_fraction() {
    for one in [json!(1), json!(1.0)] {
        let rope = json!({"rope_type": "default", "partial_rotary_factor": one});
        parse(&with(
            json!({"partial_rotary_factor": one, "rope_parameters": rope}),
        ))
        .unwrap();
    }
}

#[test]
fn a_head_may_be_wider_than_its_share() {
    assert_eq!(
        parse(&with(json!({"head_dim": 128}))).unwrap().head_size,
        128
    );
}

#[test]
fn unsupported_and_invalid_values_are_named() {
    let rows = [
        (
            json!({"architectures": ["MambaForCausalLM"]}),
            "architecture `MambaForCausalLM`",
        ),
        (
            json!({"architectures": null, "model_type": "gpt2"}),
            "architecture `gpt2`",
        ),
        (
            json!({"architectures": null, "model_type": null}),
            "no key `architectures`",
        ),
        (
            json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "llama"}),
            "architecture `llama`",
        ),
        (
            json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
            "rope type `dynamic` is not supported; supported: default, linear, llama3, yarn",
        ),
        (
            json!({"rope_parameters": {"rope_type": 3}}),
            "rope type `3`",
        ),
        (
            json!({"rope_scaling": {"type": "linear"}}),
            "no key `factor`",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": -2.0}}),
            "`factor` is -2.0, but must be a number above 0",
        ),
        (
            json!({"rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            }}),
            "`high_freq_factor` is 4.0, but must be above `low_freq_factor`, 4",
        ),
        (
            json!({"rope_parameters": {"rope_type": "yarn", "partial_rotary_factor": 0.5}}),
            "`partial_rotary_factor` is 0.5",
        ),
        (
            json!({"use_sliding_window": true}),
            "`use_sliding_window` is true",
        ),
        (
            json!({"layer_types": ["full_attention", "sliding_attention"]}),
            "layer type `sliding_attention` is not supported; supported: full_attention",
        ),
        (
            json!({"partial_rotary_factor": 0.5}),
            "`partial_rotary_factor` is 0.5",
        ),
        (
            json!({"partial_rotary_factor": 2}),
            "`partial_rotary_factor` is 2",
        ),
        (
            json!({"original_max_position_embeddings": 0,
                   "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
            "`original_max_position_embeddings` is 0",
        ),
        (json!({"attention_bias": true}), "`attention_bias` is true"),
        (json!({"mlp_bias": true}), "`mlp_bias` is true"),
        (
            json!({"hidden_act": "gelu"}),
            "`hidden_act` is \"gelu\", but must be \"silu\"",
        ),
        (
            json!({"num_attention_heads": 0}),
            "`num_attention_heads` is 0",
        ),
        (
            json!({"num_key_value_heads": 4}),
            "`num_key_value_heads` is 4, but must be a divisor",
        ),
        (
            json!({"num_attention_heads": 10, "num_key_value_heads": 5}),
            "`hidden_size` is 576",
        ),
        (
            json!({"head_dim": 63}),
            "`head_dim` is 63, but must be even",
        ),
        (json!({"hidden_size": 0}), "`hidden_size` is 0"),
        (json!({"hidden_size": -8}), "`hidden_size` is -8"),
        (json!({"hidden_size": "576"}), "`hidden_size` is \"576\""),
        (json!({"vocab_size": null}), "no key `vocab_size`"),
        (
            json!({"num_hidden_layers": 1u64 << 40}),
            "`num_hidden_layers` is 1099511627776",
        ),
        (json!({"rms_norm_eps": 0.0}), "`rms_norm_eps` is 0.0"),
        (json!({"rope_theta": -1}), "`rope_theta` is -1"),
        (
            json!({"tie_word_embeddings": "yes"}),
            "`tie_word_embeddings` is \"yes\"",
        ),
    ];
    for (changes, expected) in rows {
        let message = parse(&with(changes)).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        assert!(
            message.starts_with("some/config.json"),
            "{message:?} names no file"
        );
    }
}

/// The configuration of a Gemma 3 model as it was written before transformers 5, with some keys changed.
fn gemma(changes: Value) -> Value {
    let mut config = json!({
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
        "vocab_size": 262144, "hidden_size": 640, "intermediate_size": 2048,
        "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1,
        "sliding_window": 512, "rope_theta": 1e6, "rope_local_base_freq": 10000,
    });
    let object = config.as_object_mut().unwrap();
    object.extend(changes.as_object().unwrap().clone());
    config
}

#[test]
fn gemma_3_has_a_window_in_five_of_six_layers() {
    let config = parse(&gemma(json!({}))).unwrap();
    assert_eq!((config.head_size, config.tied_head), (256, true));
    assert_eq!(config.parts.query_divisor, Some(16.0));
    let unscaled = |theta| Rope {
        theta,
        scaling: RopeScaling::Unscaled,
    };
    assert_eq!(config.rope, unscaled(1e6));
    let window = config.parts.window.clone().unwrap();
    assert_eq!((window.tokens, window.rope), (512, unscaled(1e4)));
    let with_all_tokens: Vec<usize> = (0..18)
        .filter(|&layer| config.parts.window_of(layer).is_none())
        .collect();
    assert_eq!(with_all_tokens, [5, 11, 17]);

    let rows = [
        (json!({"sliding_window_pattern": 2}), vec![1, 3]),
        (json!({"sliding_window_pattern": 1}), vec![0, 1, 2, 3]),
        (json!({"sliding_window_pattern": 9}), vec![]),
        (
            json!({"layer_types": ["full_attention", "sliding_attention", "full_attention",
                                   "sliding_attention"]}),
            vec![0, 2],
        ),
    ];
    for (mut changes, expected) in rows {
        changes["num_hidden_layers"] = json!(4);
        let parts = parse(&gemma(changes.clone())).unwrap().parts;
        let all = (0..4).filter(|&layer| parts.window_of(layer).is_none());
        assert_eq!(all.collect::<Vec<_>>(), expected, "{changes}");
    }
}

#[test]
fn rope_parameters_may_be_given_per_layer_type() {
    let config = parse(&gemma(json!({
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
            "sliding_attention": {"rope_type": "default"},
        },
    })));
    let config = config.unwrap();
    let scaling = RopeScaling::Linear { factor: 8.0 };
    let full = Rope {
        theta: 2e6,
        scaling,
    };
    assert_eq!(config.rope, full);
    // Not the base of the other layers, which stands at the top level.
    assert_eq!(config.parts.window.unwrap().rope.theta, 1e4);
}

/// The configuration of a Qwen3 model with a mixture of experts, with some keys changed.
fn experts(changes: Value) -> Value {
    let mut config = with(json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "mlp_bias": null,
        "num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 96,
        "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
    }));
    let object = config.as_object_mut().unwrap();
    object.extend(changes.as_object().unwrap().clone());
    config
}

#[test]
fn experts_are_read_under_both_names() {
    let sizes = |changes| parse(&experts(changes)).unwrap().parts.experts.unwrap();
    let expected = ExpertSizes {
        count: 16,
        chosen: 4,
        intermediate_size: 96,
        normalized: true,
    };
    assert_eq!(sizes(json!({})), expected);
    let newer = json!({"num_experts": null, "num_local_experts": 16});
    assert_eq!(sizes(newer), expected);
    let defaults = sizes(json!({
        "num_experts": null, "num_experts_per_tok": null, "moe_intermediate_size": null,
        "norm_topk_prob": null,
    }));
    let expected = ExpertSizes {
        count: 128,
        chosen: 8,
        intermediate_size: 768,
        normalized: false,
    };
    assert_eq!(defaults, expected);
}

#[test]
fn variants_of_gemma_and_of_experts_are_refused() {
    let rows = [
        (
            gemma(json!({"hidden_activation": "silu"})),
            "`hidden_activation` is",
        ),
        (
            gemma(json!({"final_logit_softcapping": 30.0})),
            "must be null",
        ),
        (
            gemma(json!({"use_bidirectional_attention": true})),
            "must be false",
        ),
        (
            gemma(json!({"sliding_window": null})),
            "must be a number of tokens",
        ),
        (
            gemma(json!({"sliding_window_pattern": 0})),
            "`sliding_window_pattern` is 0",
        ),
        (
            gemma(json!({"layer_types": ["full_attention"]})),
            "each of the 18 layers",
        ),
        (
            gemma(json!({"num_hidden_layers": 1, "layer_types": ["chunked_attention"]})),
            "layer type `chunked_attention` is not supported",
        ),
        (
            gemma(json!({"rope_parameters": {"rope_type": "default"}})),
            "no key `rope_parameters.sliding_attention`",
        ),
        (
            gemma(json!({"rope_parameters": {"full_attention": {},
                          "sliding_attention": {"rope_type": "yarn"}}})),
            "rope type `yarn` is not supported; supported: default, linear",
        ),
        (
            experts(json!({"num_experts_per_tok": 17})),
            "must be at most `num_experts`, 16",
        ),
        (
            experts(json!({"num_local_experts": 8})),
            "the same as `num_local_experts`, 8",
        ),
        (
            experts(json!({"num_experts": 1_000_000})),
            "at most 65536 in all layers",
        ),
        (
            experts(json!({"decoder_sparse_step": 2})),
            "`decoder_sparse_step` is 2",
        ),
        (
            experts(json!({"mlp_only_layers": [0]})),
            "must be an empty list",
        ),
        (
            experts(json!({"use_sliding_window": true})),
            "no sliding window is supported",
        ),
    ];
    for (config, expected) in rows {
        let message = parse(&config).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}
