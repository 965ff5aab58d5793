//! Rotary position embedding, rotate-half as Llama has it.

// p positions, k head width
use super::attention::SequenceLayout;
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How the rotation frequencies depend on the sequence length.
///
/// # Source
/// `ROPE_INIT_FUNCTIONS` of transformers, by the same names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// `θ^(-2i/k)`, unscaled.
    Default,
    /// Every frequency divided: positions are squeezed into the original context.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// A base that grows once a sequence is longer than the original context ("NTK-aware").
    ///
    /// The length is that of the longest segment of the pass. transformers keeps the largest length it has met until a short
    /// sequence comes; here a pass depends on nothing before it.
    Dynamic {
        /// Growth of the base with the length.
        factor: f64,
        /// Context length of the original training, in tokens.
        max_position_embeddings: usize,
    },
    /// Long wavelengths divided, short ones left alone, a ramp between them, and attention sharpened (Peng et al. 2023).
    Yarn {
        /// Division of the lowest frequencies.
        factor: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// Turns within the original context above which a frequency is left alone.
        beta_fast: f64,
        /// Turns within the original context below which a frequency is divided in full.
        beta_slow: f64,
        /// Context length of the original training, in tokens.
        original_max_position_embeddings: f64,
        /// Whether the ramp begins and ends at whole dimensions.
        truncate: bool,
    },
    /// Llama 3.1's interpolation of the long wavelengths.
    Llama3 {
        /// Division of the lowest frequencies.
        factor: f64,
        /// Turns within the original context below which a frequency is divided in full.
        low_freq_factor: f64,
        /// Turns within the original context above which a frequency is left alone.
        high_freq_factor: f64,
        /// Context length of the original training, in tokens.
        original_max_position_embeddings: f64,
    },
}

/// Geometry of the rotation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    /// Width of one attention head; even.
    pub head_dim: usize,
    /// Base of the geometric series of wavelengths, `rope_theta`.
    pub theta: f64,
    /// Scaling of the frequencies.
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// Angular frequencies in radians per position for sequences of `length` tokens, `head_dim / 2` of them.
    ///
    /// In f32 like the reference, because the angle of a late position is sensitive to the frequency's last bits.
    pub fn inverse_frequencies(&self, length: usize) -> Vec<f32> {
        match self.scaling {
            RopeScaling::Default => self.geometric(self.theta as f32),
            RopeScaling::Linear { factor } => {
                self.geometric(self.theta as f32).into_iter().map(|f| f / factor as f32).collect()
            }
            RopeScaling::Dynamic { factor, max_position_embeddings } => {
                self.geometric(self.grown_base(length, factor, max_position_embeddings))
            }
            RopeScaling::Yarn { .. } => self.yarn(),
            RopeScaling::Llama3 { .. } => self.llama3(),
        }
    }

    /// `base^(-2i/k)`.
    fn geometric(&self, base: f32) -> Vec<f32> {
        (0..self.head_dim / 2).map(|i| 1.0 / base.powf((2 * i) as f32 / self.head_dim as f32)).collect()
    }

    /// The base at which the longest wavelength is that of linear scaling.
    fn grown_base(&self, length: usize, factor: f64, context: usize) -> f32 {
        if length <= context {
            return self.theta as f32;
        }
        let k = self.head_dim as f64;
        let growth = factor as f32 * length as f32 / context as f32 - (factor - 1.0) as f32;
        self.theta as f32 * growth.powf((k / (k - 2.0)) as f32)
    }

    fn yarn(&self) -> Vec<f32> {
        let RopeScaling::Yarn {
            factor, beta_fast, beta_slow, original_max_position_embeddings: context, truncate, ..
        } = self.scaling
        else {
            return Vec::new();
        };
        let k = self.head_dim as f64;
        // The dimension whose wavelength turns this often within the original context.
        let dimension =
            |turns: f64| k * (context / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(k - 1.0));
        if low == high {
            high += 0.001;
        }
        let frequencies = self.geometric(self.theta as f32).into_iter().enumerate();
        frequencies
            .map(|(i, own)| {
                let divided = 1.0 / (factor as f32 * (1.0 / own));
                let kept = 1.0 - ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                divided * (1.0 - kept) + own * kept
            })
            .collect()
    }

    fn llama3(&self) -> Vec<f32> {
        let RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: context,
        } = self.scaling
        else {
            return Vec::new();
        };
        let (low_wavelength, high_wavelength) = (context / low_freq_factor, context / high_freq_factor);
        let scale = |frequency: f32| {
            let wavelength = 2.0 * std::f64::consts::PI / f64::from(frequency);
            let scaled = if wavelength > low_wavelength {
                f64::from(frequency) / factor
            } else if wavelength < high_wavelength {
                f64::from(frequency)
            } else {
                let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * f64::from(frequency) / factor + smooth * f64::from(frequency)
            };
            scaled as f32
        };
        self.geometric(self.theta as f32).into_iter().map(scale).collect()
    }

    /// Factor on cosines and sines: 1 but for YaRN.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        }
    }

    /// Cosines and sines for `positions` positions, made once per forward pass and shared by all layers.
    pub fn table(&self, positions: usize, device: &Device) -> Rope {
        let data = TensorData::new(self.values(positions).to_vec(), [positions, self.head_dim]);
        Rope { table_pk: Tensor::from_data(data, device), halves: OnceLock::new() }
    }

    /// The table in host memory. The last one is kept: its hundreds of thousands of sines and cosines would be computed in
    /// every pass while the device waits.
    fn values(&self, positions: usize) -> Arc<[f32]> {
        type Made = (RopeConfig, usize, Arc<[f32]>);
        static LAST: Mutex<Option<Made>> = Mutex::new(None);
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((config, length, values)) = &*last
            && (config, *length) == (self, positions)
        {
            return values.clone();
        }
        let frequencies = self.inverse_frequencies(positions);
        let scale = self.attention_factor();
        let mut values = Vec::with_capacity(positions * frequencies.len() * 2);
        for position in 0..positions {
            let angles = frequencies.iter().map(|f| position as f32 * f);
            values.extend(angles.clone().map(|angle| angle.cos() * scale));
            values.extend(angles.map(|angle| angle.sin() * scale));
        }
        let values: Arc<[f32]> = values.into();
        *last = Some((*self, positions, values.clone()));
        values
    }
}

