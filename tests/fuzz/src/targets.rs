//! The table of targets.

use crate::Target;

mod models;
mod recipes;

/// All targets, in alphabetical order.
pub const TARGETS: &[Target] = &[
    Target {
        name: "recipe",
        max_len: 8 << 10,
        prepare: |_| {},
        run: recipes::recipe,
    },
    Target {
        name: "safetensors",
        max_len: 32 << 10,
        prepare: |_| {},
        run: models::safetensors,
    },
    Target {
        name: "template",
        max_len: 16 << 10,
        prepare: |_| {},
        run: models::template,
    },
];
