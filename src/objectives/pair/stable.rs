//! Functions that stay finite, with their gradients, where the textbook form does not.

use burn::tensor::{Int, Tensor, TensorData, activation};

/// Nearest to 0 that a log-probability is taken for in odds: at 0 itself they are infinite.
pub(super) const NEAREST_TO_CERTAIN: f64 = -1e-7;

/// `−log σ(x)`.
pub(crate) fn logistic(x: Tensor<1>) -> Tensor<1> {
    activation::log_sigmoid(x).neg()
}

/// `−(1−ε)·log σ(x) − ε·log σ(−x)`.
pub(crate) fn smoothed(x: Tensor<1>, epsilon: f64) -> Tensor<1> {
    if epsilon == 0.0 {
        return logistic(x);
    }
    logistic(x.clone()) * (1.0 - epsilon) + logistic(x.neg()) * epsilon
}

/// `x²`, with `|x|` taken for 1e18 at most, whose square is a number in f32.
pub(crate) fn square(x: Tensor<1>) -> Tensor<1> {
    let x = x.clamp(-1e18, 1e18);
    x.clone() * x
}

/// The logarithm of the odds of an event whose log-probability is `x`: `x − log(1 − eˣ)`.
pub(crate) fn log_odds(x: Tensor<1>) -> Tensor<1> {
    // Each branch is kept away from where its gradient is infinite: a mask does not stop 0·∞.
    let far = x.clone().clamp_max(-0.5).exp().neg().log1p();
    // 1 − eˣ = tanh(−x/2)·(1 + eˣ), which cancels nothing near 0.
    let near = x.clone().clamp(-1.0, NEAREST_TO_CERTAIN);
    let near_zero = x.clone().greater_elem(-0.7);
    let near = (near.clone() * -0.5).tanh().log() + near.exp().log1p();
    x - far.mask_where(near_zero, near)
}

/// `x` in ascending order, differentiable. The order is found on the host: equal values keep theirs on every device.
pub(crate) fn sorted(x: Tensor<1>) -> Tensor<1> {
    let values = super::host_values(x.clone());
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let order: Vec<i32> = order.into_iter().map(|i| i as i32).collect();
    let shape = [order.len()];
    let device = x.device();
    x.select(0, Tensor::<1, Int>::from_data(TensorData::new(order, shape), &device))
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::objectives::pair::testing::close;
    use burn::tensor::Device;

    #[test]
    fn odds_keep_their_digits_at_both_ends() {
        let device = Device::flex().autodiff();
        let at = [-1e4_f64, -100.0, -20.0, -3.0, -0.8, -0.69, -0.1, -1e-3, -1e-6];
        let x = Tensor::<1>::from_floats(at.map(|x| x as f32), &device).require_grad();
        let y = log_odds(x.clone());
        let slopes = super::super::host_values(x.grad(&y.clone().sum().backward()).unwrap());
        for ((x, y), slope) in at.into_iter().zip(super::super::host_values(y)).zip(slopes) {
            let x = f64::from(x as f32);
            close(y, x - (-x.exp_m1()).ln(), 2e-6, &format!("log-odds at {x}"));
            close(slope, 1.0 / -x.exp_m1(), 2e-6, &format!("slope of the log-odds at {x}"));
        }
        let certain = Tensor::<1>::from_floats([0.0], &device).require_grad();
        let y = log_odds(certain.clone());
        let slope = certain.grad(&y.clone().backward()).unwrap().into_scalar::<f32>();
        assert!(y.into_scalar::<f32>().is_finite() && slope.is_finite());
    }

    #[test]
    fn sorting_passes_gradients_to_where_the_values_were() {
        let x = Tensor::<1>::from_floats([3.0, -1.0, 2.0], &Device::flex().autodiff()).require_grad();
        let y = sorted(x.clone());
        let weights = Tensor::<1>::from_floats([1.0, 10.0, 100.0], &x.device());
        let gradient = x.grad(&(y.clone() * weights).sum().backward()).unwrap();
        assert_eq!(super::super::host_values(y), [-1.0, 2.0, 3.0]);
        assert_eq!(super::super::host_values(gradient), [100.0, 1.0, 10.0]);
    }
}
