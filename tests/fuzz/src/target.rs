//! What a target is.

use std::path::Path;

/// A way in for foreign bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of the target, and of its folder in the corpus.
    pub name: &'static str,
    /// The longest input that the engine tries, in bytes.
    pub max_len: usize,
    /// Puts what the input needs around it into a new folder, once.
    pub prepare: fn(&Path),
    /// Reads an input in that folder. Panics if something does not hold.
    pub run: fn(&Path, &[u8]),
}
