//! A CUDA driver without a device. A program that finds this library as `libcuda.so` runs all of its own code for CUDA:
//! it compiles its kernels with the real NVRTC, allocates and copies memory, launches and records graphs. Only the
//! kernels do nothing, so that every result is zero.
//!
//! Memory is that of the host. Launches are checked against the limits of the device that is imitated. These variables
//! of the environment choose what the driver does:
//!
//! - `MOCK_CUDA_CAPABILITY`: the compute capability, such as `80` (the default) or `90`;
//! - `MOCK_CUDA_PTX`: a folder in which each module that is loaded is written as a file.
//!
//! The functions are those of the
//! [CUDA driver API](https://docs.nvidia.com/cuda/cuda-driver-api/), as far as the program calls them.

#![allow(
    non_snake_case,
    missing_docs,
    clippy::missing_safety_doc,
    clippy::undocumented_unsafe_blocks,
    reason = "names, arguments and requirements are those of CUDA's documentation: a caller passes pointers to memory of \
              the size that the function writes"
)]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    collections::HashMap,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    path::Path,
    ptr::write_bytes,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

type Status = c_int;
type DevicePointer = u64;
type Handle = *mut c_void;

const SUCCESS: Status = 0;
const INVALID_VALUE: Status = 1;
const OUT_OF_MEMORY: Status = 2;

const VERSION: c_int = 12_090;
const MEMORY: usize = 8 << 30;
const ALIGNMENT: usize = 512;
const MOST_THREADS: c_int = 1024;
const BLOCK: [c_int; 3] = [1024, 1024, 64];
const GRID: [c_int; 3] = [c_int::MAX, 65_535, 65_535];
/// Bytes of shared memory that a block can ask for.
const SHARED_MEMORY: c_int = 166_912;

/// Any pointer that is not null serves as a handle.
const ANY: Handle = std::ptr::without_provenance_mut(1);

/// The sizes of all allocations.
static ALLOCATIONS: Mutex<Option<HashMap<usize, usize>>> = Mutex::new(None);

static MODULES: AtomicUsize = AtomicUsize::new(0);

fn allocations() -> MutexGuard<'static, Option<HashMap<usize, usize>>> {
    ALLOCATIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn capability() -> c_int {
    let variable = std::env::var("MOCK_CUDA_CAPABILITY").ok();
    variable.and_then(|text| text.parse().ok()).unwrap_or(80)
}

/// Writes a result through a pointer that the caller passed.
unsafe fn put<T>(target: *mut T, value: T) -> Status {
    if target.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: CUDA's functions require that such a pointer is valid.
    unsafe { target.write(value) };
    SUCCESS
}

unsafe fn put_text(target: *mut c_char, length: c_int, text: &CStr) -> Status {
    let bytes = text.to_bytes_with_nul();
    if usize::try_from(length).is_ok_and(|length| length < bytes.len()) {
        return INVALID_VALUE;
    }
    // SAFETY: The caller's buffer has at least this length.
    unsafe { target.copy_from_nonoverlapping(bytes.as_ptr().cast(), bytes.len()) };
    SUCCESS
}

fn allocate(bytes: usize) -> Option<usize> {
    let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).ok()?;
    // SAFETY: The layout is not empty.
    let address = unsafe { alloc_zeroed(layout) } as usize;
    if address == 0 {
        return None;
    }
    allocations()
        .get_or_insert_default()
        .insert(address, layout.size());
    Some(address)
}

fn free(address: usize) -> Status {
    let Some(size) = allocations().get_or_insert_default().remove(&address) else {
        return INVALID_VALUE;
    };
    let Ok(layout) = Layout::from_size_align(size, ALIGNMENT) else {
        return INVALID_VALUE;
    };
    // SAFETY: `allocate` allocated it with this layout, and it was in the table, so it is freed once.
    unsafe { dealloc(std::ptr::with_exposed_provenance_mut(address), layout) };
    SUCCESS
}

unsafe fn copy(target: u64, source: u64, bytes: usize) -> Status {
    let source: *const u8 = std::ptr::with_exposed_provenance(source as usize);
    // SAFETY: The caller passes memory of this size, of the host or from `allocate`.
    unsafe {
        source.copy_to(
            std::ptr::with_exposed_provenance_mut(target as usize),
            bytes,
        )
    };
    SUCCESS
}

macro_rules! driver {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $body:block)*) => {$(
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),*) -> Status {
            $body
        }
    )*};
}

