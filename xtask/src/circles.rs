//! Finds circles of files: files of a crate that need each other, and therefore cannot be understood
//! separately.
//!
//! File A needs file B if code of A, without its tests, names something that is defined in B. Names are
//! followed through imports and re-exports to their definitions. A `lib.rs` that only declares modules and
//! re-exports from them is therefore not part of a circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::Result;
use cargo_metadata::{Metadata, Package, TargetKind};

use crate::source::{self, Module, Modules, Word, is_identifier};

/// The files that each file needs.
type Needs = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

/// The path of a module, or of something in it.
type Route = Vec<String>;

/// A description of every circle in the crates of the workspace.
///
/// # Errors
///
/// If a source cannot be read.
pub(crate) fn find(metadata: &Metadata) -> Result<Vec<String>> {
    let mut circles = Vec::new();
    for package in metadata.workspace_packages() {
        for root in roots(package) {
            let needs = needs(&source::modules(&root)?);
            let folder = root.parent().unwrap_or(Path::new(""));
            let describe = |files: Vec<PathBuf>| describe(&package.name, folder, &needs, &files);
            circles.extend(circles_of(&needs).into_iter().map(describe));
        }
    }
    Ok(circles)
}

/// The root files of a package's library and programs.
fn roots(package: &Package) -> Vec<PathBuf> {
    let is_checked = |kind: &TargetKind| {
        matches!(
            kind,
            TargetKind::Lib | TargetKind::Bin | TargetKind::ProcMacro
        )
    };
    let targets = package.targets.iter();
    let targets = targets.filter(|target| target.kind.iter().any(is_checked));
    targets
        .map(|target| target.src_path.clone().into())
        .collect()
}

fn describe(package: &str, folder: &Path, needs: &Needs, files: &[PathBuf]) -> String {
    let short = |file: &Path| {
        file.strip_prefix(folder)
            .unwrap_or(file)
            .display()
            .to_string()
    };
    let lines = files.iter().map(|file| {
        let needed = needs[file].iter().filter(|other| files.contains(other));
        let needed: Vec<String> = needed.map(|other| short(other)).collect();
        format!("\n    {} needs {}", short(file), needed.join(", "))
    });
    format!(
        "`{package}`: {} files need each other; move what they share to a separate file:{}",
        files.len(),
        lines.collect::<String>()
    )
}

/// For each imported name of a module, the path of its item from the crate's root.
type Names = BTreeMap<String, Route>;

/// An import or a re-export of a module.
struct Import {
    name: String,
    target: Route,
    is_public: bool,
}

/// The files that each file of a crate needs.
fn needs(modules: &Modules) -> Needs {
    let imports: BTreeMap<&Route, Vec<Import>> = modules
        .iter()
        .map(|(path, module)| (path, imports(modules, path, module)))
        .collect();
    let names: BTreeMap<&Route, Names> = imports
        .iter()
        .map(|(path, imports)| {
            let pairs = imports
                .iter()
                .map(|import| (import.name.clone(), import.target.clone()));
            (*path, pairs.collect())
        })
        .collect();
    let mut needs = Needs::new();
    for (path, module) in modules {
        let mut targets: Vec<Route> = paths_in_code(&module.words)
            .into_iter()
            .filter_map(|written| absolute(modules, path, &names[path], &written))
            .collect();
        // A re-export from a module below does not count as a need.
        let is_needed = |import: &&Import| !(import.is_public && import.target.starts_with(path));
        targets.extend(
            imports[path]
                .iter()
                .filter(is_needed)
                .map(|import| import.target.clone()),
        );
        let needed_files = needs.entry(module.file.clone()).or_default();
        for target in targets {
            let home = home(modules, &names, target);
            let file = &modules[&home].file;
            if *file != module.file {
                needed_files.insert(file.clone());
            }
        }
    }
    needs
}

/// The module in which something is defined.
fn home(modules: &Modules, names: &BTreeMap<&Route, Names>, mut target: Route) -> Route {
    // The limit ends chains of re-exports that are circular by mistake.
    for _ in 0..16 {
        let depth = (0..=target.len())
            .rev()
            .find(|depth| modules.contains_key(&target[..*depth]));
        let depth = depth.unwrap_or_default();
        let re_exported = target
            .get(depth)
            .and_then(|name| names.get(&target[..depth].to_vec())?.get(name));
        match re_exported {
            Some(route) => target = [route, &target[depth + 1..]].concat(),
            None => {
                target.truncate(depth);
                return target;
            }
        }
    }
    Vec::new()
}

