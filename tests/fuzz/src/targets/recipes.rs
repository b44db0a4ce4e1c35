//! Recipes.

use std::{path::Path, sync::OnceLock};

use polyphony::{Program, Recipe};

use crate::check;

/// The standard program, with everything that recipes can name.
pub(crate) fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(Program::standard)
}

/// A recipe as text. After a zero byte, each line is an override of `--set`.
pub(super) fn recipe(folder: &Path, bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let text = parts.next().unwrap_or_default();
    let overrides = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let overrides: Vec<String> = overrides.lines().map(str::to_owned).collect();
    let path = folder.join("recipe.ron");
    std::fs::write(&path, text).unwrap();
    let registry = program().registry();
    match Recipe::load(registry, path.to_str(), &overrides) {
        Ok(recipe) => {
            let written = recipe.to_ron();
            let again = Recipe::from_ron(registry, &written).unwrap();
            assert_eq!(again.to_ron(), written);
        }
        Err(error) => {
            let text = format!("{error:#}");
            check::message(&text);
            assert!(
                text.contains("recipe.ron") || !overrides.is_empty(),
                "{text}"
            );
        }
    }
}
