//! Checks with `cargo metadata` which crate depends on which.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{Dependency, DependencyKind, Metadata, Package, PackageId};

/// The crates of the workspace on which each crate may depend. The facade wires everything together.
const ALLOWED: &[(&str, &[&str])] = &[
    ("polyphony-episode", &[]),
    ("polyphony-sandbox", &[]),
    (
        "polyphony-env",
        &["polyphony-episode", "polyphony-http", "polyphony-sandbox"],
    ),
    ("polyphony-model", &[]),
    ("polyphony-marl", &["polyphony-episode", "polyphony-model"]),
    ("polyphony-mpi", &["polyphony-marl"]),
    ("polyphony-http", &[]),
    ("polyphony-hub", &["polyphony-http"]),
    ("polyphony-report", &["polyphony-episode"]),
    (
        "polyphony-runner",
        &[
            "polyphony-episode",
            "polyphony-model",
            "polyphony-marl",
            "polyphony-hub",
            "polyphony-report",
        ],
    ),
    (
        "polyphony",
        &[
            "polyphony-episode",
            "polyphony-sandbox",
            "polyphony-env",
            "polyphony-model",
            "polyphony-marl",
            "polyphony-mpi",
            "polyphony-hub",
            "polyphony-report",
            "polyphony-runner",
        ],
    ),
    (
        TEST_SUPPORT,
        &["polyphony-episode", "polyphony-model", "polyphony-marl"],
    ),
    (
        "polyphony-device-tests",
        &["polyphony-episode", "polyphony-model", "polyphony-marl"],
    ),
    ("polyphony-mock-cuda", &[]),
    (
        "polyphony-fuzz",
        &[
            "polyphony",
            "polyphony-episode",
            "polyphony-env",
            "polyphony-hub",
            "polyphony-model",
            "polyphony-report",
            "polyphony-runner",
            "polyphony-sandbox",
            TEST_SUPPORT,
        ],
    ),
    ("xtask", &[]),
];

/// The crate on which every other may depend in its tests, examples and benchmarks, but not elsewhere.
const TEST_SUPPORT: &str = "polyphony-test-support";

/// Families of crates outside the workspace (`burn` with `burn-tensor` and so on) on which a crate must not
/// depend, directly or indirectly.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("polyphony-episode", &["burn", "tokenizers"]),
    ("polyphony-sandbox", &["burn", "tokenizers"]),
    ("polyphony-env", &["burn", "tokenizers"]),
    ("polyphony-http", &["burn", "tokenizers"]),
    ("polyphony-hub", &["burn", "tokenizers"]),
    ("polyphony-report", &["burn", "tokenizers"]),
];

/// The dependencies that break the rules. `metadata` must contain the resolved graph.
pub(crate) fn violations(metadata: &Metadata) -> Vec<String> {
    let mut found = Vec::new();
    for package in metadata.workspace_packages() {
        found.extend(wrong_edges(package));
    }
    for (name, forbidden) in FORBIDDEN {
        found.extend(forbidden_in_tree(metadata, name, forbidden));
    }
    found
}

/// The crates of the workspace on which `package` depends, also in its tests and examples, although it must
/// not.
fn wrong_edges(package: &Package) -> Vec<String> {
    let name = package.name.as_str();
    let Some((_, allowed)) = ALLOWED.iter().find(|(package, _)| *package == name) else {
        return vec![format!(
            "`{name}` is not in the table of allowed edges in xtask/src/edges.rs"
        )];
    };
    let workspace_dependencies = package
        .dependencies
        .iter()
        .filter(|dependency| dependency.path.is_some());
    let is_allowed = |dependency: &&Dependency| {
        allowed.contains(&dependency.name.as_str())
            || (dependency.name == TEST_SUPPORT && dependency.kind == DependencyKind::Development)
    };
    workspace_dependencies
        .filter(|dependency| !is_allowed(dependency))
        .map(|dependency| {
            let allowed = if allowed.is_empty() {
                "none".to_owned()
            } else {
                allowed.join(", ")
            };
            let dependency = &dependency.name;
            format!(
                "`{name}` depends on `{dependency}`; of the workspace's crates it may depend on: {allowed}"
            )
        })
        .collect()
}

/// The paths from `root` to a forbidden crate, without dev-dependencies.
fn forbidden_in_tree(metadata: &Metadata, root: &str, forbidden: &[&str]) -> Vec<String> {
    let Some(start) = metadata
        .workspace_packages()
        .into_iter()
        .find(|package| package.name == root)
    else {
        return vec![format!(
            "`{root}` is not in the workspace, but xtask/src/edges.rs has rules for it"
        )];
    };
    let parents = reachable(metadata, &start.id);
    parents
        .keys()
        .filter(|id| {
            forbidden
                .iter()
                .any(|family| belongs_to(&metadata[*id].name, family))
        })
        .map(|id| {
            let mut path = vec![metadata[*id].name.as_str()];
            let mut current = *id;
            while let Some(Some(parent)) = parents.get(current) {
                path.push(metadata[*parent].name.as_str());
                current = *parent;
            }
            path.reverse();
            format!(
                "`{root}` must not depend on `{}`, but: {}",
                metadata[*id].name,
                path.join(" → ")
            )
        })
        .collect()
}

