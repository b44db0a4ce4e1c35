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

/// All recipes that ship with the program, the default one first.
pub fn shipped() -> &'static [Shipped] {
    &[
        Shipped {
            name: DEFAULT_NAME,
            text: include_str!("../../recipes/tldr-smollm2.ron"),
        },
        Shipped {
            name: "arxiv-smollm2",
            text: include_str!("../../recipes/arxiv-smollm2.ron"),
        },
        Shipped {
            name: "coop-smollm2",
            text: include_str!("../../recipes/coop-smollm2.ron"),
        },
        Shipped {
            name: "humaneval-smollm2",
            text: include_str!("../../recipes/humaneval-smollm2.ron"),
        },
    ]
}
