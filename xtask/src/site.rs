//! `cargo xtask docs`: README, `docs` and the API documentation as one static site.
//!
//! mdBook makes the pages and the search. It works on a copy with the same layout as the repository, so that
//! links between pages work in both; links to other files lead to the repository. The order of the pages is
//! that of `docs/README.md`, which must list all of them.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use cargo_metadata::{
    Metadata,
    camino::{Utf8Path, Utf8PathBuf},
};

use crate::{
    files::{self, read},
    links,
    process::{self, say},
    tools::{self, Tool},
};

/// The map of the documentation, relative to the workspace.
const MAP: &str = "docs/README.md";
/// The page that lists the API documentation of each crate.
const API: &str = "docs/api.md";

/// The program of mdBook, installed if necessary.
///
/// # Errors
/// If it cannot be installed.
pub(crate) fn mdbook(metadata: &Metadata) -> Result<PathBuf> {
    let tools = metadata.target_directory.join("xtask-tools");
    tools::obtain(Tool::MdBook, tools.as_std_path())
}

/// Builds the site with mdBook, and returns the path of its first page.
///
/// # Errors
/// If mdBook fails, a page is missing from the map, or the API documentation has errors.
pub(crate) fn build(metadata: &Metadata, mdbook: &Path) -> Result<Utf8PathBuf> {
    let root = &metadata.workspace_root;
    let folder = metadata.target_directory.join("site");
    let source = folder.join("src");
    remove(&source)?;
    let repository = repository(metadata)?;
    let map = read(&root.join(MAP))?;
    for path in pages(root)? {
        copy_page(root, &path, &source, &repository)?;
    }
    copy_images(root, &source)?;
    write(&source.join(API), &api(metadata))?;
    write(&source.join("SUMMARY.md"), &summary(root, &map)?)?;
    fs::copy(root.join("docs/book.toml"), folder.join("book.toml"))
        .context("copying docs/book.toml")?;

    let html = folder.join("html");
    remove(&html)?;
    process::run(
        Command::new(mdbook)
            .args(["build", "--dest-dir", html.as_str()])
            .arg(&folder),
    )?;
    build_api()?;
    let doc = metadata.target_directory.join("doc");
    copy_folder(doc.as_std_path(), html.join("api").as_std_path())?;
    for package in metadata.workspace_packages() {
        if package.publish.is_some() {
            remove(&html.join("api").join(package.name.replace('-', "_")))?;
        }
    }
    Ok(html.join("index.html"))
}

/// Builds the API documentation; a warning is an error.
///
/// # Errors
/// If rustdoc fails.
pub(crate) fn build_api() -> Result<()> {
    let mut doc = process::cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--quiet"])
        .env("RUSTDOCFLAGS", "-D warnings");
    process::run(&mut doc)
}

/// Builds the site and prints its path.
///
/// # Errors
/// The same as for [`mdbook`] and [`build`].
pub(crate) fn run(metadata: &Metadata) -> Result<()> {
    let page = build(metadata, &mdbook(metadata)?)?;
    say(format_args!("the site is at {page}"));
    Ok(())
}

/// The pages of the site: README and everything in `docs`.
fn pages(root: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let mut pages = vec![root.join("README.md")];
    let examples = root.join("docs/examples");
    let below = files::tracked(&root.join("docs"), &["md"])?;
    pages.extend(
        below
            .into_iter()
            .filter(|path| !path.starts_with(&examples)),
    );
    Ok(pages)
}

/// Copies a page, and makes links to files that are not pages lead to the repository.
fn copy_page(root: &Utf8Path, path: &Utf8Path, source: &Utf8Path, repository: &str) -> Result<()> {
    let name = path.strip_prefix(root)?;
    let folder = name.parent().unwrap_or(Utf8Path::new(""));
    let text = links::with_targets(&read(path)?, |target| {
        let end = target.find('#').unwrap_or(target.len());
        let (file, anchor) = target.split_at(end);
        if target.contains("://") || file.is_empty() {
            return target.to_owned();
        }
        let linked = normal(&folder.join(file));
        if !is_in_site(&linked) {
            return format!("{repository}/blob/main/{linked}{anchor}");
        }
        // mdBook turns a README into `index.html`.
        match file.strip_suffix("README.md") {
            Some(folder) => format!("{folder}index.md{anchor}"),
            None => target.to_owned(),
        }
    });
    write(&source.join(name), &text)
}

/// Whether a file of the repository is a page or a picture of the site.
fn is_in_site(path: &Utf8Path) -> bool {
    let is_page = path.extension() == Some("md") && !path.starts_with("docs/examples");
    path == "README.md" || path.starts_with("docs/images") || (path.starts_with("docs") && is_page)
}

