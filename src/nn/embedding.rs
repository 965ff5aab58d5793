//! Token and position tables.

// n positions, v rows of the table, k trained rows, d width
use super::cast_to;
use super::linear::{AdapterSlot, Linear, LinearAdapter, PlainMap, linear};
use super::params::{self, normal};
use super::weight::Weight;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor};
use std::sync::Arc;

/// A table of rows, looked up by index.
#[derive(Module, Debug)]
pub struct Embedding {
    /// The rows, `[n, d]`.
    pub weight: Param<Tensor<2>>,
    /// Rows that are trained while the table stays as it is.
    pub adapter: Option<TrainedRows>,
    /// The type of what is looked up, which all that follows computes in; none for the table's own. A table that is
    /// trained stays f32, and its gradient is summed in f32.
    #[module(skip)]
    pub activations: Option<DType>,
}

/// Some rows of a table, which stand in for the table's own.
#[derive(Module, Debug)]
pub struct TrainedRows {
    /// The rows, `[k, d]` in f32.
    pub rows: Param<Tensor<2>>,
    /// Their indices in the table, `k` of them.
    #[module(skip)]
    pub ids: Vec<u32>,
}

/// How the name of [`TrainedRows`]' parameter ends.
pub const TRAINED_ROWS: &str = ".adapter.rows";

/// What PEFT calls trained rows in a file, behind the path of their layer.
pub const TRAINED_ROWS_KEY: &str = "token_adapter.trainable_tokens_delta";

/// Row `ids_n[i]` of the table at `i`.
///
/// # Shapes
/// `table_vd`, `ids_n` to `[n, d]`.
pub(crate) fn rows(table_vd: Tensor<2>, ids_n: Tensor<1, Int>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if super::fused(&table_vd) {
        return super::flex::rows(table_vd, ids_n);
    }
    table_vd.select(0, ids_n)
}

impl Embedding {
    /// `n` rows of width `d`, drawn from a normal distribution of standard deviation 0.02.
    pub fn new(n: usize, d: usize, device: &Device) -> Self {
        Self { weight: normal([n, d], 0.02, device), adapter: None, activations: None }
    }

    /// # Shapes
    /// ids `[b, t]` to `[b, t, d]`.
    pub fn forward(&self, ids_bt: Tensor<2, Int>) -> Tensor<3> {
        let [b, t] = ids_bt.dims();
        let weight = self.weight.val();
        let d = weight.dims()[1];
        let ids_n = ids_bt.reshape([b * t]);
        let x_nd = rows(weight, ids_n.clone());
        let x_nd = match &self.adapter {
            Some(trained) => trained.put(x_nd, ids_n),
            None => x_nd,
        };
        let dtype = self.activations.unwrap_or(x_nd.dtype());
        cast_to(x_nd, dtype).reshape([b, t, d])
    }

    /// The whole table, trained rows in their places, `[v, d]`.
    pub fn table(&self) -> Tensor<2> {
        let weight = self.weight.val();
        match &self.adapter {
            Some(trained) => {
                let all = Tensor::arange(0..weight.dims()[0] as i64, &weight.device());
                trained.put(weight, all)
            }
            None => weight,
        }
    }

    /// Sets rows by index. # Shapes: `rows_kd: [k, d]` for `k` ids.
    pub fn set_rows(&mut self, ids: &[u32], rows_kd: Tensor<2>) {
        let trained = TrainedRows { rows: Param::initialized(ParamId::new(), rows_kd), ids: ids.to_vec() };
        let trainable = self.weight.is_require_grad();
        let table = Self { weight: self.weight.clone(), adapter: Some(trained), activations: None }.table();
        self.weight = Param::initialized(ParamId::new(), table.detach()).set_require_grad(trainable);
    }

    /// Trains these rows alone, from their present values; rows that are trained already stay so.
    pub fn train_rows(&mut self, ids: &[u32]) {
        let mut all = self.adapter.as_ref().map(|trained| trained.ids.clone()).unwrap_or_default();
        for id in ids {
            if !all.contains(id) {
                all.push(*id);
            }
        }
        let (device, d) = (self.weight.lazy_device(), self.weight.lazy_shape()[1]);
        let (shape, rows, before) = ([all.len(), d], all.clone(), self.clone());
        // Lazily: a check without weights must not draw a whole table.
        let rows = params::derived(shape, &device, move |_| before.rows(&rows).cast(FloatDType::F32));
        self.adapter = Some(TrainedRows { rows, ids: all });
    }

    /// Writes the trained rows into the table.
    pub fn merge(&mut self) {
        if let Some(trained) = self.adapter.take() {
            self.set_rows(&trained.ids, trained.rows.val().inner());
        }
    }

    /// Rows of the table as they are used, `[k, d]`.
    pub fn rows(&self, ids: &[u32]) -> Tensor<2> {
        let table = self.table();
        let device = table.device();
        table.select(0, indices(ids, &device))
    }

    /// The mean of the first `n` rows, `[1, d]`.
    pub fn mean(&self, n: usize) -> Tensor<2> {
        self.weight.val().detach().narrow(0, 0, n).mean_dim(0)
    }
}

fn indices(ids: &[u32], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    Tensor::from_data(ids.as_slice(), device)
}

impl TrainedRows {
    fn put(&self, x_nd: Tensor<2>, ids_n: Tensor<1, Int>) -> Tensor<2> {
        put(&self.ids, self.rows.val(), x_nd, ids_n)
    }
}