/// Cosines (first half of a row) and sines (second half) per position.
#[derive(Clone, Debug)]
pub struct Rope {
    /// `[positions, head_dim]`, f32.
    pub(crate) table_pk: Tensor<2>,
    /// What [`Rope::rotate`] takes, made when it is first asked for.
    halves: OnceLock<Halves>,
}

/// Factors of every element of a head: `x·cos + swap(x)·sin`.
#[derive(Clone, Debug)]
struct Halves {
    cos_pk: Tensor<2>,
    sin_pk: Tensor<2>,
    other_half_k: Tensor<1, Int>,
}

impl Rope {
    fn halves(&self) -> &Halves {
        self.halves.get_or_init(|| {
            let [_, k] = self.table_pk.dims();
            let half = k / 2;
            let (cos, sin) = (self.table_pk.clone().narrow(1, 0, half), self.table_pk.clone().narrow(1, half, half));
            let other_half: Vec<i32> = (0..k).map(|i| ((i + half) % k) as i32).collect();
            Halves {
                cos_pk: Tensor::cat(vec![cos.clone(), cos], 1),
                sin_pk: Tensor::cat(vec![-sin.clone(), sin], 1),
                other_half_k: Tensor::from_data(TensorData::new(other_half, [k]), &self.table_pk.device()),
            }
        })
    }

    /// Rotates every head of `x` by its tokens' positions, which count from the beginning of their segment.
    ///
    /// # Shapes
    /// `x`: `[b, t, heads·k]`; `first` is the absolute index of its first token.
    pub fn rotate(&self, x: Tensor<3>, heads: usize, layout: &SequenceLayout, first: usize) -> Tensor<3> {
        let [b, t, width] = x.dims();
        let k = width / heads;
        let positions = layout.positions(b, first, t);
        // Rows that count alike share one part of the table: nothing is uploaded or gathered.
        let alike = positions.iter().enumerate().all(|(i, &position)| position as usize == first + i % t);
        let Halves { cos_pk, sin_pk, other_half_k } = self.halves().clone();
        let (cos, sin) = if alike {
            let part = |rows: Tensor<2>| rows.narrow(0, first, t).unsqueeze();
            (part(cos_pk), part(sin_pk))
        } else {
            let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [b * t]), &x.device());
            let part = |rows: Tensor<2>| rows.select(0, positions.clone()).reshape([b, t, k]);
            (part(cos_pk), part(sin_pk))
        };
        super::composed::rotate(x, super::composed::Angles { cos, sin, other_half: other_half_k }, heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_kept_is_the_one_that_was_asked_for() {
        let plain = RopeConfig { head_dim: 4, theta: 100.0, scaling: RopeScaling::Default };
        let other = RopeConfig { theta: 50.0, ..plain };
        let made = [plain.values(3), plain.values(3), plain.values(4), other.values(4), plain.values(3)];
        assert_eq!(made.each_ref().map(|values| values.len()), [12, 12, 16, 16, 12]);
        assert_eq!((&made[0], &made[0][..]), (&made[1], &made[4][..]));
        assert_eq!(made[2][..12], made[0][..]);
        assert_ne!(made[3], made[2]);
        assert_eq!(made[0][..4], [1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn llama3_leaves_high_frequencies_and_divides_low_ones() {
        let plain = RopeConfig { head_dim: 64, theta: 500_000.0, scaling: RopeScaling::Default };
        let scaled = RopeConfig {
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192.0,
            },
            ..plain
        };
        let (plain, scaled) = (plain.inverse_frequencies(1), scaled.inverse_frequencies(1));
        assert_eq!(plain[0], scaled[0]);
        assert!((plain[31] / scaled[31] - 8.0).abs() < 1e-4);
        assert!(scaled.windows(2).all(|w| w[0] > w[1]));
    }
}
