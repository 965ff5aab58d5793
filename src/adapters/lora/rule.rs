//! The arithmetic of LoRA on one linear layer.

// n rows, i in_features, o out_features, r rank
use crate::nn::{LinearAdapter, cast_to, fused, linear, to_f32};
use burn::tensor::{Distribution, Tensor};

/// Scale and dropout of one adapter.
#[derive(Clone, Debug)]
pub(super) struct LoraRule {
    pub(super) scale: f32,
    pub(super) dropout: f64,
}

impl LinearAdapter for LoraRule {
    fn names(&self) -> &[&'static str] {
        &["lora_A.weight", "lora_B.weight"]
    }

    fn forward(
        &self,
        x_ni: Tensor<2>,
        weight_oi: Tensor<2>,
        bias_o: Option<Tensor<1>>,
        params: &[Tensor<2>],
    ) -> Tensor<2> {
        let (a_ri, b_or) = (params[0].clone(), params[1].clone());
        let drops = self.dropout > 0.0 && a_ri.is_require_grad();
        #[cfg(feature = "cpu")]
        if !drops && fused(&x_ni) {
            let factors = crate::nn::flex::LoraFactors { a: a_ri, b: b_or, scale: self.scale };
            return crate::nn::flex::lora_linear(x_ni, weight_oi, bias_o, factors);
        }
        let dtype = x_ni.dtype();
        let y_no = linear(x_ni.clone(), weight_oi, bias_o);
        let x_ni = to_f32(x_ni);
        let x_ni = if drops { dropout(x_ni, self.dropout) } else { x_ni };
        let update_no = linear(linear(x_ni, a_ri, None), b_or, None) * self.scale;
        y_no + cast_to(update_no, dtype)
    }

    fn merged(&self, weight_oi: Tensor<2>, params: &[Tensor<2>]) -> Option<Tensor<2>> {
        let (a_ri, b_or) = (params[0].clone(), params[1].clone());
        let dtype = weight_oi.dtype();
        Some(cast_to(to_f32(weight_oi) + b_or.matmul(a_ri) * self.scale, dtype))
    }
}

/// Zeroes a share of the elements and scales the others up, as `torch.nn.Dropout` in training.
fn dropout(x: Tensor<2>, probability: f64) -> Tensor<2> {
    let keep = 1.0 - probability;
    let mask = x.clone().inner().random_like(Distribution::Bernoulli(keep)) / keep;
    x * mask.autodiff()
}
