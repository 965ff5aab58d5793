//! The arithmetic that the row kernels share, and the macro that compiles a kernel several times.
//!
//! Kernels are plain loops over slices, written so that the compiler vectorises them. The
//! [`multiversion`] macro compiles each for AVX-512, for AVX2 with FMA and for the target's
//! baseline, and picks one at run time. Everything a kernel calls must be `#[inline(always)]`:
//! a target feature does not reach a function (or a closure) that is compiled on its own.
//!
//! Reductions use [`LANES`] independent partial sums that are added in index order, so a result
//! depends on the length of its input alone, never on the thread that computes it.

use std::mem::MaybeUninit;

/// How far the run-time detection may go; ordered from the plainest to the widest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SimdLevel {
    /// The instruction set the crate was compiled for.
    Baseline,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

#[cfg(test)]
thread_local! {
    /// Makes this thread run the plainest version of every kernel.
    pub(super) static FORCE_BASELINE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The widest instruction set of this processor that the kernels are compiled for.
#[inline]
pub(super) fn simd_level() -> SimdLevel {
    #[cfg(test)]
    if FORCE_BASELINE.get() {
        return SimdLevel::Baseline;
    }
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                return SimdLevel::Avx512;
            }
            return SimdLevel::Avx2;
        }
    }
    SimdLevel::Baseline
}

/// Whether the baseline has a fused multiply-add; where it has none, `f32::mul_add` is a slow
/// library call and the kernels multiply and add instead.
pub(super) const BASELINE_FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// Compiles a kernel for several instruction sets and dispatches at run time.
///
/// The name in angle brackets is a `const bool` that says whether fused multiply-add is fast; the
/// body hands it to [`mul_add`] and to the other helpers here.
macro_rules! multiversion {
    ($(#[$doc:meta])* fn $name:ident<$fma:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        pub(super) fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const $fma: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }

            match $crate::nn::flex::kernels::simd_level() {
                // SAFETY: `simd_level` returned this variant, so the processor has every feature
                // that the called version enables.
                #[cfg(target_arch = "x86_64")]
                $crate::nn::flex::kernels::SimdLevel::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::nn::flex::kernels::SimdLevel::Avx2 => unsafe { avx2($($arg),*) },
                $crate::nn::flex::kernels::SimdLevel::Baseline => {
                    body::<{ $crate::nn::flex::kernels::BASELINE_FMA }>($($arg),*)
                }
            }
        }
    };
}
pub(super) use multiversion;

/// Partial sums of a reduction: two AVX-512 registers, four of AVX2.
pub(super) const LANES: usize = 32;

/// `a·b + c`, fused where that is one instruction.
#[inline(always)]
pub(super) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The larger of two numbers; NaN in `x` is kept, which `f32::max` would hide.
#[inline(always)]
fn at_least(x: f32, low: f32) -> f32 {
    if x < low { low } else { x }
}

/// The smaller of two numbers; NaN in `x` is kept.
#[inline(always)]
fn at_most(x: f32, high: f32) -> f32 {
    if x > high { high } else { x }
}

/// `eˣ` within 2 units in the last place, by range reduction to `|r| ≤ ln2/2` and the Taylor
/// polynomial of degree 7 (its remainder there is below 6e-9).
///
/// Saturates at `e^-87.3 ≈ 1e-38` and `e^88.3 ≈ 2e38` instead of reaching 0 and infinity. NaN in,
/// NaN out.
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// 1.5·2²³: adding it rounds to an integer that then sits in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has few enough bits that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    let x = at_most(at_least(x, -87.3), 88.3);
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN2_HIGH, x);
    let r = mul_add::<FMA>(n, -LN2_LOW, r);
    let p = mul_add::<FMA>(r, 1.0 / 5040.0, 1.0 / 720.0);
    let p = mul_add::<FMA>(p, r, 1.0 / 120.0);
    let p = mul_add::<FMA>(p, r, 1.0 / 24.0);
    let p = mul_add::<FMA>(p, r, 1.0 / 6.0);
    let p = mul_add::<FMA>(p, r, 0.5);
    let p = mul_add::<FMA>(p, r, 1.0);
    let p = mul_add::<FMA>(p, r, 1.0);
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    p * f32::from_bits(exponent.wrapping_add(127) << 23)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(super) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// The standard normal distribution function `Φ(x)` and its density `φ(x)`.
///
/// `Φ(-|x|) = ½·e^(-x²/2)·erfcx(|x|/√2)`, with the scaled complementary error function as a
/// polynomial in `t = 1 / (1 + 0.3·|x|/√2)` fitted here (largest relative error 2e-8). The lower
/// tail has full relative accuracy, which `½·(1 + erf)` loses.
#[inline(always)]
pub(super) fn normal_cdf_pdf<const FMA: bool>(x: f32) -> (f32, f32) {
    const ERFCX: [f32; 9] = [
        0.169_190_17,
        0.170_683_82,
        0.148_532_5,
        0.214_264_4,
        -0.093_271_725,
        0.545_925_14,
        -0.510_851_15,
        0.484_928_73,
        -0.129_401_92,
    ];
    let t = 1.0 / mul_add::<FMA>(x.abs(), 0.3 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
    let mut p = ERFCX[8];
    let mut i = 8;
    while i > 0 {
        i -= 1;
        p = mul_add::<FMA>(p, t, ERFCX[i]);
    }
    let gauss = exp::<FMA>(-0.5 * x * x);
    let tail = 0.5 * gauss * p * t;
    let cdf = if x < 0.0 { tail } else { 1.0 - tail };
    (cdf, gauss * 0.398_942_3)
}

/// `Σ aᵢ·bᵢ`.
#[inline(always)]
pub(super) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b[..a.len()].as_chunks::<LANES>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for i in 0..LANES {
            lanes[i] = mul_add::<FMA>(x[i], y[i], lanes[i]);
        }
    }
    let mut sum = fold(&lanes);
    for (x, y) in a_rest.iter().zip(b_rest) {
        sum += x * y;
    }
    sum
}

