//! Replays the corpus on its targets, so that bugs that were found once stay fixed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use polyphony_fuzz::{TARGETS, Target};

/// The fewest inputs per target. With fewer, the engine has to guess the format.
const FEWEST: usize = 3;

/// The most bytes of one input, and of all inputs, in the repository.
const ONE_INPUT: u64 = 20_000;
const WHOLE_CORPUS: u64 = 1_000_000;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The inputs of a target, in alphabetical order.
fn inputs(target: &Target) -> Vec<PathBuf> {
    let folder = corpus().join(target.name);
    let Ok(entries) = fs::read_dir(&folder) else {
        panic!(
            "the target `{}` has no folder {}",
            target.name,
            folder.display()
        );
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert!(names.is_sorted(), "{names:?}");
    let folders: BTreeSet<String> = fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(folders.iter().eq(names.iter()), "{folders:?} {names:?}");
    let mut total = 0;
    for target in TARGETS {
        let inputs = inputs(target);
        assert!(inputs.len() >= FEWEST, "`{}`: {inputs:?}", target.name);
        for input in inputs {
            let bytes = fs::metadata(&input).unwrap().len();
            assert!(bytes <= ONE_INPUT, "{} has {bytes} bytes", input.display());
            assert!(bytes <= target.max_len as u64, "{}", input.display());
            total += bytes;
        }
    }
    assert!(total <= WHOLE_CORPUS, "the corpus has {total} bytes");
}

#[test]
fn the_corpus_is_read_without_a_panic_and_in_time() {
    for target in TARGETS {
        let folder = tempfile::tempdir().unwrap();
        (target.prepare)(folder.path());
        for input in inputs(target) {
            let bytes = fs::read(&input).unwrap();
            let outcome = catch_unwind(AssertUnwindSafe(|| target.check(folder.path(), &bytes)));
            assert!(outcome.is_ok(), "{} fails", input.display());
        }
    }
}
