//! Virtual tokens: trained inputs that stand in front of every row.

// b batch, t tokens, n virtual tokens, w width of what they stand in front of
use super::cast_to;
use super::params::normal;
use super::starts::Starts;
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::fmt::Debug;
use std::sync::Arc;

/// A table of trained rows, one for each virtual token, and where it enters the model.
#[derive(Module, Debug)]
pub struct VirtualTokens {
    /// What yields the table.
    pub adapter: PromptEncoder,
    /// Where it enters.
    #[module(skip)]
    pub place: VirtualPlace,
}

/// Where virtual tokens enter a decoder of `L` layers, hidden width `d` and keys of width `w` in each layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualPlace {
    /// In front of the token embeddings: rows of width `d`.
    Embeddings,
    /// In front of every layer's keys and values, which are not rotated: rows of width `2·L·w`, a layer's keys before its
    /// values.
    KeysAndValues,
}

/// The parameters that a table of virtual tokens is computed from, and how.
#[derive(Module, Debug)]
pub struct PromptEncoder {
    /// Matrices, in the order of [`PromptRule::matrices`].
    pub matrices: Vec<Param<Tensor<2>>>,
    /// Vectors, in the order of [`PromptRule::biases`].
    pub biases: Vec<Param<Tensor<1>>>,
    /// How they yield the table.
    #[module(skip)]
    pub rule: Arc<dyn PromptRule>,
}

/// How a table of virtual tokens follows from parameters.
///
/// Implement it to write a reparameterization of one's own: the parameters live in the [`PromptEncoder`], so that they
/// are trained and resumed like every other one. What is saved for use is the table.
pub trait PromptRule: Debug + Send + Sync {
    /// The names of the matrices in PEFT's prompt encoder, for example `embedding.weight`.
    fn matrices(&self) -> Vec<String>;

    /// The names of the vectors.
    fn biases(&self) -> Vec<String> {
        Vec::new()
    }

    /// The table. Whatever acts in training only (dropout) acts where the parameters are tracked for a gradient.
    ///
    /// # Shapes
    /// `[n, w]`, with `matrices` and `biases` in the order of their names.
    fn table(&self, matrices: &[Tensor<2>], biases: &[Tensor<1>]) -> Tensor<2>;
}

/// The table itself is trained.
#[derive(Clone, Copy, Debug)]
pub struct PlainTable;

impl PromptRule for PlainTable {
    fn matrices(&self) -> Vec<String> {
        vec!["embedding.weight".to_owned()]
    }

    fn table(&self, matrices: &[Tensor<2>], _biases: &[Tensor<1>]) -> Tensor<2> {
        matrices[0].clone()
    }
}

impl VirtualTokens {
    /// A table of shape `[n, w]` without a reparameterization, drawn from `N(0, 1)` unless it is loaded before.
    pub fn plain(shape: [usize; 2], place: VirtualPlace, device: &Device) -> Self {
        Self::from_table(normal(shape, 1.0, device), place)
    }

    /// A given table without a reparameterization.
    pub fn from_table(table: Param<Tensor<2>>, place: VirtualPlace) -> Self {
        Self { adapter: PromptEncoder { matrices: vec![table], biases: Vec::new(), rule: Arc::new(PlainTable) }, place }
    }

    /// The table as the model sees it, `[n, w]`: evaluated, where there is a reparameterization.
    pub fn table(&self) -> Tensor<2> {
        let PromptEncoder { matrices, biases, rule } = &self.adapter;
        let matrices: Vec<_> = matrices.iter().map(|p| p.val()).collect();
        let biases: Vec<_> = biases.iter().map(|p| p.val()).collect();
        rule.table(&matrices, &biases)
    }
}

/// `rows_nw` in front of the first real token of every row of `x_btw`, behind the row's padding: what is seen from a real
/// token does not depend on how its row is padded.
///
/// # Shapes
/// To `[b, n + t, w]`, in `x_btw`'s type; the token at `i` of the row's first segment or behind it goes to `n + i`.
pub fn put_in_front(x_btw: Tensor<3>, rows_nw: Tensor<2>, starts: &Starts) -> Tensor<3> {
    let ([b, t, w], [n, _]) = (x_btw.dims(), rows_nw.dims());
    let rows_nw = cast_to(rows_nw, x_btw.dtype());
    if (0..b).all(|row| starts.first(row) == 0) {
        return Tensor::cat(vec![rows_nw.unsqueeze::<3>().expand([b, n, w]), x_btw], 1);
    }
    let mut index: Vec<i32> = Vec::with_capacity(b * (n + t));
    for row in 0..b {
        let (first, end) = (row * t, (row + 1) * t);
        let real = first + starts.first(row).min(t);
        index.extend([first..real, b * t..b * t + n, real..end].into_iter().flatten().map(|at| at as i32));
    }
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [b * (n + t)]), &x_btw.device());
    let all = Tensor::cat(vec![x_btw.reshape([b * t, w]), rows_nw], 0);
    all.select(0, index).reshape([b, n + t, w])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceRequest, choose};

    /// Rows `[[1, 2], [3, 4]]` with the virtual tokens 8 and 9 in front.
    fn check(starts: &[usize], expected: &[f32]) {
        let device = choose(DeviceRequest::Cpu).unwrap().device.autodiff();
        let x = Tensor::<3>::from_data([[[1.0], [2.0]], [[3.0], [4.0]]], &device).require_grad();
        let rows = Tensor::<2>::from_data([[8.0], [9.0]], &device).require_grad();
        let y = put_in_front(x.clone(), rows.clone(), &Starts::from(starts.to_vec()));
        assert_eq!(y.dims(), [2, 4, 1]);
        assert_eq!(y.clone().into_data().try_to_vec::<f32>().unwrap(), expected, "{starts:?}");
        let gradients = y.powi_scalar(2).sum().backward();
        let gradient = |values: Option<Tensor<2>>| values.unwrap().into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(gradient(rows.grad(&gradients)), [32.0, 36.0], "both rows of the batch, {starts:?}");
        assert_eq!(gradient(x.grad(&gradients).map(|g| g.reshape([2, 2]))), [2.0, 4.0, 6.0, 8.0], "{starts:?}");
    }

    #[test]
    fn virtual_tokens_stand_before_the_first_real_token() {
        check(&[0, 0], &[8.0, 9.0, 1.0, 2.0, 8.0, 9.0, 3.0, 4.0]);
        check(&[], &[8.0, 9.0, 1.0, 2.0, 8.0, 9.0, 3.0, 4.0]);
        check(&[1, 0], &[1.0, 8.0, 9.0, 2.0, 8.0, 9.0, 3.0, 4.0]);
        check(&[0, 2], &[8.0, 9.0, 1.0, 2.0, 3.0, 4.0, 8.0, 9.0]);
    }
}
