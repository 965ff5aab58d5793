//! One step of AdamW on one tensor, and sums of squares for the global norm.

use burn::tensor::Tensor;

/// The scalars of one AdamW step. Kept in f64 and rounded where torch rounds them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// The learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// `1 - beta1^step`.
    pub bias_correction1: f64,
    /// `1 - beta2^step`.
    pub bias_correction2: f64,
    /// Factor on the gradient, from clipping; 1 leaves it alone.
    pub grad_scale: f64,
}

/// A parameter with its two moments.
#[derive(Debug, Clone)]
pub struct AdamWTensors<const D: usize> {
    /// The parameter.
    pub param: Tensor<D>,
    /// The first moment.
    pub m: Tensor<D>,
    /// The second moment.
    pub v: Tensor<D>,
}

/// One step with torch's arithmetic in torch's order; in place on the CPU where the tensors have no other owner.
///
/// # Shapes
/// All of one shape; plain tensors (without autodiff) are returned.
/// # Source
/// `torch.optim.AdamW`: decay before the update, bias-corrected moments, epsilon outside the root.
pub fn adamw_step<const D: usize>(tensors: AdamWTensors<D>, grad: Tensor<D>, u: AdamWStep) -> AdamWTensors<D> {
    #[cfg(feature = "cpu")]
    if super::fused(&tensors.param) {
        return super::flex::adamw_step(tensors, grad, u);
    }
    let AdamWTensors { param, m, v } = tensors;
    let grad = if u.grad_scale == 1.0 { grad } else { grad * u.grad_scale };
    let param = param * (1.0 - u.lr * u.weight_decay);
    let m = m * u.beta1 + grad.clone() * (1.0 - u.beta1);
    let v = v * u.beta2 + grad.square() * (1.0 - u.beta2);
    let denominator = v.clone().sqrt() / u.bias_correction2.sqrt() + u.eps;
    let param = param - m.clone() / denominator * (u.lr / u.bias_correction1);
    AdamWTensors { param, m, v }
}

/// The sum of squares of each tensor.
///
/// # Shapes
/// Flat tensors of any lengths; one value each, in f64 where the CPU computes them, else in f32.
pub fn sums_of_squares(tensors: &[&Tensor<1>]) -> Vec<f64> {
    #[cfg(feature = "cpu")]
    if tensors.iter().all(|tensor| super::fused(tensor)) {
        return tensors.iter().map(|tensor| super::flex::sum_of_squares(tensor)).collect();
    }
    if tensors.is_empty() {
        return Vec::new();
    }
    // One read for all: each read waits for the device.
    let sums = tensors.iter().map(|tensor| (*tensor).clone().square().sum()).collect();
    Tensor::cat(sums, 0).into_data().iter::<f64>().collect()
}

/// The sum of squares of each row, without gradient.
///
/// # Shapes
/// `[o, i]` to `[o, 1]`, f32.
pub(crate) fn row_squares(matrix_oi: Tensor<2>) -> Tensor<2> {
    let matrix_oi = super::to_f32(matrix_oi.inner());
    #[cfg(feature = "cpu")]
    if super::fused(&matrix_oi) {
        let rows = super::flex::row_squares(&matrix_oi);
        let shape = [rows.len(), 1];
        return Tensor::from_data(burn::tensor::TensorData::new(rows, shape), &matrix_oi.device());
    }
    matrix_oi.square().sum_dim(1)
}
