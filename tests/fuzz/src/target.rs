//! The description of a fuzz target.

use std::path::Path;

/// A function that reads untrusted bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of the target, and of its folder in the corpus.
    pub name: &'static str,
    /// The longest input that the engine tries, in bytes.
    pub max_len: usize,
    /// Writes the files that an input needs around it into a new folder, once.
    pub prepare: fn(&Path),
    /// Reads an input in that folder. Panics if a check fails.
    pub run: fn(&Path, &[u8]),
}
