//! Compiles the kernels for NVIDIA GPUs, without a GPU.
//!
//! CUDA's compiler NVRTC comes from PyPI. A test runs generation and training on a driver without a device
//! (`tests/mock-cuda`), so that the program's own launches decide what is compiled. Then `ptxas` compiles the result to
//! machine code, and says whether registers are spilled to memory.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::Message;

use crate::{
    process::{self, say},
    tools,
};

/// The packages on PyPI and their versions: NVRTC; CUDA's headers; headers that these include, and `ptxas`.
const PACKAGES: [(&str, &str); 3] = [
    ("nvidia-cuda-nvrtc-cu12", "12.9.86"),
    ("nvidia-cuda-runtime-cu12", "12.9.79"),
    ("nvidia-cuda-nvcc-cu12", "12.9.86"),
];

/// Compute capabilities, with `ptxas`' names for them: those of A100 and H100.
const CAPABILITIES: [(&str, &str); 2] = [("80", "sm_80"), ("90", "sm_90a")];

/// Where CUDA's parts are.
pub(crate) struct Toolkit {
    /// The folder of NVRTC.
    libraries: PathBuf,
    /// The folder above `include`.
    home: PathBuf,
    ptxas: PathBuf,
}

impl Toolkit {
    /// The toolkit in `folder`, where it is installed if needed.
    ///
    /// # Errors
    /// If `pip` cannot install the packages.
    pub(crate) fn obtain(folder: &Path) -> Result<Self> {
        let [compiler, runtime, tools] = PACKAGES.map(|(package, version)| {
            let target = folder.join(format!("{package}-{version}"));
            if !target.is_dir() {
                tools::install(package, version, &target)?;
            }
            Ok::<_, anyhow::Error>(target.join("nvidia"))
        });
        let tools = tools?.join("cuda_nvcc");
        let home = folder.join("cuda");
        for part in [runtime?.join("cuda_runtime"), tools.clone()] {
            copy_folder(&part.join("include"), &home.join("include"))?;
        }
        Ok(Self {
            libraries: compiler?.join("cuda_nvrtc/lib"),
            home,
            ptxas: tools.join("bin/ptxas"),
        })
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let context = || format!("copying {} to {}", from.display(), to.display());
    fs::create_dir_all(to).with_context(context)?;
    for entry in from.read_dir().with_context(context)? {
        let entry = entry.with_context(context)?;
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target).with_context(context)?),
        }
    }
    Ok(())
}

/// Bytes that a kernel may spill. To have more threads at a time, `ptxas` uses fewer registers than there are, if that
/// costs a few spills only.
const MOST_SPILLED: u32 = 128;

/// The test program in the messages of `cargo test --no-run`.
///
/// # Errors
/// If there is none.
pub(crate) fn program(messages: &[u8]) -> Result<PathBuf> {
    for message in Message::parse_stream(messages) {
        if let Message::CompilerArtifact(artifact) = message.context("reading cargo's messages")?
            && artifact.target.is_test()
            && let Some(program) = artifact.executable
        {
            return Ok(program.into());
        }
    }
    bail!("cargo built no test")
}

