//! The conversion of GGUF files, which this crate leaves to its caller.

use std::{error::Error, path::Path};

/// Converts a GGUF file to a Hugging Face directory. The first path is the file. The second is the directory,
/// which does not exist yet.
pub type GgufConverter<'a> = dyn Fn(&Path, &Path) -> Result<(), Box<dyn Error + Send + Sync>> + 'a;
