//! The table of targets.

use crate::Target;

mod answers;
mod data;
mod models;
mod recipes;
mod runs;

/// All targets, in alphabetical order.
pub const TARGETS: &[Target] = &[
    Target {
        name: "adapter_config",
        max_len: 8 << 10,
        prepare: models::make_adapter,
        run: models::adapter_config,
    },
    Target {
        name: "checkpoint",
        max_len: 20_000,
        prepare: runs::make_run,
        run: runs::checkpoint,
    },
    Target {
        name: "config",
        max_len: 8 << 10,
        prepare: models::make_model,
        run: models::config,
    },
    Target {
        name: "conversation",
        max_len: 16 << 10,
        prepare: |_| {},
        run: models::conversation,
    },
    Target {
        name: "endpoint",
        max_len: 8 << 10,
        prepare: |_| {},
        run: answers::endpoint,
    },
    Target {
        name: "gguf",
        max_len: 20_000,
        prepare: |_| {},
        run: models::gguf,
    },
    Target {
        name: "gzip",
        max_len: 20_000,
        prepare: |_| {},
        run: data::gzip,
    },
    Target {
        name: "json_lines",
        max_len: 20_000,
        prepare: |_| {},
        run: data::json_lines,
    },
    Target {
        name: "judge",
        max_len: 16 << 10,
        prepare: |_| {},
        run: answers::judge,
    },
    Target {
        name: "parquet",
        max_len: 20_000,
        prepare: |_| {},
        run: data::parquet,
    },
    Target {
        name: "process",
        max_len: 4 << 10,
        prepare: |_| {},
        run: answers::process,
    },
    Target {
        name: "recipe",
        max_len: 8 << 10,
        prepare: |_| {},
        run: recipes::recipe,
    },
    Target {
        name: "run",
        max_len: 20_000,
        prepare: runs::make_run,
        run: runs::run,
    },
    Target {
        name: "safetensors",
        max_len: 20_000,
        prepare: |_| {},
        run: models::safetensors,
    },
    Target {
        name: "safetensors_index",
        max_len: 8 << 10,
        prepare: models::make_shards,
        run: models::safetensors_index,
    },
    Target {
        name: "template",
        max_len: 16 << 10,
        prepare: |_| {},
        run: models::template,
    },
    Target {
        name: "tokenizer",
        max_len: 20_000,
        prepare: |_| {},
        run: models::tokenizer,
    },
];

/// The target with this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
