//! Rotary position embedding, rotate-half as Llama has it.

// p positions, k head width
use super::attention::SequenceLayout;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// How the rotation frequencies depend on the sequence length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// `θ^(-2i/k)`, unscaled.
    Default,
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
    /// Angular frequencies in radians per position, `head_dim / 2` of them.
    ///
    /// # Source
    /// `ROPE_INIT_FUNCTIONS` of transformers; f32 like there, because the angle of a late position is sensitive to the
    /// frequency's last bits.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let half = self.head_dim / 2;
        let base = (0..half).map(|i| {
            let exponent = (2 * i) as f32 / self.head_dim as f32;
            1.0 / (self.theta as f32).powf(exponent)
        });
        match self.scaling {
            RopeScaling::Default => base.collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let (low_wavelength, high_wavelength) = (
                    original_max_position_embeddings / low_freq_factor,
                    original_max_position_embeddings / high_freq_factor,
                );
                base.map(|frequency| {
                    let wavelength = 2.0 * std::f64::consts::PI / f64::from(frequency);
                    let scaled = if wavelength > low_wavelength {
                        f64::from(frequency) / factor
                    } else if wavelength < high_wavelength {
                        f64::from(frequency)
                    } else {
                        let smooth = (original_max_position_embeddings / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f64::from(frequency) / factor + smooth * f64::from(frequency)
                    };
                    scaled as f32
                })
                .collect()
            }
        }
    }

    /// Cosines and sines for `positions` positions, made once per forward pass and shared by all layers.
    pub fn table(&self, positions: usize, device: &Device) -> Rope {
        let frequencies = self.inverse_frequencies();
        let half = frequencies.len();
        let mut values = Vec::with_capacity(positions * half * 2);
        for position in 0..positions {
            let angles = frequencies.iter().map(|f| position as f32 * f);
            values.extend(angles.clone().map(f32::cos));
            values.extend(angles.map(f32::sin));
        }
        let data = TensorData::new(values, [positions, 2 * half]);
        Rope { table_pk: Tensor::from_data(data, device) }
    }
}

/// Cosines (first half of a row) and sines (second half) per position.
#[derive(Clone, Debug)]
pub struct Rope {
    /// `[positions, head_dim]`, f32.
    pub(crate) table_pk: Tensor<2>,
}

impl Rope {
    /// Rotates every head of `x` by its row's positions, which count from the row's first real token.
    ///
    /// # Shapes
    /// `x`: `[b, t, heads·k]`; `first` is the absolute index of its first token.
    pub fn rotate(&self, x: Tensor<3>, heads: usize, layout: &SequenceLayout, first: usize) -> Tensor<3> {
        let [b, t, width] = x.dims();
        let k = width / heads;
        let half = k / 2;
        let positions = layout.positions(b, first, t);
        let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [b * t]), &x.device());
        let rows =
            super::norm::cast_to(self.table_pk.clone(), x.dtype()).select(0, positions).reshape([b, t, 1, 2 * half]);
        let (cos, sin) = (rows.clone().narrow(3, 0, half), rows.narrow(3, half, half));
        let x = x.reshape([b, t, heads, k]);
        let (x1, x2) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        let y1 = x1.clone() * cos.clone() - x2.clone() * sin.clone();
        let y2 = x2 * cos + x1 * sin;
        Tensor::cat(vec![y1, y2], 3).reshape([b, t, width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (plain, scaled) = (plain.inverse_frequencies(), scaled.inverse_frequencies());
        assert_eq!(plain[0], scaled[0]);
        assert!((plain[31] / scaled[31] - 8.0).abs() < 1e-4);
        assert!(scaled.windows(2).all(|w| w[0] > w[1]));
    }
}