/// [`dot`] of `x` with two rows at once, bit for bit: one row alone waits for its own sums.
#[inline(always)]
pub(super) fn dot2<const FMA: bool>(x: &[f32], a: &[f32], b: &[f32]) -> [f32; 2] {
    let (mut a_lanes, mut b_lanes) = ([0f32; LANES], [0f32; LANES]);
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    let (a_blocks, a_rest) = a[..x.len()].as_chunks::<LANES>();
    let (b_blocks, b_rest) = b[..x.len()].as_chunks::<LANES>();
    for ((x, a), b) in x_blocks.iter().zip(a_blocks).zip(b_blocks) {
        for i in 0..LANES {
            a_lanes[i] = mul_add::<FMA>(x[i], a[i], a_lanes[i]);
        }
        for i in 0..LANES {
            b_lanes[i] = mul_add::<FMA>(x[i], b[i], b_lanes[i]);
        }
    }
    let (mut a_sum, mut b_sum) = (fold(&a_lanes), fold(&b_lanes));
    for ((x, a), b) in x_rest.iter().zip(a_rest).zip(b_rest) {
        a_sum += x * a;
        b_sum += x * b;
    }
    [a_sum, b_sum]
}

/// `Σ xᵢ`.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] += block[i];
        }
    }
    let mut sum = fold(&lanes);
    for value in rest {
        sum += value;
    }
    sum
}

/// The largest element; `-∞` of nothing. NaN elements are skipped.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = x.as_chunks::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = if block[i] > lanes[i] { block[i] } else { lanes[i] };
        }
    }
    let mut largest = f32::NEG_INFINITY;
    // Through memory for the reason given in `fold`.
    for value in std::hint::black_box(lanes).iter().chain(rest) {
        largest = if *value > largest { *value } else { largest };
    }
    largest
}

/// Replaces `x` by `e^(x·scale - shift)` and returns the sum.
#[inline(always)]
pub(super) fn exp_and_sum<const FMA: bool>(x: &mut [f32], scale: f32, shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (blocks, rest) = x.as_chunks_mut::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            block[i] = exp::<FMA>(mul_add::<FMA>(block[i], scale, -shift));
            lanes[i] += block[i];
        }
    }
    let mut sum = fold(&lanes);
    for value in rest {
        *value = exp::<FMA>(mul_add::<FMA>(*value, scale, -shift));
        sum += *value;
    }
    sum
}

/// Adds the lanes pairwise, always in the same order. Written out by width: as a loop over widths it
/// stays scalar and costs more than the sum of a short row.
#[inline(always)]
pub(super) fn fold(lanes: &[f32; LANES]) -> f32 {
    // Through memory: without these stores of neighbours LLVM keeps the lanes as 32 scalars, and the
    // loops that fill them with it.
    let lanes = std::hint::black_box(*lanes);
    let [mut by16, mut by8, mut by4] = [[0f32; 16]; 3];
    for i in 0..16 {
        by16[i] = lanes[i] + lanes[i + 16];
    }
    for i in 0..8 {
        by8[i] = by16[i] + by16[i + 8];
    }
    for i in 0..4 {
        by4[i] = by8[i] + by8[i + 4];
    }
    (by4[0] + by4[2]) + (by4[1] + by4[3])
}

multiversion! {
    /// `y += x`.
    fn add_assign<FMA>(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

multiversion! {
    /// `x *= factor`.
    fn scale_assign<FMA>(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

multiversion! {
    /// Writes `x[i, ..]·y[i, ..]` to `out[i]` for rows of `cols` elements that start every
    /// `x_stride` and `y_stride` elements.
    fn row_dots<FMA>(x: &[f32], x_stride: usize, y: &[f32], y_stride: usize, cols: usize, out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = dot::<FMA>(&x[i * x_stride..][..cols], &y[i * y_stride..][..cols]);
        }
    }
}

multiversion! {
    /// Writes the sums over the rows of `x[.., stride]`, columns `first..first + out.len()`.
    fn column_sums<FMA>(x: &[f32], stride: usize, first: usize, out: &mut [MaybeUninit<f32>]) {
        /// Columns summed at once: their sums stay in registers or the first-level cache.
        const STRIPE: usize = 64;
        for (stripe, out) in out.chunks_mut(STRIPE).enumerate() {
            let mut sums = [0f32; STRIPE];
            let first = first + stripe * STRIPE;
            for row in x.chunks_exact(stride) {
                for (sum, value) in sums.iter_mut().zip(&row[first..][..out.len()]) {
                    *sum += value;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                out.write(sum);
            }
        }
    }
}
