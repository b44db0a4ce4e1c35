//! Tests of the whole GGUF import, on files written by [`super::fixture`].

use proptest::prelude::*;
use serde_json::Value as Json;

use super::fixture::{Contents, HIDDEN, Meta, open_bytes, tiny_chat};
use super::*;

#[test]
fn an_imported_model_is_the_one_on_the_hub() {
    let files = Contents::tiny_llama().open().unwrap();

    let config = &files.config;
    assert_eq!(
        (
            config.vocab_size,
            config.hidden_size,
            config.intermediate_size
        ),
        (256, 32, 64)
    );
    assert_eq!(
        (
            config.layers,
            config.heads,
            config.kv_heads,
            config.head_size
        ),
        (1, 2, 1, 16)
    );
    assert_eq!((config.norm_epsilon, config.rope.theta), (1e-5, 1e5));
    assert_eq!((config.max_positions, config.tied_head), (128, true));
    assert_eq!(files.stop_tokens, [0, 2], "end of turn and end of text");

    let tokenizer: Json = serde_json::from_str(files.assets.tokenizer.as_ref().unwrap()).unwrap();
    let original: Json = serde_json::from_str(&tiny_chat("tokenizer.json")).unwrap();
    assert_eq!(tokenizer, original);
    assert_eq!(
        files.assets.chat_template.as_deref(),
        Some(&*tiny_chat("chat_template.jinja"))
    );
    let roles = files.assets.tokenizer_config.as_ref().unwrap();
    assert_eq!(
        (&roles["bos_token"], &roles["eos_token"]),
        (&"<|im_start|>".into(), &"<|im_end|>".into())
    );
}

#[test]
fn tensors_get_their_names_types_and_row_order() {
    let files = Contents::tiny_llama().open().unwrap();
    let weights = &files.weights;
    weights
        .check_names([
            "model.embed_tokens.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.0.mlp.gate_proj.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.post_attention_layernorm.weight",
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.0.self_attn.o_proj.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.self_attn.v_proj.weight",
            "model.norm.weight",
        ])
        .unwrap();
    let column_0 = |name: &str, rows: usize| -> Vec<f32> {
        let values = weights.read(name, &[rows, HIDDEN]).unwrap();
        values.iter().step_by(HIDDEN).copied().collect()
    };
    let head = |start: u8| {
        (start..start + 16)
            .step_by(2)
            .chain((start + 1..start + 16).step_by(2))
    };
    let numbers = |rows: &mut dyn Iterator<Item = u8>| rows.map(f32::from).collect::<Vec<_>>();
    // Even rows of a head are its first half, odd rows its second.
    let queries = column_0("model.layers.0.self_attn.q_proj.weight", 32);
    assert_eq!(queries, numbers(&mut head(0).chain(head(16))));
    let keys = column_0("model.layers.0.self_attn.k_proj.weight", 16);
    assert_eq!(keys, numbers(&mut head(0)));
    let values = column_0("model.layers.0.self_attn.v_proj.weight", 16);
    assert_eq!(
        values,
        numbers(&mut (0..16)),
        "only queries and keys are reordered"
    );

    let embedding = column_0("model.embed_tokens.weight", 256);
    assert_eq!(embedding[5..7], [2.5, 3.0], "Q8_0 with scale 0.5");
    assert_eq!(embedding[255], -0.5);
}

#[test]
fn other_versions_alignments_and_pre_tokenizers_open() {
    type Change = fn(&mut Contents);
    let changes: [Change; 7] = [
        |contents| contents.version = 2,
        |contents| {
            contents.alignment = 1024;
            contents.set("general.alignment", Meta::U32(1024));
        },
        |contents| contents.set("tokenizer.ggml.pre", "gpt-2".into()),
        |contents| contents.unset("tokenizer.ggml.pre"),
        |contents| contents.set("llama.rope.scaling.type", "none".into()),
        |contents| contents.set("llama.context_length", Meta::U64(128)),
        |contents| contents.set("llama.context_length", Meta::I32(128)),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut contents = Contents::tiny_llama();
        change(&mut contents);
        let files = contents
            .open()
            .unwrap_or_else(|error| panic!("{index}: {error}"));
        assert_eq!(
            files.weights.read("model.norm.weight", &[HIDDEN]).unwrap(),
            [1.0; HIDDEN]
        );
    }
}

