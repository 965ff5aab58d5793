//! Between tensors in files and parameters of a module, by name.

use super::tensors::floats;
use super::{CheckpointError, Dtype, Expected, HostTensor, Rename, Shards, TensorView, resolve};
use crate::nn::params::{self, NamedMapper, NamedVisitor};
use crate::nn::{is_flex, memory_of};
use burn::module::{Module, Param};
use burn::tensor::{AllocationProperty, Bytes, DType, Device, FloatDType, Tensor, TensorData};
use std::collections::HashMap;

/// How a module's parameters are named in a file.
pub struct FileNames<'a> {
    /// The file's name for a parameter, in the layout that is written; `None` for a parameter that no file holds.
    pub key: &'a dyn Fn(&str) -> Option<String>,
    /// From other layouts to that one.
    pub rename: Rename<'a>,
    /// Tensors that may be there and are not looked at.
    pub ignore: &'a [&'a str],
}

/// How a parameter is held after it was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// In f32, in memory of its own: it will be trained.
    Trained,
    /// In f32, never written to: on the CPU it stays a window of the mapped file where the file holds f32, so that nothing
    /// is copied and the system may take the memory back at any time.
    Frozen,
    /// In bf16, never written to.
    Narrow,
}

/// Replaces every parameter that has a name in files by the folder's tensor, held as `hold` says of its name.
///
/// A window of the file lives as long as the parameter; [`unchanged`](super::unchanged) finds out whether the file was
/// written meanwhile.
///
/// # Errors
/// [`CheckpointError::Mismatch`] with all tensors that are missing, unexpected or misshapen;
/// [`CheckpointError::Tensor`] where one holds a value that is not finite, or is of no type of floats.
pub fn load<M: Module>(
    module: M,
    shards: &Shards,
    names: &FileNames<'_>,
    hold: &dyn Fn(&str) -> Hold,
    device: &Device,
) -> Result<M, CheckpointError> {
    let mut by_key: HashMap<String, String> = HashMap::new();
    let mut expected = Vec::new();
    for info in params::list(&module) {
        if let Some(key) = (names.key)(&info.name) {
            expected.push(Expected::required(key.clone(), info.shape));
            by_key.insert(key, info.name);
        }
    }
    let resolved = resolve(&expected, shards, names.rename, names.ignore)?;
    let views: HashMap<String, TensorView<'_>> =
        resolved.into_iter().filter_map(|r| by_key.remove(&r.expected.name).map(|name| (name, r.view))).collect();
    let mut loader = Loader { views, hold, device, error: None };
    let module = params::map(module, &mut loader);
    match loader.error {
        None => Ok(module),
        Some(error) => Err(error),
    }
}

struct Loader<'a> {
    views: HashMap<String, TensorView<'a>>,
    hold: &'a dyn Fn(&str) -> Hold,
    device: &'a Device,
    error: Option<CheckpointError>,
}

impl Loader<'_> {
    fn read<const D: usize>(
        &self,
        view: TensorView<'_>,
        shape: [usize; D],
        hold: Hold,
    ) -> Result<Tensor<D>, CheckpointError> {
        if hold == Hold::Frozen
            && is_flex(self.device)
            && let Some(bytes) = window(&view)
        {
            view.check_finite()?;
            return Ok(Tensor::from_data(TensorData::from_bytes(bytes, shape, DType::F32), self.device));
        }
        if hold == Hold::Narrow && view.dtype == Dtype::BF16 {
            view.check_finite()?;
            let data = TensorData::from_bytes(Bytes::from_bytes_vec(view.bytes.to_vec()), shape, DType::BF16);
            view.release();
            return Ok(Tensor::from_data(data, (self.device, DType::BF16)));
        }
        let values = view.to_finite_f32()?;
        view.release();
        let tensor = upload(values, &shape, self.device);
        Ok(if hold == Hold::Narrow { tensor.cast(FloatDType::BF16) } else { tensor })
    }
}

/// A tensor's elements where they lie, for a parameter that is read as f32 in place.
fn window(view: &TensorView<'_>) -> Option<Bytes> {
    if view.dtype != Dtype::F32 || floats(view.bytes).is_none() {
        return None;
    }
    Some(Bytes::from_shared(bytes::Bytes::from_owner(view.window()?), AllocationProperty::File))
}

impl NamedMapper for Loader<'_> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(view) = self.views.remove(name) else { return param };
        match self.read(view, param.lazy_shape().dims(), (self.hold)(name)) {
            // Trainable until a recipe says otherwise, as the modules' own initialisation has it.
            Ok(tensor) => Param::initialized(param.id, tensor).set_require_grad(true),
            Err(error) => {
                self.error.get_or_insert(error);
                param
            }
        }
    }
}

fn upload<const D: usize>(values: Vec<f32>, shape: &[usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, *shape), device)
}

/// Replaces parameters by host tensors of the same name; others stay.
pub fn assign<M: Module>(module: M, tensors: HashMap<String, HostTensor>, device: &Device) -> M {
    struct Assign<'a> {
        tensors: HashMap<String, HostTensor>,
        device: &'a Device,
    }
    impl NamedMapper for Assign<'_> {
        fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let values = self.tensors.remove(name);
            let Some(values) = values.as_ref().and_then(HostTensor::to_f32) else { return param };
            let trainable = param.is_require_grad();
            let tensor: Tensor<D> = upload(values.into_owned(), &param.lazy_shape().dims(), self.device);
            Param::initialized(param.id, tensor).set_require_grad(trainable)
        }
    }
    params::map(module, &mut Assign { tensors, device })
}

/// The parameters that `wanted` picks in host memory, shared with the model on the CPU, in the order of declaration.
pub fn to_host<M: Module>(module: &M, wanted: impl Fn(&str, bool) -> bool) -> Vec<(String, HostTensor)> {
    struct Collect<F> {
        wanted: F,
        found: Vec<(String, HostTensor)>,
    }
    impl<F: Fn(&str, bool) -> bool> NamedVisitor for Collect<F> {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            if (self.wanted)(name, param.is_require_grad()) {
                self.found.push((name.to_owned(), host(param.val())));
            }
        }
    }
    let mut collect = Collect { wanted, found: Vec::new() };
    params::visit(module, &mut collect);
    collect.found
}

/// One tensor in host memory, f32: on the CPU its own memory, which is shared and not copied.
pub fn host<const D: usize>(tensor: Tensor<D>) -> HostTensor {
    let shape = tensor.dims().to_vec();
    if let Some(memory) = memory_of(&tensor) {
        return HostTensor::shared(shape, Dtype::F32, memory);
    }
    let values: Vec<f32> = match tensor.dtype() {
        DType::F32 => match tensor.into_data().try_into_vec::<f32>() {
            Ok(values) => values,
            Err(error) => unreachable!("a tensor of type f32 holds f32: {error:?}"),
        },
        _ => tensor.into_data().iter::<f32>().collect(),
    };
    match HostTensor::from_f32(shape, values) {
        Some(host) => host,
        None => unreachable!("a tensor holds as many values as its shape has"),
    }
}
