//! `cargo xtask ci`: the checks of the tree, cheapest first.
//!
//! All checks run even if one fails, so that one run shows everything that has to be fixed.

use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::{Metadata, MetadataCommand};

use crate::{
    circles, cuda, edges, files, fuzz, links, mpi, names, packages, phrases,
    process::{self, say},
    site,
    tools::{self, Tool},
};

/// The outcome of a check that did not fail.
enum Outcome {
    Passed,
    /// The check did not run, for this reason.
    NotRun(String),
}

/// One check.
struct Check {
    name: &'static str,
    run: fn(&Metadata) -> Result<Outcome>,
}

const CHECKS: &[Check] = &[
    Check {
        name: "format",
        run: |_| cargo(&["fmt", "--all", "--check"]),
    },
    Check {
        name: "crate edges",
        run: crate_edges,
    },
    Check {
        name: "circles of files",
        run: file_circles,
    },
    Check {
        name: "names that the runner must not know",
        run: runner_names,
    },
    Check {
        name: "metadata of packages",
        run: package_metadata,
    },
    Check {
        name: "links",
        run: links,
    },
    Check {
        name: "phrases",
        run: phrases,
    },
    Check {
        name: "spelling",
        run: |metadata| tool(metadata, Tool::Typos),
    },
    Check {
        name: "unused dependencies",
        run: |metadata| tool(metadata, Tool::Shear),
    },
    Check {
        name: "licences and sources",
        run: |metadata| tool(metadata, Tool::Deny),
    },
    Check {
        name: "packages",
        run: packages,
    },
    Check {
        name: "lints",
        run: |_| lints(),
    },
    Check {
        name: "documentation",
        run: documentation,
    },
    Check {
        name: "fuzzing",
        run: |_| fuzzing(),
    },
];

/// The checks of devices other than the CPU. They take long to build.
const DEVICE_CHECKS: &[Check] = &[
    Check {
        name: "devices that must compile: cuda, vulkan and wgpu",
        run: |_| {
            cargo(&[
                "clippy",
                "--workspace",
                "--quiet",
                "--features",
                "polyphony/cuda,polyphony/vulkan,polyphony/wgpu",
                "--",
                "-D",
                "warnings",
            ])
        },
    },
    Check {
        name: "tests on the device wgpu",
        run: |_| wgpu_tests(),
    },
    Check {
        name: "kernels compiled for cuda",
        run: cuda_kernels,
    },
];

/// The features with which the tests of devices are built. They are the same for all tests, so that there is one build.
const DEVICE_FEATURES: &str =
    "polyphony-device-tests/wgpu,polyphony-device-tests/mock-cuda,polyphony-model/wgpu";

/// Which checks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The checks of the tree.
    Tree,
    /// The checks of the tree and of all devices.
    TreeAndDevices,
}

/// Whether a check fails if its tool is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissingTools {
    Fail,
    Allow,
}

/// The packages of the workspace and their dependencies.
pub(crate) fn metadata() -> Result<Metadata> {
    let metadata = MetadataCommand::new().exec();
    metadata.context("reading `cargo metadata`")
}

