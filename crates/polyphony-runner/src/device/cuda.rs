//! What CUDA needs at run time, beyond a GPU.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

/// Checks that the driver is installed.
///
/// # Errors
/// If it is not, with the way out.
pub(super) fn check_driver() -> Result<()> {
    // SAFETY: the call only tries to load a library.
    let has_driver = unsafe { cudarc::driver::sys::is_culib_present() };
    ensure!(
        has_driver,
        "the library of the NVIDIA driver was not found: install the driver (`nvidia-smi` shows whether it works), or \
         use `cpu`"
    );
    Ok(())
}

/// Checks that the compiler NVRTC and its headers are installed. Without them, the first kernel would panic on a
/// thread of burn.
///
/// # Errors
/// Names what is missing, and where to get it.
pub(super) fn check_compiler() -> Result<()> {
    // SAFETY: the call only tries to load a library.
    let has_compiler = unsafe { cudarc::nvrtc::sys::is_culib_present() };
    ensure!(
        has_compiler,
        "the compiler NVRTC was not found: install the CUDA toolkit, or run `pip install nvidia-cuda-nvrtc-cu12` and \
         add the folder of its `libnvrtc.so.12` to `LD_LIBRARY_PATH`"
    );
    check_headers(toolkit())
}

/// Where cubecl-cuda looks for the headers.
fn toolkit() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CUDA_PATH") {
        return Some(path.into());
    }
    let usual = [
        ("/usr/local/cuda", "/usr/local/cuda"),
        ("/opt/cuda", "/opt/cuda"),
        ("/usr/bin/nvcc", "/usr"),
    ];
    let mut usual = usual
        .into_iter()
        .filter(|(sign, _)| Path::new(sign).exists());
    usual.next().map(|(_, folder)| folder.into())
}

fn check_headers(toolkit: Option<PathBuf>) -> Result<()> {
    const WAY_OUT: &str = "install the CUDA toolkit, or run `pip install nvidia-cuda-runtime-cu12 \
                           nvidia-cuda-nvcc-cu12`, copy their folders `include` into one, and set `CUDA_PATH` to the \
                           folder that holds it";
    /// Those that kernels include, and one that `mma.h` includes.
    const HEADERS: [&str; 3] = ["cuda_bf16.h", "mma.h", "crt/mma.h"];
    let Some(toolkit) = toolkit else {
        bail!("the headers of CUDA were not found: {WAY_OUT}");
    };
    let include = toolkit.join("include");
    for header in HEADERS.map(|name| include.join(name)) {
        ensure!(
            header.exists(),
            "{} does not exist: {WAY_OUT}",
            header.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_headers_are_named() {
        let missing = |toolkit| check_headers(toolkit).unwrap_err().to_string();
        assert!(missing(None).contains("`CUDA_PATH`"));
        let message = missing(Some("/nowhere".into()));
        assert!(
            message.starts_with("/nowhere/include/cuda_bf16.h does not exist"),
            "{message}"
        );
    }
}
