//! What this crate leaves to whoever can open models.

use std::{error::Error, path::Path};

/// How a GGUF file, the first path, becomes a Hugging Face directory, the second, which does not
/// exist yet.
pub type Convert<'a> = dyn Fn(&Path, &Path) -> Result<(), Box<dyn Error + Send + Sync>> + 'a;
