//! Between tensors in files and parameters of a module, by name.

use super::{CheckpointError, Expected, HostTensor, Rename, Shards, TensorView, resolve};
use crate::nn::params::{self, NamedMapper, NamedVisitor};
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
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

/// Replaces every parameter that has a name in files by the folder's tensor, in f32 or, where `narrow` says so of its
/// name, in bf16.
///
/// # Errors
/// [`CheckpointError::Mismatch`] with all tensors that are missing, unexpected or misshapen.
pub fn load<M: Module>(
    module: M,
    shards: &Shards,
    names: &FileNames<'_>,
    narrow: &dyn Fn(&str) -> bool,
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
    let mut loader = Loader { views, narrow, device, error: None };
    let module = params::map(module, &mut loader);
    match loader.error {
        None => Ok(module),
        Some(error) => Err(error),
    }
}

struct Loader<'a> {
    views: HashMap<String, TensorView<'a>>,
    narrow: &'a dyn Fn(&str) -> bool,
    device: &'a Device,
    error: Option<CheckpointError>,
}

impl NamedMapper for Loader<'_> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(view) = self.views.remove(name) else { return param };
        match view.to_finite_f32() {
            Ok(values) => {
                let tensor = upload(values, &param.lazy_shape().dims(), self.device);
                let tensor = if (self.narrow)(name) { tensor.cast(FloatDType::BF16) } else { tensor };
                // Trainable until a recipe says otherwise, as the modules' own initialisation has it.
                Param::initialized(param.id, tensor).set_require_grad(true)
            }
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

/// Copies the parameters that `wanted` picks to host memory, in the order of declaration.
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

/// One tensor in host memory, f32.
pub fn host<const D: usize>(tensor: Tensor<D>) -> HostTensor {
    let shape = tensor.dims().to_vec();
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