#[test]
fn a_file_may_lack_tokenizer_and_template() {
    let mut contents = Contents::tiny_llama();
    contents
        .metadata
        .retain(|(key, _)| !key.starts_with("tokenizer."));
    contents.set("llama.vocab_size", Meta::U32(256));
    let files = contents.open().unwrap();
    assert!(files.tokenizer.is_none() && files.template.is_none());
    assert!(files.stop_tokens.is_empty());
}

#[test]
fn a_beginning_token_is_added_to_plain_text_if_the_file_asks_for_it() {
    let mut contents = Contents::tiny_llama();
    contents.set("tokenizer.ggml.add_bos_token", Meta::Bool(true));
    let tokenizer = contents.open().unwrap().tokenizer.unwrap();
    let text = tokenizer.encode("the sky").unwrap();
    assert_eq!(
        tokenizer.encode_plain("the sky").unwrap(),
        [&[1], &text[..]].concat()
    );
}

#[test]
fn token_types_are_respected() {
    let mut contents = Contents::tiny_llama();
    // Token 2 is user-defined, token 3 is unused.
    let kinds = (0..256)
        .map(|id| [3, 3, 4, 5].get(id).copied().unwrap_or(1))
        .collect();
    contents.set("tokenizer.ggml.token_type", Meta::I32s(kinds));
    let tokenizer = contents.open().unwrap().tokenizer.unwrap();
    assert_eq!(tokenizer.vocab_size(), 255);
    let ids = tokenizer.encode("<|im_start|><|im_end|>").unwrap();
    assert_eq!(ids, [1, 2]);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "<|im_end|>");
}

#[test]
fn wrong_and_unsupported_metadata_is_named() {
    type Change = fn(&mut Contents);
    let rows: [(Change, &str); 29] = [
        (
            |c| c.version = 1,
            "GGUF version `1` is not supported; supported: 2 and 3",
        ),
        (
            |c| c.version = 3u32.swap_bytes(),
            "GGUF version `big-endian`",
        ),
        (
            |c| c.set("general.architecture", "mamba".into()),
            "architecture `mamba`",
        ),
        (
            |c| c.unset("general.architecture"),
            "no key `general.architecture`",
        ),
        (
            |c| c.set("general.architecture", Meta::U32(1)),
            "is 1, but must be a text",
        ),
        (
            |c| c.unset("llama.block_count"),
            "no key `llama.block_count`",
        ),
        (
            |c| c.set("llama.block_count", "many".into()),
            "`llama.block_count` is \"many\"",
        ),
        (
            |c| c.set("llama.block_count", Meta::I32(-1)),
            "`llama.block_count` is -1",
        ),
        (
            |c| c.set("llama.attention.head_count", Meta::I32s(vec![2])),
            "is a list of 1 values",
        ),
        (
            |c| c.set("llama.attention.head_count", Meta::U32(0)),
            "`llama.attention.head_count` is 0",
        ),
        (
            |c| c.set("general.architecture", "gemma2".into()),
            "architecture `gemma2` is not supported; supported: llama, qwen2, qwen3, qwen3moe, gemma3",
        ),
        (
            |c| c.set("split.count", Meta::U32(3)),
            "GGUF file `one of 3 parts` is not supported",
        ),
        (
            |c| c.set("llama.attention.sliding_window", Meta::U32(64)),
            "`llama.attention.sliding_window` is 64",
        ),
        (
            |c| c.set("llama.rope.freq_base", Meta::F32(f32::NAN)),
            "`llama.rope.freq_base` is NaN, but must be a number above 0",
        ),
        (
            |c| c.set("llama.rope.dimension_count", Meta::U32(8)),
            "must be the head size, 16",
        ),
        (
            |c| c.set("llama.expert_count", Meta::U32(8)),
            "llama with 8 experts",
        ),
        (
            |c| c.set("general.alignment", Meta::U32(24)),
            "must be a power of two",
        ),
        (
            |c| c.set("general.alignment", Meta::U32(0)),
            "must be a power of two",
        ),
        (
            |c| c.set("tokenizer.ggml.model", "bert".into()),
            "tokenizer model `bert`",
        ),
        (
            |c| c.set("tokenizer.ggml.pre", "tekken".into()),
            "pre-tokenizer `tekken` is not supported; supported: smollm, qwen2, llama-bpe",
        ),
        (
            |c| c.unset("tokenizer.ggml.tokens"),
            "no key `tokenizer.ggml.tokens`",
        ),
        (
            |c| c.unset("tokenizer.ggml.merges"),
            "no key `tokenizer.ggml.merges`",
        ),
        (
            |c| c.set("tokenizer.ggml.merges", Meta::Texts(vec!["he".into()])),
            "is \"he\", but must be two",
        ),
        (
            |c| c.set("tokenizer.ggml.merges", Meta::Texts(vec!["h zz".into()])),
            "the tokenizer of",
        ),
        (
            |c| c.set("tokenizer.ggml.token_type", Meta::I32s(vec![1])),
            "one value for each of 256",
        ),
        (
            |c| c.set("tokenizer.ggml.token_type", Meta::I32s(vec![9; 256])),
            "from 1 to 6",
        ),
        (
            |c| c.set("tokenizer.ggml.eos_token_id", Meta::U32(256)),
            "`eos_token_id` is 256",
        ),
        (
            |c| c.set("llama.vocab_size", Meta::U32(255)),
            "has id 255, but the model's vocabulary has 255",
        ),
        (
            |c| c.set("tokenizer.chat_template", "{% if %}".into()),
            "the chat template of",
        ),
    ];
    for (change, expected) in rows {
        let mut contents = Contents::tiny_llama();
        change(&mut contents);
        let message = contents.open().unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        assert!(message.contains("tiny.gguf"), "{message:?} names no file");
    }
}

