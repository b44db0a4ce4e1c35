//! The interface of `cubecl-llvm` that `cubecl-cuda` uses, without LLVM.
//!
//! `cubecl-cuda` can turn kernels into programs for a GPU in two ways: through CUDA C++ and NVRTC, or through LLVM. It
//! always compiles both, and `cubecl-llvm` downloads LLVM from GitHub while it is built, and needs a C++ compiler.
//! Polyphony uses the first way only (feature `cpp` of `cubecl-cuda`), so the second one is replaced by this crate,
//! whose compiler refuses every kernel. It holds no code of the crate that it replaces.

use std::{convert::Infallible, ffi::c_char};

use cubecl_core::{
    CompilationError,
    ir::{attributes::BufferIOAttr, nvidia::SmArch},
    prelude::KernelDefinition,
};

/// What a compiler is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LlvmTarget {
    /// GPUs of NVIDIA.
    Nvptx,
}

/// A compiler that refuses every kernel.
#[derive(Clone, Debug)]
pub struct PlironCompiler {
    /// Not used.
    pub target: LlvmTarget,
}

impl PlironCompiler {
    /// Refuses the kernel.
    ///
    /// # Errors
    /// Always.
    pub fn compile(
        &mut self,
        _: KernelDefinition,
        _: &PlironOptions,
    ) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic {
            reason: "this program was built without LLVM: it compiles kernels through CUDA C++, \
                     which needs the feature `cpp` of cubecl-cuda"
                .to_owned(),
            backtrace: Default::default(),
        })
    }

    /// The language of its output.
    pub fn lang_tag(&self) -> &'static str {
        "none"
    }
}

/// Settings of the compiler, which it does not use.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// The kind of an AMD GPU.
    pub arch: Option<Infallible>,
    /// The kind of an NVIDIA GPU.
    pub sm_arch: Option<SmArch>,
    /// The version of PTX.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// Whether scalars are passed with the launch.
    pub grid_constants: bool,
}

/// What the compiler would make.
#[derive(Clone, Debug)]
pub enum PlironArtifact {
    /// A program for GPUs of NVIDIA.
    NvptxCode(NvptxModule),
}

/// A program for GPUs of NVIDIA, which is never made.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// The program's text.
    pub ptx: Vec<c_char>,
    /// Its intermediate form.
    pub ir: String,
    /// Bytes of shared memory.
    pub shared_memory_size: usize,
    /// What the program does with its buffers.
    pub io: Vec<BufferIOAttr>,
}

pub mod nvptx {
    //! GPUs of NVIDIA.

    pub mod ptx_version {
        //! Versions of PTX.

        use std::{convert::Infallible, fmt};

        /// A version of PTX, of which none is known here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct PtxVersion(Infallible);

        impl PtxVersion {
            /// The version for a driver: none.
            pub fn for_driver(_: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {}
            }
        }
    }
}

pub mod shared {
    //! What several targets share.

    pub mod lowered_features {
        //! The features of a device that the compiler supports.

        use cubecl_core::ir::DeviceProperties;

        /// The kind of a GPU.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            /// GPUs of NVIDIA.
            Nvptx,
        }

        /// Leaves the features as they are: no kernel gets as far as using them.
        pub fn restrict_features(_: &mut DeviceProperties, _: GpuTarget) {}
    }
}
