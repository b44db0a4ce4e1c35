//! The recipes that ship with the program.

/// The recipe that is trained where none is named.
pub const DEFAULT_NAME: &str = "tldr-smollm2";

/// A recipe that ships with the program.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// What `polyphony train` calls it.
    pub name: &'static str,
    /// The RON text, comments included.
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal,)*) => {
        &[$(Shipped {
            name: $name,
            text: include_str!(concat!("../../recipes/", $name, ".ron")),
        },)*]
    };
}

/// All recipes that ship with the program, the default one first: those for a small machine, then the
/// paper's experiments.
pub fn shipped() -> &'static [Shipped] {
    shipped![
        "tldr-smollm2",
        "tldr-smollm2-solo",
        "arxiv-smollm2",
        "arxiv-smollm2-solo",
        "coop-smollm2",
        "coop-smollm2-solo",
        "humaneval-smollm2",
        "humaneval-smollm2-two-turns",
        "tldr-qwen3",
        "tldr-qwen3-solo",
        "arxiv-qwen3",
        "arxiv-qwen3-solo",
        "humaneval-qwen-coder",
        "humaneval-qwen-coder-solo",
        "humaneval-qwen-coder-two-turns",
        "humaneval-qwen-coder-two-turns-solo",
        "coophumaneval-qwen-coder",
        "coophumaneval-qwen-coder-solo",
        "coophumaneval-qwen-coder-two-turns",
        "coophumaneval-qwen-coder-two-turns-solo",
    ]
}
