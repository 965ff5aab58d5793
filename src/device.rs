//! The choice of device at run time.
//!
//! # What GPUs keep between runs
//! For every operation and every order of magnitude of its shapes, burn measures which of several kernels is fastest,
//! and it compiles each kernel: minutes at the start of a run. With the feature `kernel-cache` (part of `cuda`) both are
//! kept in the user's cache folder, `$XDG_CACHE_HOME/cubecl/default.db` or what the system has instead, whatever folder a
//! run is started in. A `cubecl.toml` (or `burn.toml`) of one's own in that folder or above it is obeyed instead, and
//! `CUBECL_ENVIRONMENT=<name>` picks another file in the same place. Without the feature nothing is kept.

use burn::tensor::Device;
use std::fmt;
use std::str::FromStr;

/// What `--device` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceRequest {
    /// CUDA, then a real GPU through wgpu, then the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A device through wgpu (Vulkan): the i-th discrete GPU, or the best one.
    Wgpu(Option<usize>),
    /// The i-th NVIDIA GPU.
    Cuda(usize),
}

/// A device that was chosen, and why.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The device.
    pub device: Device,
    /// Its name, for people.
    pub name: String,
    /// One sentence.
    pub reason: String,
}

/// A device that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Text that names no device.
    #[error("--device {0}: unknown device; write auto, cpu, wgpu, wgpu:<i>, cuda or cuda:<i>")]
    Unknown(String),
    /// The backend was left out of this build.
    #[error(
        "--device {device}: this program was built without the feature `{feature}`; build it again with `--features {feature}`"
    )]
    NotBuiltIn {
        /// What was asked for.
        device: &'static str,
        /// The cargo feature that has it.
        feature: &'static str,
    },
    /// The backend is there, the hardware or its driver is not.
    #[error("--device {device}: {reason}")]
    Absent {
        /// What was asked for.
        device: String,
        /// What was found, and what to do.
        reason: String,
    },
}

impl FromStr for DeviceRequest {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        let (kind, index) = match text.split_once(':') {
            None => (text, None),
            Some((kind, index)) => (kind, Some(index.parse::<usize>().map_err(|_| unknown())?)),
        };
        match (kind, index) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Wgpu(None) => f.write_str("wgpu"),
            Self::Wgpu(Some(i)) => write!(f, "wgpu:{i}"),
            Self::Cuda(i) => write!(f, "cuda:{i}"),
        }
    }
}

/// Takes the device that is asked for.
///
/// # Errors
/// [`DeviceError`] names the cargo feature, or what is missing on this machine.
pub fn choose(request: DeviceRequest) -> Result<Chosen, DeviceError> {
    #[cfg(feature = "kernel-cache")]
    kernel_cache::keep();
    match request {
        DeviceRequest::Cpu => cpu("asked for".to_owned()),
        DeviceRequest::Wgpu(index) => wgpu(index),
        DeviceRequest::Cuda(index) => cuda(index),
        DeviceRequest::Auto => auto(),
    }
}

fn auto() -> Result<Chosen, DeviceError> {
    let mut why = Vec::new();
    for (name, attempt) in [("cuda", cuda(0)), ("wgpu", real_gpu())] {
        match attempt {
            Ok(mut chosen) => {
                chosen.reason = format!("auto: {}", chosen.reason);
                return Ok(chosen);
            }
            Err(DeviceError::NotBuiltIn { .. }) => why.push(format!("{name} is not built in")),
            Err(_) => why.push(format!("no {name} device here")),
        }
    }
    cpu(format!("auto: {}", why.join(", ")))
}

