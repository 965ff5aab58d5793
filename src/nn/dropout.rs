//! Dropout whose masks can be drawn again.

use super::{is_flex, recompute};
use burn::tensor::{Distribution, Tensor, TensorData};
use rayon::prelude::*;
use std::cell::Cell;

thread_local! {
    static STREAM: Cell<Option<Stream>> = const { Cell::new(None) };
}

/// A sequence of masks: each is drawn from a seed of its own, so that a block that is run again finds the place it
/// began at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stream {
    seed: u64,
    masks: u64,
}

/// From now on the masks of this thread follow from `seed` and their number alone.
///
/// Without it they follow from the device's generator, wherever that stands.
pub fn seed_dropout(seed: u64) {
    STREAM.set(Some(Stream { seed, masks: 0 }));
}

/// Masks drawn since [`seed_dropout`].
pub(super) fn masks_drawn() -> u64 {
    STREAM.get().map_or(0, |stream| stream.masks)
}

/// Runs `f` with the masks that come after `masks` of them, and goes on where it was before.
pub(super) fn at_mask<R>(masks: u64, f: impl FnOnce() -> R) -> R {
    let before = STREAM.get();
    STREAM.set(before.map(|stream| Stream { masks, ..stream }));
    let result = f();
    STREAM.set(before);
    result
}

/// Whether what acts in training only acts on a layer with this trainable matrix: the matrix is tracked for a gradient,
/// or would be if its block were not run without a tape.
pub fn acts_in_training(matrix: &Tensor<2>) -> bool {
    matrix.is_require_grad() || recompute::runs_untaped_training()
}

/// Zeroes a share of the elements and scales the others up, as `torch.nn.Dropout` in training.
pub fn dropout(x: Tensor<2>, probability: f64) -> Tensor<2> {
    let keep = 1.0 - probability;
    let plain = x.clone().inner();
    let mask = match STREAM.get() {
        None => plain.random_like(Distribution::Bernoulli(keep)) / keep,
        Some(Stream { seed, masks }) => {
            STREAM.set(Some(Stream { seed, masks: masks + 1 }));
            seeded(plain, mix(seed, masks), keep)
        }
    };
    if x.is_autodiff() { x * mask.autodiff() } else { x * mask }
}

/// The mask of a seed, for a tensor of this shape.
fn seeded(like: Tensor<2>, seed: u64, keep: f64) -> Tensor<2> {
    if !is_flex(&like.device()) {
        like.device().seed(seed);
        return like.random_like(Distribution::Bernoulli(keep)) / keep;
    }
    // On the CPU by number alone: every core draws its part, and no other thread can move a generator in between.
    let shape = like.dims();
    let (kept, limit) = ((1.0 / keep) as f32, (keep * 2f64.powi(53)) as u64);
    let mut mask = vec![0f32; shape.iter().product()];
    mask.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        for (value, number) in values.iter_mut().zip((chunk * CHUNK) as u64..) {
            *value = if mix(seed, number) >> 11 < limit { kept } else { 0.0 };
        }
    });
    Tensor::from_data(TensorData::new(mask, shape), &like.device())
}

/// Elements that one task draws.
const CHUNK: usize = 1 << 15;

/// One number from two (SplitMix64's finaliser over their combination).
fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed ^ number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn mask(probability: f64) -> Vec<f32> {
        dropout(Tensor::ones([4, 50], &Device::flex()), probability).into_data().try_to_vec().unwrap()
    }

    #[test]
    fn masks_follow_from_seed_and_number() {
        seed_dropout(5);
        let (first, second) = (mask(0.25), mask(0.25));
        assert_ne!(first, second);
        assert!(first.iter().all(|value| *value == 0.0 || (*value - 1.0 / 0.75).abs() < 1e-6), "{first:?}");
        assert_eq!(masks_drawn(), 2);
        assert_eq!(at_mask(1, || mask(0.25)), second, "drawn again");
        assert_eq!(masks_drawn(), 2, "and the stream goes on behind both");
        seed_dropout(5);
        assert_eq!(mask(0.25), first);
        seed_dropout(6);
        assert_ne!(mask(0.25), first);
    }

    #[test]
    fn the_share_is_the_probability() {
        seed_dropout(9);
        let ones = Tensor::ones([300, 400], &Device::flex());
        let mask: Vec<f32> = dropout(ones, 0.3).into_data().try_to_vec().unwrap();
        let dropped = mask.iter().filter(|value| **value == 0.0).count() as f64 / 120_000.0;
        // Five standard deviations of 120,000 draws.
        assert!((dropped - 0.3).abs() < 0.0067, "{dropped}");
        let mean = mask.iter().sum::<f32>() / 120_000.0;
        assert!((mean - 1.0).abs() < 0.0095, "{mean}");
    }
}
