//! The paths of the fixtures.

use std::path::{Path, PathBuf};

/// A file or folder of the fixtures of `polyphony-model`, such as `tiny-llama`.
pub fn fixture(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../polyphony-model/fixtures")
        .join(name);
    assert!(path.exists(), "there is no fixture `{name}`");
    path
}