/// Where cubecl keeps what it has measured and compiled. Left alone, it keeps no kernels, and its measurements under
/// `target` of the folder that the run was started in.
#[cfg(feature = "kernel-cache")]
mod kernel_cache {
    use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig};
    use std::path::Path;

    /// Sets the cache folder, unless the user has written a configuration or a device has been opened already.
    pub(super) fn keep() {
        if std::env::current_dir().is_ok_and(|folder| is_configured(&folder)) {
            return;
        }
        let mut config = CubeClRuntimeConfig::default();
        config.environment.path = CacheConfig::Global;
        config.compilation.cache = true;
        // False where it is set already: by the first call, or by a program that uses this library.
        CubeClRuntimeConfig::try_set(config.override_from_env());
    }

    /// Whether cubecl would find a configuration from `folder`.
    pub(super) fn is_configured(folder: &Path) -> bool {
        let sections = CubeClRuntimeConfig::section_file_names().iter().map(|(name, _)| *name);
        let names: Vec<&str> = CubeClRuntimeConfig::file_names().iter().copied().chain(sections).collect();
        folder.ancestors().any(|folder| names.iter().any(|name| folder.join(name).is_file()))
    }
}

#[cfg(feature = "cpu")]
fn cpu(reason: String) -> Result<Chosen, DeviceError> {
    Ok(Chosen {
        device: Device::flex(),
        name: format!("cpu ({} threads, {})", rayon::current_num_threads(), instructions()),
        reason,
    })
}

/// Lets mimalloc keep freed memory for ten seconds, where it is the program's allocator and `MIMALLOC_PURGE_DELAY` says
/// nothing else.
///
/// For training: its own second gives the activations and gradients of a step that takes longer back to the system before the next step
/// asks for them, and each page is then cleared and mapped again.
#[cfg(feature = "cpu")]
pub fn keep_freed_memory() {
    use std::ffi::{c_int, c_long};
    // Links the allocator's library, which declares none of this without a further dependency.
    use libmimalloc_sys as _;
    unsafe extern "C" {
        fn mi_option_set_default(option: c_int, value: c_long);
    }
    /// `mi_option_purge_delay` of mimalloc 2 and 3, in milliseconds.
    const PURGE_DELAY: c_int = 15;
    // SAFETY: mimalloc's own function with a number that it knows; the options are plain integers that other threads may read
    // meanwhile.
    unsafe { mi_option_set_default(PURGE_DELAY, 10_000) };
}

#[cfg(not(feature = "cpu"))]
fn cpu(_reason: String) -> Result<Chosen, DeviceError> {
    Err(DeviceError::NotBuiltIn { device: "cpu", feature: "cpu" })
}

#[cfg(all(feature = "cpu", target_arch = "x86_64"))]
fn instructions() -> &'static str {
    if is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "SSE"
    }
}

