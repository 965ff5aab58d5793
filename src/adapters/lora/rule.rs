//! The arithmetic of LoRA and DoRA on one linear layer.

// n rows, i in_features, o out_features, r rank
use crate::nn::{
    LinearAdapter, LowRank, PlainMap, RateGroup, Weight, acts_in_training, cast_to, dropout, linear, row_squares,
    to_f32,
};
use burn::tensor::Tensor;

/// Scale, dropout and kind of one adapter.
///
/// Its matrices are A and B, with DoRA the magnitudes, `[o, 1]`; then, where the update counts from a start that is not
/// nothing (PiSSA), that start's A and B. The base's weight stays as it was loaded: what PiSSA takes from it, the second
/// pair subtracts.
#[derive(Clone, Debug)]
pub(super) struct LoraRule {
    pub(super) scale: f32,
    pub(super) dropout: f64,
    pub(super) dora: bool,
}

impl LinearAdapter for LoraRule {
    fn names(&self) -> &[&'static str] {
        if self.dora {
            &["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"]
        } else {
            &["lora_A.weight", "lora_B.weight"]
        }
    }

    fn forward(&self, x_ni: Tensor<2>, weight: &Weight, bias_o: Option<Tensor<1>>, params: &[Tensor<2>]) -> Tensor<2> {
        let dropped =
            (self.dropout > 0.0 && acts_in_training(&params[0])).then(|| dropout(to_f32(x_ni.clone()), self.dropout));
        self.map(x_ni, dropped, (weight, bias_o), params)
    }

    fn merged(&self, plain: PlainMap, params: &[Tensor<2>]) -> Option<PlainMap> {
        let (a_ri, b_or) = self.factors(params);
        let dtype = plain.weight_oi.dtype();
        let sum_oi = to_f32(plain.weight_oi) + b_or.matmul(a_ri) * self.scale;
        let sum_oi = match self.dora {
            false => sum_oi,
            true => {
                let norms_o1 = row_squares(sum_oi.clone()).sqrt();
                sum_oi * (params[2].clone() / norms_o1)
            }
        };
        Some(PlainMap { weight_oi: cast_to(sum_oi, dtype), ..plain })
    }

    fn saved(&self, params: &[Tensor<2>]) -> Vec<Tensor<2>> {
        let (a_ri, b_or) = self.factors(params);
        let magnitudes = if self.dora { &params[2..3] } else { &[] };
        [&[a_ri, b_or], magnitudes].concat()
    }

    fn file_shape(&self, index: usize, shape: [usize; 2]) -> Vec<usize> {
        if index == 2 { vec![shape[0]] } else { shape.to_vec() }
    }

    fn rate_group(&self, index: usize) -> RateGroup {
        // PEFT's groups: B, and whatever has one dimension, as the magnitudes do there.
        if index == 0 { RateGroup::Base } else { RateGroup::Raised }
    }
}

impl LoraRule {
    /// A and B of the whole update: `[A; A₀]` and `[B, −B₀]` where it counts from a start.
    fn factors(&self, params: &[Tensor<2>]) -> (Tensor<2>, Tensor<2>) {
        let (a_ri, b_or) = (params[0].clone(), params[1].clone());
        match &params[self.names().len()..] {
            [start_a, start_b] => {
                (Tensor::cat(vec![a_ri, start_a.clone()], 0), Tensor::cat(vec![b_or, start_b.clone().neg()], 1))
            }
            _ => (a_ri, b_or),
        }
    }

    /// The adapted map; `dropped` is the input after dropout, f32, where dropout acts.
    fn map(
        &self,
        x_ni: Tensor<2>,
        dropped: Option<Tensor<2>>,
        (weight, bias_o): (&Weight, Option<Tensor<1>>),
        params: &[Tensor<2>],
    ) -> Tensor<2> {
        let (a_ri, b_or) = self.factors(params);
        let update = LowRank { a_ri, b_or, scale: self.scale };
        if !self.dora {
            return lora(x_ni, dropped, (weight, bias_o), update);
        }
        let norms_o1 = self.norms(weight, update.a_ri.clone(), update.b_or.clone());
        let norms_o1 = if params[2].is_autodiff() { norms_o1.autodiff() } else { norms_o1 };
        let gain_1o = (params[2].clone() / norms_o1).transpose();
        let dtype = x_ni.dtype();
        match dropped {
            None => {
                let y_no = lora(x_ni, None, (weight, None), update);
                let y_no = cast_to(to_f32(y_no) * gain_1o, dtype);
                match bias_o {
                    Some(bias) => y_no + bias.unsqueeze(),
                    None => y_no,
                }
            }
            Some(dropped) => {
                // PEFT leaves the base's own result undropped and corrects it by what the gain adds on the dropped input.
                let base_no = weight.linear(x_ni, bias_o);
                let seen_no = to_f32(weight.linear(cast_to(dropped.clone(), dtype), None));
                let update_no = update.on(dropped);
                base_no + cast_to(seen_no * (gain_1o.clone() - 1.0) + update_no * gain_1o, dtype)
            }
        }
    }