/// Whether a crate is `family` itself or one of its parts, such as `burn-tensor` of `burn`.
fn belongs_to(name: &str, family: &str) -> bool {
    name.strip_prefix(family)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// All packages that are built for `start`, each with the package from which it was reached.
fn reachable<'m>(
    metadata: &'m Metadata,
    start: &'m PackageId,
) -> BTreeMap<&'m PackageId, Option<&'m PackageId>> {
    let nodes: BTreeMap<_, _> = metadata
        .resolve
        .iter()
        .flat_map(|graph| &graph.nodes)
        .map(|node| (&node.id, node))
        .collect();
    let mut parents = BTreeMap::from([(start, None)]);
    let mut open = BTreeSet::from([start]);
    while let Some(id) = open.pop_first() {
        let Some(node) = nodes.get(id) else { continue };
        for dependency in &node.deps {
            let is_built = dependency
                .dep_kinds
                .iter()
                .any(|kind| kind.kind != DependencyKind::Development);
            if is_built && !parents.contains_key(&dependency.pkg) {
                parents.insert(&dependency.pkg, Some(id));
                open.insert(&dependency.pkg);
            }
        }
    }
    parents
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Metadata of a workspace with every crate of the table and these edges: (from, to, kind). Crates that
    /// are not in the table are outside the workspace.
    fn workspace(edges: &[(&str, &str, &str)]) -> Metadata {
        let members = ALLOWED.iter().map(|(name, _)| *name);
        let targets = edges.iter().map(|(_, to, _)| *to);
        let names: BTreeSet<&str> = members.clone().chain(targets).collect();
        let is_member = |name: &str| ALLOWED.iter().any(|(member, _)| *member == name);
        let kind_of = |kind: &str| {
            if kind == "normal" {
                json!(null)
            } else {
                json!(kind)
            }
        };
        let packages = names.iter().map(|name| {
            let dependencies =
                edges
                    .iter()
                    .filter(|(from, _, _)| from == name)
                    .map(|(_, to, kind)| {
                        json!({"name": to, "req": "*", "kind": kind_of(kind), "optional": false,
                    "uses_default_features": true, "features": [],
                    "path": is_member(to).then(|| format!("/house/{to}"))})
                    });
            json!({"name": name, "version": "0.1.0", "id": name, "targets": [], "features": {},
                "dependencies": dependencies.collect::<Vec<_>>(),
                "manifest_path": format!("/house/{name}/Cargo.toml")})
        });
        let nodes = names.iter().map(|name| {
            let deps = edges
                .iter()
                .filter(|(from, _, _)| from == name)
                .map(|(_, to, kind)| {
                    json!({"name": to, "pkg": to,
                    "dep_kinds": [{"kind": kind_of(kind), "target": null}]})
                });
            json!({"id": name, "deps": deps.collect::<Vec<_>>(), "dependencies": []})
        });
        let metadata = json!({
            "packages": packages.collect::<Vec<_>>(),
            "workspace_members": members.collect::<Vec<_>>(),
            "resolve": {"nodes": nodes.collect::<Vec<_>>(), "root": null},
            "target_directory": "/house/target", "workspace_root": "/house", "version": 1,
        });
        serde_json::from_value(metadata).unwrap()
    }

    #[test]
    fn wrong_edges_are_found() {
        type Row<'a> = (&'a [(&'a str, &'a str, &'a str)], &'a [&'a str]);
        let rows: &[Row] = &[
            (&[], &[]),
            (&[("polyphony-env", "polyphony-sandbox", "normal")], &[]),
            (&[("polyphony-model", "burn", "normal")], &[]),
            (&[("polyphony-env", "burn", "dev")], &[]),
            (&[("polyphony-env", TEST_SUPPORT, "dev")], &[]),
            (
                &[("polyphony-env", TEST_SUPPORT, "normal")],
                &[
                    "`polyphony-env` depends on `polyphony-test-support`; of the workspace's crates \
                   it may depend on: polyphony-episode, polyphony-http, polyphony-sandbox",
                ],
            ),
            (
                &[("polyphony-marl", "polyphony-env", "dev")],
                &[
                    "`polyphony-marl` depends on `polyphony-env`; of the workspace's crates it may \
                   depend on: polyphony-episode, polyphony-model",
                ],
            ),
            (
                &[("polyphony-episode", "polyphony-model", "normal")],
                &[
                    "`polyphony-episode` depends on `polyphony-model`; of the workspace's crates it \
                   may depend on: none",
                ],
            ),
            (
                &[
                    ("polyphony-env", "loader", "normal"),
                    ("loader", "burn", "build"),
                ],
                &["`polyphony-env` must not depend on `burn`, but: polyphony-env → loader → burn"],
            ),
        ];
        for (edges, expected) in rows {
            assert_eq!(violations(&workspace(edges)), *expected, "{edges:?}");
        }
    }

    #[test]
    fn this_workspace_keeps_the_rules() {
        let metadata = cargo_metadata::MetadataCommand::new().exec().unwrap();
        assert_eq!(violations(&metadata), Vec::<String>::new());
    }
}