/// Compiles the kernels for every compute capability, unless the test has not changed since the last time. `driver` is
/// the folder of the driver.
///
/// # Errors
/// If a kernel does not compile, or one of ours spills many registers.
pub(crate) fn compile_kernels(toolkit: &Toolkit, driver: &Path, test: &Path) -> Result<()> {
    let checked = driver.join("kernels-compiled-for-cuda.txt");
    let state = state_of(test)?;
    if fs::read_to_string(&checked).is_ok_and(|earlier| earlier == state) {
        say(format_args!("unchanged since they were compiled"));
        return Ok(());
    }
    let mut paths = vec![driver.to_owned(), toolkit.libraries.clone()];
    if let Some(others) = env::var_os("LD_LIBRARY_PATH") {
        paths.extend(env::split_paths(&others));
    }
    let paths = env::join_paths(paths).context("LD_LIBRARY_PATH")?;
    let compile = |(capability, architecture): (&str, &str)| {
        let folder = driver.join(format!("ptx-{architecture}"));
        if folder.exists() {
            fs::remove_dir_all(&folder).context("removing earlier kernels")?;
        }
        fs::create_dir_all(&folder).context("making a folder for kernels")?;
        let mut command = Command::new(test);
        command
            .arg("--ignored")
            .env("LD_LIBRARY_PATH", &paths)
            .env("CUDA_PATH", &toolkit.home)
            .env("MOCK_CUDA_CAPABILITY", capability)
            .env("MOCK_CUDA_PTX", &folder);
        process::captured(&mut command)?;
        assemble(toolkit, architecture, &folder)
    };
    // NVRTC uses one core, so the capabilities share the time.
    let compiled = thread::scope(|scope| {
        let threads = CAPABILITIES.map(|both| scope.spawn(move || compile(both)));
        threads.map(|thread| {
            let outcome = thread.join();
            outcome.unwrap_or_else(|_| bail!("the thread that compiles kernels panicked"))
        })
    });
    let mut spilling = Vec::new();
    for ((_, architecture), kernels) in CAPABILITIES.iter().zip(compiled) {
        let kernels = kernels?;
        let ours: Vec<&Kernel> = kernels.iter().filter(|kernel| kernel.is_ours()).collect();
        ensure!(!ours.is_empty(), "none of our kernels was compiled");
        let registers = ours.iter().map(|kernel| kernel.registers).max();
        let spilled = ours.iter().map(|kernel| kernel.spilled).max();
        say(format_args!(
            "{architecture}: {} kernels, {} of them ours, which use at most {} registers and spill at most {} bytes",
            kernels.len(),
            ours.len(),
            registers.unwrap_or_default(),
            spilled.unwrap_or_default()
        ));
        let spills = ours
            .into_iter()
            .filter(|kernel| kernel.spilled > MOST_SPILLED);
        spilling.extend(spills.map(|kernel| {
            format!(
                "{}: {} bytes are spilled on {architecture}",
                kernel.name, kernel.spilled
            )
        }));
    }
    ensure!(spilling.is_empty(), "{}", spilling.join("\n"));
    fs::write(&checked, state).with_context(|| format!("writing {}", checked.display()))
}

/// What changes if the test is built anew, or with another compiler for CUDA.
fn state_of(test: &Path) -> Result<String> {
    let context = || format!("looking at {}", test.display());
    let modified = fs::metadata(test)
        .and_then(|metadata| metadata.modified())
        .with_context(context)?;
    Ok(format!("{} {modified:?} {PACKAGES:?}\n", test.display()))
}

/// What `ptxas` says of a kernel.
#[derive(Debug, PartialEq, Eq)]
struct Kernel {
    name: String,
    registers: u32,
    /// Bytes that are written to memory instead of staying in registers.
    spilled: u32,
}

impl Kernel {
    /// Whether the kernel is ours: all kernels of burn and cubek have one of these words in their names.
    fn is_ours(&self) -> bool {
        !["kernel", "matmul_entry", "cast_element", "unary_float"]
            .iter()
            .any(|word| self.name.contains(word))
    }
}

/// Compiles all modules of a folder to machine code.
fn assemble(toolkit: &Toolkit, architecture: &str, folder: &Path) -> Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    for entry in folder.read_dir().context("listing kernels")? {
        let path = entry.context("listing kernels")?.path();
        let output = Command::new(&toolkit.ptxas)
            .args(["-v", "-arch", architecture, "-o", "/dev/null"])
            .arg(&path)
            .output()
            .with_context(|| format!("{} could not start", toolkit.ptxas.display()))?;
        let report = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{}: ptxas: {report}",
            path.display()
        );
        kernels.extend(parse(&report));
    }
    Ok(kernels)
}

/// The kernels in a report of `ptxas -v`.
fn parse(report: &str) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    let (mut name, mut spilled) = (String::new(), 0);
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next().unwrap_or_default().to_owned();
        } else if let Some(bytes) = number_before(line, " bytes spill stores") {
            spilled = bytes;
        } else if let Some(registers) = number_before(line, " registers") {
            kernels.push(Kernel {
                name: std::mem::take(&mut name),
                registers,
                spilled,
            });
        }
    }
    kernels
}

fn number_before(line: &str, text: &str) -> Option<u32> {
    let (before, _) = line.split_once(text)?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_and_spills_are_read_from_the_report() {
        let report = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'few_rows' for 'sm_80'
ptxas info    : Function properties for few_rows
    0 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 114 registers, used 1 barriers, 392 bytes cmem[0]
ptxas info    : Compiling entry function 'attend' for 'sm_80'
ptxas info    : Function properties for attend
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, 392 bytes cmem[0]";
        let kernel = |name: &str, registers, spilled| Kernel {
            name: name.to_owned(),
            registers,
            spilled,
        };
        assert_eq!(
            parse(report),
            [kernel("few_rows", 114, 12), kernel("attend", 40, 0)]
        );
        assert!(kernel("few_rows_w_f32", 1, 0).is_ours());
        assert!(!kernel("copy_kernel_t_f32", 1, 0).is_ours());
    }
}