    /// The norm of every row of `W + s·BA`, `[o, 1]`, without gradient and without that sum:
    /// `‖Wᵢ‖² + 2s·(W Aᵀ)ᵢ·Bᵢ + s²·Bᵢ·(A Aᵀ)·Bᵢ`.
    fn norms(&self, weight: &Weight, a_ri: Tensor<2>, b_or: Tensor<2>) -> Tensor<2> {
        let (weight_oi, a_ri, b_or) = (weight.dense().inner(), a_ri.inner(), b_or.inner());
        let cross_or = linear(weight_oi.clone(), cast_to(a_ri.clone(), weight_oi.dtype()), None);
        let gram_rr = a_ri.clone().matmul(a_ri.transpose());
        let own_or = b_or.clone().matmul(gram_rr);
        let mixed_or = to_f32(cross_or) * (2.0 * self.scale) + own_or * (self.scale * self.scale);
        // Rounding may leave a row that is nothing a little below nothing.
        (row_squares(weight_oi) + (mixed_or * b_or).sum_dim(1)).clamp_min(f32::MIN_POSITIVE).sqrt()
    }
}

/// `x·Wᵀ + b` and the update, on the input after dropout where dropout acts.
fn lora(
    x_ni: Tensor<2>,
    dropped: Option<Tensor<2>>,
    (weight, bias_o): (&Weight, Option<Tensor<1>>),
    update: LowRank,
) -> Tensor<2> {
    match dropped {
        None => weight.lora(x_ni, bias_o, update),
        Some(dropped) => {
            let dtype = x_ni.dtype();
            weight.linear(x_ni, bias_o) + cast_to(update.on(dropped), dtype)
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    /// W = [[3, 0], [0, 1]], A = [[1, 1]], B = [[0], [1]], s = 2: W + sBA = [[3, 0], [2, 3]], rows of norm 3 and √13.
    fn layer(device: &Device) -> (LoraRule, PlainMap, Vec<Tensor<2>>) {
        let plain = PlainMap {
            weight_oi: Tensor::from_floats([[3.0, 0.0], [0.0, 1.0]], device),
            bias_o: Some(Tensor::from_floats([10.0, 20.0], device)),
        };
        let a = Tensor::from_floats([[1.0, 1.0]], device);
        let b = Tensor::from_floats([[0.0], [1.0]], device);
        let m = Tensor::from_floats([[6.0], [13.0_f32.sqrt() / 2.0]], device);
        (LoraRule { scale: 2.0, dropout: 0.0, dora: true }, plain, vec![a, b, m])
    }

    fn on(
        rule: &LoraRule,
        x: Tensor<2>,
        dropped: Option<Tensor<2>>,
        plain: PlainMap,
        params: &[Tensor<2>],
    ) -> Tensor<2> {
        rule.map(x, dropped, (&plain.weight_oi.into(), plain.bias_o), params)
    }

    #[test]
    fn doras_norms_are_those_of_the_sum() {
        let (rule, plain, params) = layer(&Device::flex());
        let norms = values(rule.norms(&plain.weight_oi.into(), params[0].clone(), params[1].clone()));
        assert!((norms[0] - 3.0).abs() < 1e-6 && (norms[1] - 13.0_f32.sqrt()).abs() < 1e-6, "{norms:?}");
    }

    #[test]
    fn dora_by_hand_and_merged() {
        let (rule, plain, params) = layer(&Device::flex());
        let x = Tensor::from_floats([[1.0, 1.0]], &Device::flex());
        // gains 2 and 1/2 on 3 and 5, the bias outside
        let expected = [16.0, 22.5];
        let y = values(on(&rule, x.clone(), None, plain.clone(), &params));
        let merged = rule.merged(plain, &params).unwrap();
        for found in [y, values(linear(x, merged.weight_oi, merged.bias_o))] {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}");
        }
    }

    #[test]
    fn dropout_leaves_doras_base_result_whole() {
        let (rule, plain, params) = layer(&Device::flex());
        let x = Tensor::from_floats([[1.0, 1.0]], &Device::flex());
        let dropped = Tensor::from_floats([[2.0, 0.0]], &Device::flex());
        // base 13, 21; on the dropped input W gives 6, 0 and sBA gives 0, 4
        let y = values(on(&rule, x, Some(dropped), plain, &params));
        assert!((y[0] - (13.0 + 6.0)).abs() < 1e-5 && (y[1] - (21.0 + 2.0)).abs() < 1e-5, "{y:?}");
    }

    #[test]
    fn the_norm_has_no_gradient() {
        let device = Device::flex().autodiff();
        let (rule, plain, params) = layer(&device);
        let params: Vec<Tensor<2>> = params.into_iter().map(Tensor::require_grad).collect();
        let x = Tensor::from_floats([[1.0, 1.0]], &device);
        let gradients = on(&rule, x, None, plain, &params).sum().backward();
        // dB = s·g·(A x) = 2·g·2, dm = (W + sBA) x / norm
        let b = values(params[1].grad(&gradients).unwrap());
        let m = values(params[2].grad(&gradients).unwrap());
        assert!((b[0] - 8.0).abs() < 1e-5 && (b[1] - 2.0).abs() < 1e-5, "{b:?}");
        assert!((m[0] - 1.0).abs() < 1e-5 && (m[1] - 5.0 / 13.0_f32.sqrt()).abs() < 1e-5, "{m:?}");
    }

    #[test]
    fn an_update_counts_from_its_start() {
        let (_, plain, params) = layer(&Device::flex());
        let rule = LoraRule { scale: 2.0, dropout: 0.0, dora: false };
        let params = [params[0].clone(), params[1].clone(), params[0].clone(), params[1].clone()];
        let x = Tensor::from_floats([[1.0, 1.0]], &Device::flex());
        assert_eq!(values(on(&rule, x, None, plain, &params)), [13.0, 21.0]);
        let saved = rule.saved(&params);
        assert_eq!((saved[0].dims(), saved[1].dims()), ([2, 2], [2, 2]));
        assert_eq!(values(saved[1].clone()), [0.0, 0.0, 1.0, -1.0]);
    }
}
