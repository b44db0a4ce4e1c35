//! Checks that every crate that is to be published has complete metadata and can be packed.

use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, Package};

use crate::process;

/// The most keywords that crates.io accepts.
const MAX_KEYWORDS: usize = 5;

/// The metadata that published packages lack.
pub(crate) fn incomplete(metadata: &Metadata) -> Vec<String> {
    let mut packages = metadata.workspace_packages();
    packages.retain(|package| is_published(package));
    packages
        .into_iter()
        .flat_map(|package| lacks(package, metadata))
        .collect()
}

/// Packs all published packages. They are not built, because the other checks build the tree. Lock files are left out:
/// they would need the registry, since the patch of `cubecl-llvm` does not apply to packages.
pub(crate) fn pack(metadata: &Metadata) -> Command {
    let mut pack = process::cargo();
    pack.args([
        "package",
        "--quiet",
        "--allow-dirty",
        "--no-verify",
        "--offline",
        "--exclude-lockfile",
    ]);
    for package in metadata.workspace_packages() {
        if is_published(package) {
            pack.args(["--package", &package.name]);
        }
    }
    pack
}

/// `publish = false` in a manifest is an empty list of registries here.
fn is_published(package: &Package) -> bool {
    package
        .publish
        .as_ref()
        .is_none_or(|registries| !registries.is_empty())
}

fn lacks(package: &Package, metadata: &Metadata) -> Vec<String> {
    let mut lacks = Vec::new();
    let mut need = |is_fulfilled: bool, problem: &str| {
        if !is_fulfilled {
            lacks.push(format!("`{}` {problem}", package.name));
        }
    };
    need(package.description.is_some(), "has no `description`");
    need(package.license.is_some(), "has no `license`");
    need(package.repository.is_some(), "has no `repository`");
    let count = package.keywords.len();
    need(
        (1..=MAX_KEYWORDS).contains(&count),
        &format!("has {count} `keywords`; it must have from 1 to {MAX_KEYWORDS}"),
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
        let member = members.iter().find(|member| member.name == *name);
        need(
            member.is_none_or(|member| is_published(member)),
            &format!("depends on `{name}`, which is not published"),
        );
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Checks what the package `house` lacks, with this metadata. `garden` is published, `shed` is not.
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
    fn missing_metadata_is_named() {
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
        let message = format!("`house` has no file {gone}, its `readme`");
        check(json!({"readme": "READ"}), &[&message]);
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