/// A relative path without `.` and `..`.
fn normal(path: &Utf8Path) -> Utf8PathBuf {
    let mut normal = Utf8PathBuf::new();
    for part in path.components() {
        match part.as_str() {
            "." => {}
            ".." => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    normal
}

fn copy_images(root: &Utf8Path, source: &Utf8Path) -> Result<()> {
    let from = root.join("docs/images");
    copy_folder(from.as_std_path(), source.join("docs/images").as_std_path())
}

/// The chapters in mdBook's format: a part for each section of the map, with the pages to which it links.
fn summary(root: &Utf8Path, map: &str) -> Result<String> {
    let mut summary =
        "# Summary\n\n[Polyphony](README.md)\n[All pages](docs/README.md)\n".to_owned();
    let mut listed = HashSet::from([root.join("README.md"), root.join(MAP)]);
    for line in map.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            write!(summary, "\n# {title}\n\n")?;
        }
        let item = line
            .strip_prefix("- [")
            .and_then(|rest| rest.split_once("]("));
        if let Some((title, rest)) = item {
            let target = rest.split(')').next().unwrap_or_default();
            let path = root.join("docs").join(target);
            if target.ends_with(".md") && path.is_file() && listed.insert(path) {
                writeln!(summary, "- [{title}](docs/{target})")?;
            }
        }
    }
    write!(summary, "\n# API\n\n- [Crates]({API})\n")?;
    let missing: Vec<String> = pages(root)?
        .into_iter()
        .filter(|page| !listed.contains(page))
        .map(|page| page.strip_prefix(root).unwrap_or(&page).to_string())
        .collect();
    ensure!(
        missing.is_empty(),
        "{MAP} does not list {}: add a line `- [title](page.md)` to one of its sections",
        missing.join(", ")
    );
    Ok(summary)
}

/// The page that links to the API documentation of every library crate.
fn api(metadata: &Metadata) -> String {
    let mut page = "# API documentation\n\n| crate | what it is for |\n| --- | --- |\n".to_owned();
    let packages = metadata.workspace_packages();
    let published = packages.iter().filter(|package| {
        package.publish.is_none() && package.targets.iter().any(|target| target.is_lib())
    });
    for package in published {
        let folder = package.name.replace('-', "_");
        let description = package.description.as_deref().unwrap_or_default();
        page += &format!(
            "| [`{}`](../api/{folder}/index.html) | {description} |\n",
            package.name
        );
    }
    page
}

fn repository(metadata: &Metadata) -> Result<String> {
    let mut packages = metadata.workspace_packages().into_iter();
    packages
        .find_map(|package| package.repository.clone())
        .context("no package names its repository")
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("reading {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("copying {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn remove(folder: &Utf8Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {folder}"))
        }
        _ => Ok(()),
    }
}

fn write(path: &Utf8Path, text: &str) -> Result<()> {
    let folder = path.parent().context("a page is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("creating {folder}"))?;
    fs::write(path, text).with_context(|| format!("writing {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        for (name, text) in files {
            write(&root.join(name), text).unwrap();
        }
        process::run(Command::new("git").args(["init", "-q"]).current_dir(root)).unwrap();
        folder
    }

    #[test]
    fn the_map_becomes_the_list_of_chapters_and_must_be_complete() {
        let map = "# Docs\n\n## How to\n\n- [Run](run.md): a run\n- [Again](run.md)\n\n## Else\n\n- [Web](https://a.b)\n";
        let files = [("README.md", ""), (MAP, map), ("docs/run.md", "")];
        let folder = repository_with(&files);
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let summary_text = summary(root, map).unwrap();
        let expected = "# How to\n\n- [Run](docs/run.md)\n\n# Else\n\n\n# API";
        assert!(summary_text.contains(expected), "{summary_text}");
        write(&root.join("docs/lost.md"), "").unwrap();
        let error = summary(root, map).unwrap_err().to_string();
        assert!(error.contains("does not list docs/lost.md"), "{error}");
    }

    #[test]
    fn links_to_other_files_lead_to_the_repository() {
        let text = "[a](../README.md#x) [b](../crates/a.rs) [c](examples/e) [d](run.md) [e](https://x.y) [f](#z) [g](a.py)";
        let folder = repository_with(&[("docs/page.md", text)]);
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let source = root.join("out");
        copy_page(root, &root.join("docs/page.md"), &source, "https://r").unwrap();
        let expected = "[a](../index.md#x) [b](https://r/blob/main/crates/a.rs) \
                        [c](https://r/blob/main/docs/examples/e) [d](run.md) [e](https://x.y) [f](#z) \
                        [g](https://r/blob/main/docs/a.py)";
        assert_eq!(read(&source.join("docs/page.md")).unwrap(), expected);
    }
}