/// A path in the source as a path from the crate's root; `None` if it leads out of the crate.
fn absolute(modules: &Modules, module: &Route, names: &Names, written: &[String]) -> Option<Route> {
    let first = written.first()?;
    let (mut route, rest) = match first.as_str() {
        "crate" => (Vec::new(), &written[1..]),
        "self" | "super" => (module.clone(), written),
        name => {
            let child = [module.as_slice(), &[name.to_owned()]].concat();
            match names.get(name) {
                _ if modules.contains_key(&child) => (child, &written[1..]),
                Some(route) => (route.clone(), &written[1..]),
                None => return None,
            }
        }
    };
    for word in rest {
        match word.as_str() {
            "self" => {}
            "super" => {
                route.pop()?;
            }
            name => route.push(name.to_owned()),
        }
    }
    Some(route)
}

/// The imports of a module's `use` declarations.
fn imports(modules: &Modules, path: &Route, module: &Module) -> Vec<Import> {
    let mut imports = Vec::new();
    let mut at = 0;
    while at < module.words.len() {
        if module.words[at] != "use" {
            at += 1;
            continue;
        }
        let is_public = is_public(&module.words[..at]);
        let mut leaves = Vec::new();
        at = read_tree(&module.words, at + 1, &[], &mut leaves);
        for (written, name) in leaves {
            if let Some(target) = absolute(modules, path, &Names::new(), &written) {
                imports.push(Import {
                    name,
                    target,
                    is_public,
                });
            }
        }
    }
    imports
}

/// Whether these words end with `pub` or `pub(…)`.
fn is_public(before: &[Word]) -> bool {
    let open = before.iter().rposition(|word| word == "(");
    let before = match (before.last().map(String::as_str), open) {
        (Some(")"), Some(open)) => &before[..open],
        _ => before,
    };
    before.last().is_some_and(|word| word == "pub")
}

/// Reads the `use` tree that begins at `at`, and adds the path and the name of each leaf to `leaves`. Returns
/// where the tree ends. A glob import gets the name `*`, which no item has.
fn read_tree(
    words: &[Word],
    mut at: usize,
    prefix: &[String],
    leaves: &mut Vec<(Route, String)>,
) -> usize {
    let mut route = prefix.to_vec();
    while let Some(word) = words.get(at) {
        match word.as_str() {
            ":" => {}
            "*" => {
                leaves.push((route.clone(), "*".to_owned()));
                return at + 1;
            }
            "{" => {
                at += 1;
                while words.get(at).is_some_and(|word| word != "}") {
                    match words[at].as_str() {
                        "," => at += 1,
                        _ => at = read_tree(words, at, &route, leaves),
                    }
                }
                return at + 1;
            }
            "as" => {
                let name = words.get(at + 1).cloned().unwrap_or_default();
                leaves.push((route, name));
                return at + 2;
            }
            name if is_identifier(name) => route.push(name.to_owned()),
            _ => break,
        }
        at += 1;
    }
    let named = route.iter().rfind(|word| *word != "self");
    if let Some(name) = named.cloned() {
        leaves.push((route, name));
    }
    // The caller reads a comma or a bracket; a semicolon or anything else that ends the tree is skipped here.
    match words.get(at).map(String::as_str) {
        Some("," | "}") | None => at,
        Some(_) => at + 1,
    }
}

/// All paths with two or more words outside `use` declarations.
fn paths_in_code(words: &[Word]) -> Vec<Route> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        if words[at] == "use" {
            at = read_tree(words, at + 1, &[], &mut Vec::new());
            continue;
        }
        if !is_identifier(&words[at]) {
            at += 1;
            continue;
        }
        let mut route = vec![words[at].clone()];
        at += 1;
        while let Some([first, second, next]) = words.get(at..at + 3)
            && first == ":"
            && second == ":"
            && is_identifier(next)
        {
            route.push(next.clone());
            at += 3;
        }
        if route.len() > 1 {
            found.push(route);
        }
    }
    found
}