#[test]
fn wrong_tensors_are_named() {
    type Change = fn(&mut Contents);
    let rows: [(Change, &str); 10] = [
        (
            |c| c.tensors[0].name = "blk.0.conv.weight".into(),
            "unexpected: blk.0.conv.weight",
        ),
        (
            |c| c.tensors[0].name = "blk.0.attn_k.bias".into(),
            "unexpected: blk.0.attn_k.bias",
        ),
        (
            |c| c.tensors[0].name = "rope_freqs.weight".into(),
            "tensor `rope_freqs.weight` has shape [16, 32], but the configuration implies [8]",
        ),
        (
            |c| c.set("llama.block_count", Meta::U32(12)),
            "`llama.block_count` is 12, but must be at most the number of tensors, 11",
        ),
        (
            |c| c.tensors[0].name = "blk.0.attn_v.weight".into(),
            "tensor `blk.0.attn_v.weight` occurs twice",
        ),
        (
            |c| c.tensors[0].dimensions = vec![1; 5],
            "5 dimensions, but 4 are the most",
        ),
        (
            |c| c.tensors[0].dimensions = vec![16, 32],
            "self_attn.k_proj.weight` has shape [32, 16]",
        ),
        (
            |c| c.tensors[0].dimensions = vec![u64::MAX, 16],
            "cannot be stored as F32",
        ),
        (
            |c| c.tensors[0].dimensions = vec![1 << 40, 16],
            "reach past the end of the file",
        ),
        (
            |c| c.tensor("token_embd.weight").dimensions = vec![16, 512],
            "cannot be stored as Q8_0",
        ),
    ];
    for (change, expected) in rows {
        let mut contents = Contents::tiny_llama();
        change(&mut contents);
        let message = contents.open().unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn a_tensor_of_another_type_is_an_error_when_it_is_read() {
    let mut contents = Contents::tiny_llama();
    contents.tensor("output_norm.weight").kind = 18;
    contents.tensor("token_embd.weight").kind = 99;
    let weights = contents.open().unwrap().weights;
    let message = weights
        .read("model.norm.weight", &[HIDDEN])
        .unwrap_err()
        .to_string();
    assert!(
        message.ends_with(
            "tensor `model.norm.weight` is stored as IQ3_XXS; supported: F32, F16, BF16, and in \
             GGUF also Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K, \
             IQ4_XS"
        ),
        "{message}"
    );
    let message = weights
        .read("model.embed_tokens.weight", &[256, HIDDEN])
        .unwrap_err()
        .to_string();
    assert!(message.contains("is stored as GGML type 99"), "{message}");
}

#[test]
fn claims_of_hostile_files_are_checked() {
    let list = |kind: u32, len: u64| {
        [
            9u32.to_le_bytes().to_vec(),
            kind.to_le_bytes().to_vec(),
            len.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let text = |len: u64| [8u32.to_le_bytes().to_vec(), len.to_le_bytes().to_vec()].concat();
    let rows = [
        (list(8, u64::MAX), "metadata `evil`"),
        (
            list(0, 1 << 20),
            "metadata `evil`: 1 bytes expected at byte",
        ),
        (
            list(0, (1 << 20) + 1),
            "metadata `evil`: a list of 1048577 values, but at most 1048576 are allowed",
        ),
        (list(9, 1), "metadata `evil`: lists of lists"),
        (list(77, 1), "metadata `evil`: unknown value type 77"),
        (
            text(u64::MAX),
            "metadata `evil`: 18446744073709551615 bytes expected at byte",
        ),
        (
            [text(65 << 20), vec![b'a'; 65 << 20]].concat(),
            "metadata `evil`: metadata and tensor table take more than 67108864 bytes",
        ),
        (
            77u32.to_le_bytes().to_vec(),
            "metadata `evil`: unknown value type 77",
        ),
        (
            [text(1), vec![0xFF]].concat(),
            "metadata `evil`: not a UTF-8 text",
        ),
    ];
    for (value, expected) in rows {
        let mut contents = Contents::tiny_llama();
        contents.set("evil", Meta::Bytes(value));
        let message = contents.open().unwrap_err().to_string();
        assert!(message.contains("tiny.gguf is damaged"), "{message:?}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }

    let valid = Contents::tiny_llama().bytes();
    for (position, expected) in [(8, "tensor"), (16, "metadata")] {
        let mut bytes = valid.clone();
        bytes[position..position + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        let message = open_bytes(&bytes).unwrap_err().to_string();
        assert!(
            message.contains("damaged") && message.contains(expected),
            "{message:?}"
        );
    }
    let mut many = Contents::tiny_llama();
    for index in 0..(1 << 16) {
        many.metadata.push((format!("evil.{index}"), Meta::U32(1)));
    }
    let message = many.open().unwrap_err().to_string();
    assert!(
        message.contains("metadata entries, but at most 65536 are allowed"),
        "{message:?}"
    );
    let mut twice = Contents::tiny_llama();
    twice
        .metadata
        .push(("llama.block_count".to_owned(), Meta::U32(1)));
    let message = twice.open().unwrap_err().to_string();
    assert!(
        message.contains("metadata `llama.block_count` occurs twice"),
        "{message:?}"
    );
}

#[test]
fn every_truncation_is_noticed() {
    let valid = Contents::tiny_llama().bytes();
    let path = Path::new("tiny.gguf");
    Gguf::parse(&valid, path).unwrap();
    for len in 0..valid.len() {
        assert!(
            Gguf::parse(&valid[..len], path).is_err(),
            "cut at {len} of {}",
            valid.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn hostile_bytes_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        in_header in any::<bool>(),
    ) {
        let mut bytes = Contents::tiny_llama().bytes();
        // Metadata and tensor table come first; the values behind them can be anything.
        let range = if in_header { 6000 } else { bytes.len() };
        for (position, value) in flips {
            bytes[position.index(range)] = value;
        }
        if let Ok(files) = open_bytes(&bytes) {
            for spec in files.weights.specs() {
                let _ = files.weights.read(&spec.name, &spec.shape);
            }
            if let Some(tokenizer) = files.tokenizer {
                let _ = tokenizer.encode("the sky <|im_end|>").map(|ids| tokenizer.decode(&ids));
            }
        }
    }
}
