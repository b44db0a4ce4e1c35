//! Links between the documents of this repository, which must lead somewhere.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use cargo_metadata::camino::{Utf8Path, Utf8PathBuf};

/// The links of README, changelog and `docs` to files that are not there, each with the document.
pub(crate) fn broken(root: &Utf8Path) -> Result<Vec<String>> {
    let mut documents = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    let folder = root.join("docs");
    let entries = folder
        .read_dir_utf8()
        .with_context(|| format!("reading {folder}"))?;
    for entry in entries {
        let path = entry?.path().to_owned();
        documents.extend(Some(path).filter(|path| path.extension() == Some("md")));
    }
    documents.sort();
    let mut broken = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document).with_context(|| format!("reading {document}"))?;
        let folder = document.parent().unwrap_or(root);
        let missing = targets(&text).filter(|target| !leads_somewhere(folder, target));
        broken.extend(
            missing.map(|target| format!("{document} links to {target}, which is not there")),
        );
    }
    Ok(broken)
}

/// What stands in the parentheses of Markdown's links.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
}

/// Whether a link is of the web, or to a file that is there.
fn leads_somewhere(folder: &Utf8Path, target: &str) -> bool {
    let file = target.split('#').next().unwrap_or_default();
    let elsewhere = target.contains("://") || file.is_empty();
    elsewhere || Path::new(&Utf8PathBuf::from(folder).join(file)).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_nowhere_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        fs::create_dir(root.join("docs")).unwrap();
        fs::write(root.join("CHANGELOG.md"), "").unwrap();
        let text = "[a](docs/a.md#part), ![b](b.png), [c](https://example.org), [d](#here)";
        fs::write(root.join("README.md"), text).unwrap();
        fs::write(root.join("docs/a.md"), "[back](../README.md) [e](b.md)").unwrap();
        let found = broken(root).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].ends_with("README.md links to b.png, which is not there"),
            "{found:?}"
        );
        assert!(
            found[1].ends_with("a.md links to b.md, which is not there"),
            "{found:?}"
        );
    }
}