/// Runs every check and reports those that failed or could not run.
pub(crate) fn run(scope: Scope, missing_tools: MissingTools) -> Result<()> {
    let metadata = metadata()?;
    let mut failed = Vec::new();
    let mut not_run = Vec::new();
    let devices = match scope {
        Scope::Tree => &[],
        Scope::TreeAndDevices => DEVICE_CHECKS,
    };
    for check in CHECKS.iter().chain(devices) {
        say(format_args!("\n== {} ==", check.name));
        let start = Instant::now();
        let status = match (check.run)(&metadata) {
            Ok(Outcome::Passed) => "passed",
            Ok(Outcome::NotRun(reason)) => {
                not_run.push(check.name);
                say(format_args!("{reason}"));
                "NOT RUN"
            }
            Err(error) => {
                failed.push(check.name);
                say(format_args!("{error:#}"));
                "FAILED"
            }
        };
        say(format_args!(
            "{} {status} ({:.1} s)",
            check.name,
            start.elapsed().as_secs_f64()
        ));
    }
    if !not_run.is_empty() {
        say(format_args!(
            "\nnot run because tools are missing: {}",
            not_run.join(", ")
        ));
    }
    if missing_tools == MissingTools::Fail {
        failed.extend(not_run);
    }
    if !failed.is_empty() {
        bail!(
            "failed: {} (--allow-missing-tools skips checks whose tools are missing)",
            failed.join(", ")
        );
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<Outcome> {
    process::run(process::cargo().args(arguments))?;
    Ok(Outcome::Passed)
}

fn links(metadata: &Metadata) -> Result<Outcome> {
    let documents = files::tracked(&metadata.workspace_root, &["md"])?;
    outcome(&links::broken(&documents)?)
}

/// Passes if there are no problems, or fails with a list of them.
fn outcome(problems: &[String]) -> Result<Outcome> {
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(Outcome::Passed)
}

fn phrases(metadata: &Metadata) -> Result<Outcome> {
    outcome(&phrases::find(&metadata.workspace_root)?)
}

fn crate_edges(metadata: &Metadata) -> Result<Outcome> {
    outcome(&edges::violations(metadata))
}

fn file_circles(metadata: &Metadata) -> Result<Outcome> {
    outcome(&circles::find(metadata)?)
}

fn runner_names(metadata: &Metadata) -> Result<Outcome> {
    outcome(&names::find(metadata)?)
}

fn package_metadata(metadata: &Metadata) -> Result<Outcome> {
    outcome(&packages::incomplete(metadata))
}

/// Packs every crate that is published, as `cargo publish --workspace` would.
fn packages(metadata: &Metadata) -> Result<Outcome> {
    process::run(&mut packages::pack(metadata))?;
    Ok(Outcome::Passed)
}

/// Runs an external tool with its settings in the workspace.
fn tool(metadata: &Metadata, tool: Tool) -> Result<Outcome> {
    let folder = metadata.target_directory.join("xtask-tools");
    match tools::obtain(tool, folder.as_std_path()) {
        Ok(program) => {
            let root = &metadata.workspace_root;
            process::run(
                std::process::Command::new(program)
                    .args(tool.arguments())
                    .current_dir(root),
            )?;
            Ok(Outcome::Passed)
        }
        Err(error) => Ok(Outcome::NotRun(format!("{error:#}"))),
    }
}

/// Runs the tests of all devices on a Vulkan driver; Mesa's software driver is enough.
fn wgpu_tests() -> Result<Outcome> {
    // The Vulkan loader, which wgpu uses, finds drivers through the files in these folders.
    const DRIVERS: [&str; 3] = [
        "/usr/share/vulkan/icd.d",
        "/usr/local/share/vulkan/icd.d",
        "/etc/vulkan/icd.d",
    ];
    let has_driver = |folder: &&str| {
        Path::new(folder)
            .read_dir()
            .is_ok_and(|mut dir| dir.next().is_some())
    };
    if !DRIVERS.iter().any(has_driver) {
        return Ok(Outcome::NotRun(
            "there is no Vulkan driver: on Debian, `apt-get install mesa-vulkan-drivers` installs one"
                .to_owned(),
        ));
    }
    cargo(&[
        "test",
        "--package",
        "polyphony-device-tests",
        "--package",
        "polyphony-model",
        "--features",
        DEVICE_FEATURES,
        "--profile",
        "devices",
        "--lib",
        "--test",
        "every_device",
        "--",
        // The tests of `every_device`, and those of the kernels for GPUs.
        "conformance",
        "every_device",
        "device::tests",
        "cube::tests",
    ])
}

/// Lets CUDA's compiler compile the kernels, on a driver without a device.
fn cuda_kernels(metadata: &Metadata) -> Result<Outcome> {
    let target = metadata.target_directory.as_std_path();
    let toolkit = match cuda::Toolkit::obtain(&target.join("xtask-tools")) {
        Ok(toolkit) => toolkit,
        Err(error) => return Ok(Outcome::NotRun(format!("{error:#}"))),
    };
    cargo(&[
        "build",
        "--package",
        "polyphony-mock-cuda",
        "--profile",
        "devices",
    ])?;
    let mut build = process::cargo();
    build.args(["test", "--package", "polyphony-device-tests"]);
    build.args(["--package", "polyphony-model"]);
    build.args(["--features", DEVICE_FEATURES, "--profile", "devices"]);
    build.args(["--test", "compiled_for_cuda", "--no-run"]);
    build.arg("--message-format=json-render-diagnostics");
    let test = cuda::program(&process::output(&mut build)?)?;
    cuda::compile_kernels(&toolkit, &target.join("devices"), &test)?;
    Ok(Outcome::Passed)
}

/// Lints the workspace, and what is built only with MPI if this machine has it.
fn lints() -> Result<Outcome> {
    let mut clippy = process::cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--quiet"]);
    clippy.args(mpi::features()).args(["--", "-D", "warnings"]);
    process::run(&mut clippy)?;
    if let Some(missing) = mpi::missing() {
        say(format_args!("not linted: polyphony-mpi, because {missing}"));
    }
    Ok(Outcome::Passed)
}

/// Builds the site, which includes the API documentation. Without mdBook, builds only the API documentation.
fn documentation(metadata: &Metadata) -> Result<Outcome> {
    match site::mdbook(metadata) {
        Ok(mdbook) => {
            site::build(metadata, &mdbook)?;
            Ok(Outcome::Passed)
        }
        Err(error) => {
            site::build_api()?;
            Ok(Outcome::NotRun(format!("{error:#}")))
        }
    }
}

/// Runs every fuzz target briefly, which shows that all of them still build and run. To find failures, run
/// `cargo xtask fuzz` for longer.
fn fuzzing() -> Result<Outcome> {
    if !fuzz::has_compiler() {
        return Ok(Outcome::NotRun(fuzz::NO_COMPILER.to_owned()));
    }
    fuzz::run(&fuzz::Plan {
        target: None,
        seconds: 3,
        jobs: std::thread::available_parallelism().map_or(1, |processors| processors.get() as u32),
        input: None,
        keep: false,
    })?;
    Ok(Outcome::Passed)
}
