//! What codes stand for.

use std::fmt;
use std::sync::LazyLock;

/// The 16 levels of a weight in 4 bits, scaled so that the largest magnitude is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// Quantiles of a normal distribution, zero among them (QLoRA's NF4).
    Nf4,
    /// A sign, two bits of exponent and one of fraction.
    Fp4,
}

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

const FP4: [f32; 16] = [
    0.0,
    0.005_208_333_5,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    0.0,
    -0.005_208_333_5,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];

/// Codes in the order of their levels.
const NF4_ORDER: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const FP4_ORDER: [u8; 16] = [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3];

impl Levels {
    /// The level of each code.
    #[inline(always)]
    pub fn table(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4,
        }
    }

    /// Codes in the order of their levels.
    pub(super) fn order(self) -> &'static [u8; 16] {
        match self {
            Self::Nf4 => &NF4_ORDER,
            Self::Fp4 => &FP4_ORDER,
        }
    }

    /// The midpoints between levels in their order.
    pub(super) fn bounds(self) -> [f32; 15] {
        let (table, order) = (self.table(), self.order());
        std::array::from_fn(|i| (table[usize::from(order[i])] + table[usize::from(order[i + 1])]) / 2.0)
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        })
    }
}

/// The 256 levels of quantized scales, ascending: a sign, an exponent of ten of varying length, and as many bits of fraction as
/// are left.
///
/// # Source
/// Dettmers 2015; bitsandbytes' `create_dynamic_map`.
pub(super) static DYNAMIC: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut levels = Vec::with_capacity(256);
    for exponent in 0..7 {
        let items = 1_usize << exponent;
        let scale = 10_f64.powi(exponent - 6) as f32;
        let boundary = |i: usize| boundary(i, items + 1);
        for i in 0..items {
            let mean = scale * ((boundary(i) + boundary(i + 1)) / 2.0);
            levels.extend([mean, -mean]);
        }
    }
    levels.extend([0.0, 1.0]);
    levels.sort_by(f32::total_cmp);
    std::array::from_fn(|i| levels[i])
});

/// Element `i` of `count` numbers from 0.1 to 1, from the nearer end and rounded once, as `torch.linspace` has it.
fn boundary(i: usize, count: usize) -> f32 {
    let step = (1.0_f32 - 0.1) / (count - 1) as f32;
    if i < count / 2 { step.mul_add(i as f32, 0.1) } else { (-step).mul_add((count - 1 - i) as f32, 1.0) }
}