#[cfg(all(feature = "cpu", not(target_arch = "x86_64")))]
fn instructions() -> &'static str {
    std::env::consts::ARCH
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Chosen, DeviceError> {
    use burn::tensor::DeviceType;
    let found = quietly(|| Device::enumerate(DeviceType::Cuda).into_vec()).unwrap_or_default();
    if index >= found.len() {
        return Err(DeviceError::Absent {
            device: format!("cuda:{index}"),
            reason: format!(
                "{} NVIDIA devices found; check the driver with `nvidia-smi`, or use --device cpu",
                found.len()
            ),
        });
    }
    Ok(Chosen {
        device: Device::cuda(index),
        name: format!("cuda:{index}"),
        reason: format!("device {index} of {}", found.len()),
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda(_index: usize) -> Result<Chosen, DeviceError> {
    Err(DeviceError::NotBuiltIn { device: "cuda", feature: "cuda" })
}

#[cfg(feature = "wgpu")]
fn wgpu(index: Option<usize>) -> Result<Chosen, DeviceError> {
    use burn::tensor::DeviceKind;
    let kind = index.map_or(DeviceKind::DefaultDevice, DeviceKind::DiscreteGpu);
    start_wgpu(kind, &DeviceRequest::Wgpu(index).to_string())
}

/// A software adapter (Mesa's) is correct but slower than the CPU backend: `auto` passes over it.
#[cfg(feature = "wgpu")]
fn real_gpu() -> Result<Chosen, DeviceError> {
    use burn::tensor::{DeviceKind, DeviceType};
    let absent = || DeviceError::Absent { device: "wgpu".to_owned(), reason: "no GPU found".to_owned() };
    let found = quietly(|| Device::enumerate(DeviceType::Wgpu).into_vec()).ok_or_else(absent)?;
    let real = found.iter().map(|d| format!("{d:?}")).find(|d| d.contains("Gpu"));
    let kind = match real {
        Some(name) if name.contains("Discrete") => DeviceKind::DiscreteGpu(0),
        Some(name) if name.contains("Integrated") => DeviceKind::IntegratedGpu(0),
        _ => return Err(absent()),
    };
    start_wgpu(kind, "wgpu")
}

#[cfg(feature = "wgpu")]
fn start_wgpu(kind: burn::tensor::DeviceKind, asked: &str) -> Result<Chosen, DeviceError> {
    let device = Device::wgpu(kind);
    // The runtime starts with the first operation, and panics where there is no adapter.
    let probe = device.clone();
    let started = quietly(move || {
        let one = burn::tensor::Tensor::<1>::ones([1], &probe);
        one.into_scalar::<f32>()
    });
    match started {
        Some(_) => Ok(Chosen {
            name: format!("{asked} ({})", device.identity().map_or_else(|| "unnamed".to_owned(), |i| i.name)),
            device,
            reason: "asked for".to_owned(),
        }),
        None => Err(DeviceError::Absent {
            device: asked.to_owned(),
            reason: "no Vulkan adapter found; install a driver (`mesa-vulkan-drivers` runs it on the CPU), or use --device cpu"
                .to_owned(),
        }),
    }
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(_index: Option<usize>) -> Result<Chosen, DeviceError> {
    Err(DeviceError::NotBuiltIn { device: "wgpu", feature: "wgpu" })
}

#[cfg(not(feature = "wgpu"))]
fn real_gpu() -> Result<Chosen, DeviceError> {
    wgpu(None)
}

/// Runs what may panic in a driver's absence, without its message reaching the user.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn quietly<R: Send + 'static>(act: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::thread::spawn(act).join().ok();
    std::panic::set_hook(hook);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "cpu")]
    fn mimalloc_keeps_freed_memory_unless_it_was_told_otherwise() {
        unsafe extern "C" {
            fn mi_option_get(option: std::ffi::c_int) -> std::ffi::c_long;
        }
        // SAFETY: mimalloc's own function with a number that it knows.
        let before = unsafe { mi_option_get(15) };
        let told = std::env::var_os("MIMALLOC_PURGE_DELAY").is_some();
        // Another option under this number would hardly have one of these values.
        assert!(told || [1000, 10_000].contains(&before), "{before}");
        keep_freed_memory();
        // SAFETY: as above.
        let after = unsafe { mi_option_get(15) };
        assert_eq!(after, if told { before } else { 10_000 });
    }

    #[test]
    fn requests_are_parsed_or_refused() {
        for (text, expected) in [
            ("auto", DeviceRequest::Auto),
            ("cpu", DeviceRequest::Cpu),
            ("wgpu", DeviceRequest::Wgpu(None)),
            ("wgpu:1", DeviceRequest::Wgpu(Some(1))),
            ("cuda", DeviceRequest::Cuda(0)),
            ("cuda:3", DeviceRequest::Cuda(3)),
        ] {
            assert_eq!(text.parse::<DeviceRequest>().unwrap(), expected);
        }
        for text in ["gpu", "cpu:0", "cuda:x", ""] {
            assert!(text.parse::<DeviceRequest>().unwrap_err().to_string().contains("cuda:<i>"));
        }
    }

    #[cfg(feature = "kernel-cache")]
    #[test]
    fn a_users_own_configuration_is_found_in_the_folder_and_above() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        assert!(!kernel_cache::is_configured(&inner));
        std::fs::write(folder.path().join("cubecl.toml"), "").unwrap();
        assert!(kernel_cache::is_configured(&inner));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_is_not_built_in_names_its_feature() {
        let error = choose(DeviceRequest::Cuda(0)).unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
