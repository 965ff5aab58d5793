//! Parameters by name: creation, listing, visiting and mapping over any burn module.
//!
//! A parameter's name is the path of field names that leads to it (`layers.0.self_attn.q_proj.weight`).

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Distribution, Shape, Tensor};

/// Name and shape of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamInfo {
    /// Dotted path of field names.
    pub name: String,
    /// Shape in elements.
    pub shape: Vec<usize>,
}

impl ParamInfo {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the parameter has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sees every floating-point parameter with its name.
pub trait NamedVisitor {
    /// Called once per parameter, in the order of declaration.
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>);
}

/// Replaces floating-point parameters by name.
pub trait NamedMapper {
    /// Called once per parameter, in the order of declaration.
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

/// Every parameter of `module`, without materialising lazily initialised ones.
pub fn list<M: Module>(module: &M) -> Vec<ParamInfo> {
    struct Lister(Vec<ParamInfo>);
    impl NamedVisitor for Lister {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            self.0.push(ParamInfo { name: name.to_owned(), shape: param.lazy_shape().to_vec() });
        }
    }
    let mut lister = Lister(Vec::new());
    visit(module, &mut lister);
    lister.0
}

/// Every parameter that a training step changes; materialises the module.
pub fn list_trainable<M: Module>(module: &M) -> Vec<ParamInfo> {
    struct Lister(Vec<ParamInfo>);
    impl NamedVisitor for Lister {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.0.push(ParamInfo { name: name.to_owned(), shape: param.dims().to_vec() });
            }
        }
    }
    let mut lister = Lister(Vec::new());
    visit(module, &mut lister);
    lister.0
}

/// Shows every parameter of `module` to `visitor`.
pub fn visit<M: Module, V: NamedVisitor>(module: &M, visitor: &mut V) {
    module.visit(&mut Walk { path: Vec::new(), inner: visitor });
}

/// Passes every parameter of `module` through `mapper`.
pub fn map<M: Module, F: NamedMapper>(module: M, mapper: &mut F) -> M {
    module.map(&mut Walk { path: Vec::new(), inner: mapper })
}

/// Sets which parameters a training step changes.
pub fn set_trainable<M: Module>(module: M, trainable: impl Fn(&str) -> bool) -> M {
    struct Set<F>(F);
    impl<F: Fn(&str) -> bool> NamedMapper for Set<F> {
        fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let wanted = (self.0)(name);
            param.set_require_grad(wanted)
        }
    }
    map(module, &mut Set(trainable))
}

struct Walk<'a, T> {
    path: Vec<String>,
    inner: &'a mut T,
}

impl<T: NamedVisitor> ModuleVisitor for Walk<'_, T> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.inner.visit(&self.path.join("."), param);
    }
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

impl<T: NamedMapper> ModuleMapper for Walk<'_, T> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.inner.map(&self.path.join("."), param)
    }
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
}

/// A parameter filled with `value` when it is first needed.
pub fn constant<const D: usize>(shape: [usize; D], value: f64, device: &Device) -> Param<Tensor<D>> {
    lazy(shape, device, move |device| Tensor::full(shape, value, device))
}

/// A parameter drawn from `N(0, std²)` when it is first needed.
pub fn normal<const D: usize>(shape: [usize; D], std: f64, device: &Device) -> Param<Tensor<D>> {
    lazy(shape, device, move |device| Tensor::random(shape, Distribution::Normal(0.0, std), device))
}

/// A parameter drawn uniformly from `±bound` when it is first needed.
pub fn uniform<const D: usize>(shape: [usize; D], bound: f64, device: &Device) -> Param<Tensor<D>> {
    lazy(shape, device, move |device| Tensor::random(shape, Distribution::Uniform(-bound, bound), device))
}

/// Parameters start out lazily, because most are replaced from a checkpoint before anyone reads them.
fn lazy<const D: usize>(
    shape: [usize; D],
    device: &Device,
    init: impl Fn(&Device) -> Tensor<D> + Send + Sync + 'static,
) -> Param<Tensor<D>> {
    derived(shape, device, init)
}

/// A parameter that `init` computes when it is first needed, for example from another parameter's value, which may or may
/// not track gradients.
pub fn derived<const D: usize>(
    shape: [usize; D],
    device: &Device,
    init: impl FnOnce(&Device) -> Tensor<D> + Send + Sync + 'static,
) -> Param<Tensor<D>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, require_grad| {
            let tensor = init(device).inner();
            let tensor = if device.is_autodiff() { tensor.autodiff() } else { tensor };
            // A device without autodiff tracks no gradient: the parameter itself remembers that it is trainable.
            if require_grad && device.is_autodiff() { tensor.require_grad() } else { tensor }
        },
        device.clone(),
        true,
        Shape::from(shape),
    )
}
