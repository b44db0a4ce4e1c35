//! Whether every crate that is published could be: its metadata, and that it can be packed.

use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, Package};

use crate::process;

/// How many keywords crates.io takes.
const MOST_KEYWORDS: usize = 5;

/// What the packages lack that are published; empty where nothing is.
pub(crate) fn incomplete(metadata: &Metadata) -> Vec<String> {
    let mut packages = metadata.workspace_packages();
    packages.retain(|package| is_published(package));
    packages
        .into_iter()
        .flat_map(|package| lacks(package, metadata))
        .collect()
}

/// Packs all packages that are published. They are not built: the tree they come from has been.
pub(crate) fn pack(metadata: &Metadata) -> Command {
    let mut pack = process::cargo();
    pack.args([
        "package",
        "--quiet",
        "--allow-dirty",
        "--no-verify",
        "--offline",
    ]);
    for package in metadata.workspace_packages() {
        if is_published(package) {
            pack.args(["--package", &package.name]);
        }
    }
    pack
}

/// An empty list of registries is `publish = false`.
fn is_published(package: &Package) -> bool {
    package
        .publish
        .as_ref()
        .is_none_or(|registries| !registries.is_empty())
}

fn lacks(package: &Package, metadata: &Metadata) -> Vec<String> {
    let mut lacks = Vec::new();
    let mut need = |is_there: bool, what: &str| {
        if !is_there {
            lacks.push(format!("`{}` {what}", package.name));
        }
    };
    need(package.description.is_some(), "has no `description`");
    need(package.license.is_some(), "has no `license`");
    need(package.repository.is_some(), "has no `repository`");
    let count = package.keywords.len();
    need(
        (1..=MOST_KEYWORDS).contains(&count),
        &format!("has {count} `keywords`; it must have from 1 to {MOST_KEYWORDS}"),
    );
    let readme = package.readme();
    need(readme.is_some(), "has no `readme`");
    if let Some(readme) = readme {
        need(
            readme.exists(),
            &format!("has no file {readme}, its `readme`"),
        );
    }
    let members = metadata.workspace_packages();
    for dependency in &package.dependencies {
        if dependency.path.is_none() || dependency.kind == DependencyKind::Development {
            continue;
        }
        let name = &dependency.name;
        need(
            dependency.req.to_string() != "*",
            &format!("depends on `{name}` without a version"),
        );
        let other = members.iter().find(|member| member.name == *name);
        need(
            other.is_none_or(|other| is_published(other)),
            &format!("depends on `{name}`, which is not published"),
        );
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// What the package `house` lacks that is described so far: `garden` is published, `shed` is not.
    fn check(house: Value, expected: &[&str]) {
        let package = |name: &str, more: &Value| {
            let mut package = json!({"name": name, "version": "0.1.0", "id": name, "targets": [],
                "features": {}, "dependencies": [], "manifest_path": concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
                "description": "d", "license": "MIT", "repository": "https://a.b/c",
                "readme": "Cargo.toml", "keywords": ["a"]});
            for (key, value) in more.as_object().unwrap() {
                package[key] = value.clone();
            }
            package
        };
        let packages = [
            package("house", &house),
            package("garden", &json!({})),
            package("shed", &json!({"publish": [], "license": null})),
        ];
        let metadata = json!({
            "packages": packages, "workspace_members": ["house", "garden", "shed"], "resolve": null,
            "target_directory": "/target", "workspace_root": "/", "version": 1,
        });
        let metadata: Metadata = serde_json::from_value(metadata).unwrap();
        assert_eq!(incomplete(&metadata), expected);
    }

    fn dependency(name: &str, requirement: &str, kind: Value) -> Value {
        json!({"dependencies": [{"name": name, "req": requirement, "kind": kind, "optional": false,
            "uses_default_features": true, "features": [], "path": format!("/{name}")}]})
    }

    #[test]
    fn what_is_missing_is_named() {
        check(json!({}), &[]);
        check(
            json!({"description": null, "readme": null}),
            &["`house` has no `description`", "`house` has no `readme`"],
        );
        check(
            json!({"keywords": []}),
            &["`house` has 0 `keywords`; it must have from 1 to 5"],
        );
        let gone = concat!(env!("CARGO_MANIFEST_DIR"), "/READ");
        let complaint = format!("`house` has no file {gone}, its `readme`");
        check(json!({"readme": "READ"}), &[&complaint]);
        check(dependency("garden", "^0.1.0", json!(null)), &[]);
        check(dependency("shed", "*", json!("dev")), &[]);
        check(
            dependency("garden", "*", json!(null)),
            &["`house` depends on `garden` without a version"],
        );
        check(
            dependency("shed", "^0.1.0", json!("build")),
            &["`house` depends on `shed`, which is not published"],
        );
    }
}