/// Functions that have nothing to do.
macro_rules! nothing {
    ($($name:ident($($kind:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($(_: $kind),*) -> Status {
            SUCCESS
        }
    )*};
}

nothing! {
    cuInit(c_uint);
    cuDevicePrimaryCtxRelease_v2(c_int);
    cuCtxSetCurrent(Handle);
    cuCtxSynchronize();
    cuStreamDestroy_v2(Handle);
    cuStreamSynchronize(Handle);
    cuStreamWaitEvent(Handle, Handle, c_uint);
    cuStreamBeginCapture_v2(Handle, c_uint);
    cuEventRecord(Handle, Handle);
    cuEventSynchronize(Handle);
    cuEventQuery(Handle);
    cuEventDestroy_v2(Handle);
    cuGraphUpload(Handle, Handle);
    cuGraphLaunch(Handle, Handle);
    cuGraphDestroy(Handle);
    cuGraphExecDestroy(Handle);
    cuModuleUnload(Handle);
    cuFuncSetAttribute(Handle, c_uint, c_int);
}

driver! {
    fn cuDriverGetVersion(version: *mut c_int) {
        unsafe { put(version, VERSION) }
    }

    fn cuDeviceGetCount(count: *mut c_int) {
        unsafe { put(count, 1) }
    }

    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        match ordinal {
            0 => unsafe { put(device, 0) },
            _ => 101,
        }
    }

    fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) {
        unsafe { put_text(name, length, c"mock A100") }
    }

    fn cuDeviceGetPCIBusId(name: *mut c_char, length: c_int, _device: c_int) {
        unsafe { put_text(name, length, c"0000:00:00.0") }
    }

    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: c_int) {
        unsafe { put(uuid, [0; 16]) }
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) {
        unsafe { put(bytes, MEMORY) }
    }

    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, _device: c_int) {
        let answer = match attribute {
            1 => MOST_THREADS,
            2 => BLOCK[0],
            3 => BLOCK[1],
            4 => BLOCK[2],
            5 => GRID[0],
            6 => GRID[1],
            7 => GRID[2],
            // Shared memory of a block without and with asking for more.
            8 => 49_152,
            97 => SHARED_MEMORY,
            // The size of a warp.
            10 => 32,
            // Multiprocessors.
            16 => 108,
            75 => capability() / 10,
            76 => capability() % 10,
            _ => 0,
        };
        unsafe { put(value, answer) }
    }

    fn cuDevicePrimaryCtxRetain(context: *mut Handle, _device: c_int) {
        unsafe { put(context, ANY) }
    }

    fn cuCtxGetCurrent(context: *mut Handle) {
        unsafe { put(context, ANY) }
    }

    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        unsafe { put(least, 0) | put(greatest, -5) }
    }

    fn cuStreamCreate(stream: *mut Handle, _flags: c_uint) {
        unsafe { put(stream, ANY) }
    }

    fn cuStreamCreateWithPriority(stream: *mut Handle, _flags: c_uint, _priority: c_int) {
        unsafe { put(stream, ANY) }
    }

    fn cuStreamEndCapture(_stream: Handle, graph: *mut Handle) {
        unsafe { put(graph, ANY) }
    }

    fn cuStreamIsCapturing(_stream: Handle, status: *mut c_uint) {
        unsafe { put(status, 0) }
    }

    fn cuEventCreate(event: *mut Handle, _flags: c_uint) {
        unsafe { put(event, ANY) }
    }

    fn cuEventElapsedTime_v2(milliseconds: *mut f32, _start: Handle, _end: Handle) {
        unsafe { put(milliseconds, 0.0) }
    }

    fn cuGraphGetNodes(_graph: Handle, _nodes: *mut Handle, count: *mut usize) {
        unsafe { put(count, 0) }
    }

    fn cuGraphInstantiateWithFlags(executable: *mut Handle, _graph: Handle, _flags: u64) {
        unsafe { put(executable, ANY) }
    }

    fn cuMemAlloc_v2(pointer: *mut DevicePointer, bytes: usize) {
        match allocate(bytes) {
            Some(address) => unsafe { put(pointer, address as DevicePointer) },
            None => OUT_OF_MEMORY,
        }
    }

    fn cuMemAllocAsync(pointer: *mut DevicePointer, bytes: usize, _stream: Handle) {
        unsafe { cuMemAlloc_v2(pointer, bytes) }
    }

    fn cuMemFree_v2(pointer: DevicePointer) {
        free(pointer as usize)
    }

    fn cuMemFreeAsync(pointer: DevicePointer, _stream: Handle) {
        free(pointer as usize)
    }

    fn cuMemAllocHost_v2(pointer: *mut Handle, bytes: usize) {
        match allocate(bytes) {
            Some(address) => unsafe { put(pointer, std::ptr::with_exposed_provenance_mut(address)) },
            None => OUT_OF_MEMORY,
        }
    }

    fn cuMemFreeHost(pointer: Handle) {
        free(pointer as usize)
    }

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        unsafe { put(free, MEMORY) | put(total, MEMORY) }
    }

    fn cuMemcpyHtoDAsync_v2(target: DevicePointer, source: Handle, bytes: usize, _stream: Handle) {
        unsafe { copy(target, source as u64, bytes) }
    }

    fn cuMemcpyDtoHAsync_v2(target: Handle, source: DevicePointer, bytes: usize, _stream: Handle) {
        unsafe { copy(target as u64, source, bytes) }
    }

    fn cuMemcpyDtoDAsync_v2(target: DevicePointer, source: DevicePointer, bytes: usize, _stream: Handle) {
        unsafe { copy(target, source, bytes) }
    }

    fn cuMemsetD8Async(target: DevicePointer, value: u8, bytes: usize, _stream: Handle) {
        let target: *mut u8 = std::ptr::with_exposed_provenance_mut(target as usize);
        unsafe { write_bytes(target, value, bytes) };
        SUCCESS
    }

    fn cuMemcpy2DAsync_v2(copy: *const Copy2d, _stream: Handle) {
        let Some(rows) = (unsafe { copy.as_ref() }) else {
            return INVALID_VALUE;
        };
        unsafe { rows.run() }
    }

    fn cuModuleLoadData(module: *mut Handle, image: *const c_void) {
        if let Some(folder) = std::env::var_os("MOCK_CUDA_PTX") {
            let text = unsafe { CStr::from_ptr(image.cast()) };
            let number = MODULES.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{number}.ptx", std::process::id());
            if std::fs::write(Path::new(&folder).join(name), text.to_bytes()).is_err() {
                return INVALID_VALUE;
            }
        }
        unsafe { put(module, ANY) }
    }

    fn cuModuleGetFunction(function: *mut Handle, _module: Handle, _name: *const c_char) {
        unsafe { put(function, ANY) }
    }

    fn cuFuncGetAttribute(value: *mut c_int, _attribute: c_uint, _function: Handle) {
        unsafe { put(value, 0) }
    }

    fn cuLaunchKernel(
        _function: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        _stream: Handle,
        _arguments: *mut *mut c_void,
        _extra: *mut *mut c_void,
    ) {
        let fits = |sizes: [c_uint; 3], limits: [c_int; 3]| {
            let mut pairs = sizes.into_iter().zip(limits);
            pairs.all(|(size, limit)| size >= 1 && i64::from(size) <= i64::from(limit))
        };
        let threads = u64::from(block_x) * u64::from(block_y) * u64::from(block_z);
        let is_valid = fits([grid_x, grid_y, grid_z], GRID)
            && fits([block_x, block_y, block_z], BLOCK)
            && threads <= MOST_THREADS as u64
            && shared_bytes <= SHARED_MEMORY as c_uint;
        if is_valid { SUCCESS } else { INVALID_VALUE }
    }

    fn cuGetErrorName(status: Status, text: *mut *const c_char) {
        let name = match status {
            SUCCESS => c"CUDA_SUCCESS",
            OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
            INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
            _ => c"CUDA_ERROR_INVALID_DEVICE",
        };
        unsafe { put(text, name.as_ptr()) }
    }

    fn cuGetErrorString(status: Status, text: *mut *const c_char) {
        unsafe { cuGetErrorName(status, text) }
    }
}

/// `CUDA_MEMCPY2D`: rows that are copied from one place with gaps to another.
#[derive(Debug)]
#[repr(C)]
pub struct Copy2d {
    source: Place,
    target: Place,
    width: usize,
    height: usize,
}

#[derive(Debug)]
#[repr(C)]
struct Place {
    x: usize,
    y: usize,
    /// 1 for the host's memory, 2 for the device's.
    kind: c_uint,
    host: u64,
    device: DevicePointer,
    array: Handle,
    pitch: usize,
}

impl Place {
    fn row(&self, index: usize) -> u64 {
        let base = if self.kind == 1 {
            self.host
        } else {
            self.device
        };
        base + ((self.y + index) * self.pitch + self.x) as u64
    }
}

impl Copy2d {
    unsafe fn run(&self) -> Status {
        for row in 0..self.height {
            // SAFETY: CUDA requires that both places have these rows.
            unsafe { copy(self.target.row(row), self.source.row(row), self.width) };
        }
        SUCCESS
    }
}