/// `x_nd` with `rows_kd` where `ids_n` has one of `ids`. One lookup in both together, so that the gradient reaches these
/// rows and nothing else.
fn put(ids: &[u32], rows_kd: Tensor<2>, x_nd: Tensor<2>, ids_n: Tensor<1, Int>) -> Tensor<2> {
    let n = x_nd.dims()[0] as i64;
    let mut index_n = Tensor::arange(0..n, &x_nd.device());
    for (row, id) in (n..).zip(ids) {
        index_n = index_n.mask_fill(ids_n.clone().equal_elem(i64::from(*id)), row);
    }
    let rows = cast_to(rows_kd, x_nd.dtype());
    Tensor::cat(vec![x_nd, rows], 0).select(0, index_n)
}

/// Some rows of a linear layer's weight, which stand in for the weight's own: [`TrainedRows`] for a head that is not the
/// token table.
#[derive(Clone, Debug)]
pub struct PutRows {
    /// Their indices, in the order of the one trained matrix, `[k, in]`.
    pub ids: Vec<u32>,
}

impl PutRows {
    /// Trains these rows of `linear` alone, from their present values.
    pub fn on(linear: &Linear, ids: &[u32]) -> AdapterSlot {
        let (weight, indices) = (linear.weight.clone(), ids.to_vec());
        let rows = params::derived([ids.len(), linear.shape()[1]], &weight.device(), move |_| {
            let weight = weight.dense().inner();
            let device = weight.device();
            weight.select(0, self::indices(&indices, &device)).cast(FloatDType::F32)
        });
        AdapterSlot::new(vec![rows], Arc::new(Self { ids: ids.to_vec() }))
    }

    fn weight(&self, weight_oi: Tensor<2>, rows_ki: Tensor<2>) -> Tensor<2> {
        let all = Tensor::arange(0..weight_oi.dims()[0] as i64, &weight_oi.device());
        put(&self.ids, rows_ki, weight_oi, all)
    }
}

impl LinearAdapter for PutRows {
    fn names(&self) -> &[&'static str] {
        &[TRAINED_ROWS_KEY]
    }

    fn forward(&self, x_ni: Tensor<2>, weight: &Weight, bias_o: Option<Tensor<1>>, params: &[Tensor<2>]) -> Tensor<2> {
        let weight_oi = self.weight(weight.beside(&x_ni), params[0].clone());
        linear(x_ni, weight_oi, bias_o)
    }

    fn merged(&self, plain: PlainMap, params: &[Tensor<2>]) -> Option<PlainMap> {
        Some(PlainMap { weight_oi: self.weight(plain.weight_oi, params[0].clone()), ..plain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;

    fn table(device: &Device) -> Embedding {
        let rows: Vec<f32> = (0..10).map(|value| value as f32).collect();
        let rows = Tensor::from_data(TensorData::new(rows, [5, 2]), device);
        Embedding {
            weight: Param::initialized(ParamId::new(), rows).set_require_grad(false),
            adapter: None,
            activations: None,
        }
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn trained_rows_stand_in_for_the_tables_and_alone_get_a_gradient() {
        let device = crate::device::choose(crate::device::DeviceRequest::Cpu).unwrap().device.autodiff();
        let mut embedding = table(&device);
        embedding.train_rows(&[4, 1]);
        let trained = embedding.adapter.as_mut().unwrap();
        let moved = (trained.rows.val() + 100.0).detach();
        trained.rows = Param::initialized(ParamId::new(), moved).set_require_grad(true);

        let ids = Tensor::<2, Int>::from_data([[0, 1, 4, 4]], &device);
        let x = embedding.forward(ids);
        assert_eq!(values(x.clone()), [0.0, 1.0, 102.0, 103.0, 108.0, 109.0, 108.0, 109.0]);
        let gradients = x.sum().backward();
        let rows = embedding.adapter.as_ref().unwrap().rows.val();
        assert_eq!(values(rows.grad(&gradients).unwrap()), [2.0, 2.0, 1.0, 1.0]);
        assert!(embedding.weight.val().grad(&gradients).is_none());

        let table = values(embedding.table());
        assert_eq!(table, [0.0, 1.0, 102.0, 103.0, 4.0, 5.0, 6.0, 7.0, 108.0, 109.0]);
        embedding.merge();
        assert!(embedding.adapter.is_none());
        assert_eq!(values(embedding.weight.val()), table);
        assert_eq!(values(embedding.rows(&[4])), [108.0, 109.0]);
        assert_eq!(values(embedding.mean(2)), [51.0, 52.0]);
    }

    #[test]
    fn a_table_that_is_trained_beside_bf16_activations_stays_f32_and_sums_its_gradient_there() {
        let device = crate::device::choose(crate::device::DeviceRequest::Cpu).unwrap().device.autodiff();
        let mut embedding = table(&device);
        embedding.weight = embedding.weight.set_require_grad(true);
        embedding.activations = Some(DType::BF16);
        // 600 ones are more than bf16 counts to: 256 + 1 rounds to 256.
        let x = embedding.forward(Tensor::zeros([1, 600], &device));
        assert_eq!(x.dtype(), DType::BF16);
        let gradients = x.sum().backward();
        let gradient = embedding.weight.val().grad(&gradients).unwrap();
        assert_eq!(gradient.dtype(), DType::F32);
        assert_eq!(values(gradient)[..4], [600.0, 600.0, 0.0, 0.0]);
    }
}