/// The sets of files that need each other, directly or indirectly.
fn circles_of(needs: &Needs) -> Vec<Vec<PathBuf>> {
    let reachable = |start: &PathBuf| {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&PathBuf> = needs.get(start).into_iter().flatten().collect();
        while let Some(file) = open.pop() {
            if reached.insert(file) {
                open.extend(needs.get(file).into_iter().flatten());
            }
        }
        reached
    };
    let reached: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> =
        needs.keys().map(|file| (file, reachable(file))).collect();
    let circles: BTreeSet<Vec<PathBuf>> = needs
        .keys()
        .filter(|file| reached[file].contains(file))
        .map(|file| {
            let mutual = reached[file]
                .iter()
                .filter(|other| reached[**other].contains(file));
            mutual.map(|other| (*other).clone()).collect()
        })
        .collect();
    circles.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The needs of a made-up crate with these files.
    fn needs_of(files: &[(&str, &str)]) -> (tempfile::TempDir, Needs) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let modules = source::modules(&folder.path().join("lib.rs")).unwrap();
        let needs = needs(&modules);
        (folder, needs)
    }

    fn check(files: &[(&str, &str)], expected: &[&[&str]]) {
        let (folder, needs) = needs_of(files);
        let expected: Vec<Vec<PathBuf>> = expected
            .iter()
            .map(|circle| circle.iter().map(|name| folder.path().join(name)).collect())
            .collect();
        assert_eq!(circles_of(&needs), expected, "{files:?}");
    }

    #[test]
    fn circles_are_found() {
        let two = ["a.rs", "b.rs"];
        let lib = (
            "lib.rs",
            "mod a; mod b; pub use a::A; pub use b::{B, c as d};",
        );
        // Not a circle: a need in one direction, in tests, in comments, in a facade.
        check(&[lib, ("a.rs", "use crate::b::B;"), ("b.rs", "")], &[]);
        check(
            &[
                lib,
                ("a.rs", "use crate::B;"),
                ("b.rs", "struct B; // crate::A"),
            ],
            &[],
        );
        let tests = "#[cfg(test)] mod tests { use crate::a::A; }";
        check(&[lib, ("a.rs", "use super::b::B;"), ("b.rs", tests)], &[]);
        // `a.rs` needs `b.rs` through its module, a re-export, a renamed re-export, an expression and so on.
        let ways = [
            "use crate::b::B;",
            "use super::{b::B, x};",
            "use crate::B;",
            "use crate::d;",
            "use super::*; fn f() { crate::b::B::new() }",
            "use crate::b; fn f() { b::c() }",
            "impl From<super::B> for A {}",
            "pub(crate) use crate::b::B;",
            "mod inner { use super::super::b::B; }",
            "macro_rules! m { () => { $crate::B } }",
        ];
        for way in ways {
            check(&[lib, ("a.rs", way), ("b.rs", "use crate::A;")], &[&two]);
        }
        // A circle of three files, one of them in a folder.
        let three = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::x::X;"),
            ("b/mod.rs", "mod x; pub(crate) use x::X;"),
            ("b/x.rs", "use crate::c::C;"),
            ("c.rs", "use crate::a;"),
        ];
        check(&three, &[&["a.rs", "b/x.rs", "c.rs"]]);
    }

    #[test]
    fn parents_and_children_may_be_a_circle() {
        let lib = ("lib.rs", "mod a;");
        // A child that needs its parent is not a circle as long as the parent only re-exports.
        check(
            &[
                lib,
                ("a.rs", "mod x; pub use x::X; struct Y;"),
                ("a/x.rs", "use super::Y;"),
            ],
            &[],
        );
        let both = [
            lib,
            ("a.rs", "mod x; use x::X; struct Y;"),
            ("a/x.rs", "use super::Y;"),
        ];
        check(&both, &[&["a/x.rs", "a.rs"]]);
    }

    #[test]
    fn a_circle_is_described_with_its_files() {
        let (folder, needs) = needs_of(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "use crate::a::A;"),
        ]);
        let circle = &circles_of(&needs)[0];
        let expected = "`house`: 2 files need each other; move what they share to a separate \
                        file:\n    a.rs needs b.rs\n    b.rs needs a.rs";
        assert_eq!(describe("house", folder.path(), &needs, circle), expected);
    }
}
