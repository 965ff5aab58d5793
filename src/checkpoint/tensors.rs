//! Tensors in host memory and their conversion to and from f32.

use std::borrow::Cow;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// The element types a safetensors file can hold; the file format's own enum, whose names are those
/// in the header.
pub use safetensors::Dtype;

/// Elements one thread converts at a time. Small enough that the f16 staging buffer (8 KiB) stays
/// in the first-level cache.
const BLOCK: usize = 4096;

/// Below this many elements, waking the thread pool costs more than converting.
const PARALLEL_FROM: usize = 1 << 17;

/// Bytes a tensor of `shape` occupies; `None` where that does not fit in a `usize` or is not a
/// whole number of bytes.
pub fn byte_len(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let elements = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side))?;
    let bits = elements.checked_mul(dtype.bitsize())?;
    (bits % 8 == 0).then_some(bits / 8)
}

/// A tensor in host memory: a buffer of its own, or bytes that are shared. Cloning
/// shares the bytes.
#[derive(Debug, Clone)]
pub struct HostTensor {
    shape: Vec<usize>,
    dtype: Dtype,
    storage: Storage,
}

#[derive(Clone)]
enum Storage {
    Floats(Arc<Vec<f32>>),
    Bytes(Arc<Vec<u8>>),
    Shared(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Floats(_) => "Floats",
            Self::Bytes(_) => "Bytes",
            Self::Shared(_) => "Shared",
        })
    }
}

impl HostTensor {
    /// A tensor from little-endian bytes; `None` where their number is not what `shape` and `dtype`
    /// need.
    pub fn from_bytes(shape: Vec<usize>, dtype: Dtype, bytes: Vec<u8>) -> Option<Self> {
        (byte_len(dtype, &shape) == Some(bytes.len())).then(|| Self {
            shape,
            dtype,
            storage: Storage::Bytes(Arc::new(bytes)),
        })
    }

    /// An f32 tensor, without copying; `None` where the number of values is not the shape's
    /// product.
    pub fn from_f32(shape: Vec<usize>, values: Vec<f32>) -> Option<Self> {
        (byte_len(Dtype::F32, &shape) == values.len().checked_mul(4)).then(|| Self {
            shape,
            dtype: Dtype::F32,
            storage: Storage::Floats(Arc::new(values)),
        })
    }

    /// A tensor over bytes that someone else holds too, as many as `shape` and `dtype` need: a window of a mapped file, a
    /// parameter's own memory.
    pub(super) fn shared(shape: Vec<usize>, dtype: Dtype, bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        Self { shape, dtype, storage: Storage::Shared(bytes) }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The elements, row-major, little-endian; not necessarily aligned.
    pub fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Floats(values) => bytemuck::cast_slice(values),
            Storage::Bytes(bytes) => bytes,
            Storage::Shared(bytes) => (**bytes).as_ref(),
        }
    }

    /// The elements as f32, borrowed where they already are; `None` for a type that is not f64,
    /// f32, f16 or bf16.
    pub fn to_f32(&self) -> Option<Cow<'_, [f32]>> {
        match &self.storage {
            Storage::Floats(values) => Some(Cow::Borrowed(values)),
            _ if self.dtype == Dtype::F32 && floats(self.bytes()).is_some() => floats(self.bytes()).map(Cow::Borrowed),
            _ => to_f32(self.dtype, self.bytes()).map(Cow::Owned),
        }
    }

    /// The tensor in another float type, rounded to nearest, ties to even; `None` where either type
    /// is not f32, f16 or bf16 (f64 can be read but not made).
    pub fn cast(&self, dtype: Dtype) -> Option<Self> {
        if dtype == self.dtype {
            return Some(self.clone());
        }
        let values = self.to_f32()?;
        if dtype == Dtype::F32 {
            return Self::from_f32(self.shape.clone(), values.into_owned());
        }
        Self::from_bytes(self.shape.clone(), dtype, from_f32(dtype, &values)?)
    }
}

/// Little-endian f32 where they lie; `None` where they cannot be read there: not aligned, or on a machine of another
/// byte order.
pub(super) fn floats(bytes: &[u8]) -> Option<&[f32]> {
    if cfg!(target_endian = "little") { bytemuck::try_cast_slice(bytes).ok() } else { None }
}

/// The first element that is not finite as f32, with its value; the outer `None` for a type that is not f64, f32, f16 or
/// bf16.
pub(super) fn first_infinite(dtype: Dtype, bytes: &[u8]) -> Option<Option<(usize, f32)>> {
    fn search<const N: usize>(
        bytes: &[u8],
        infinite: impl Fn(&[u8; N]) -> bool + Sync,
        value: impl Fn(&[u8; N]) -> f32,
    ) -> Option<(usize, f32)> {
        let (elements, _) = bytes.as_chunks::<N>();
        // Without a way out of the inner loop it is as fast as memory.
        let bad = |block: &[[u8; N]]| block.iter().fold(false, |bad, element| bad | infinite(element));
        let block = match elements.len() < PARALLEL_FROM {
            true => elements.chunks(BLOCK).position(bad),
            false => elements.par_chunks(BLOCK).position_first(bad),
        }?;
        let from = block * BLOCK;
        let at = from + elements[from..].iter().position(infinite)?;
        Some((at, value(&elements[at])))
    }
    // An exponent of ones says infinity or NaN.
    let wide = |e: &[u8; 8]| f64::from_le_bytes(*e) as f32;
    Some(match dtype {
        Dtype::F32 => {
            search(bytes, |e| u32::from_le_bytes(*e) & 0x7f80_0000 == 0x7f80_0000, |e| f32::from_le_bytes(*e))
        }
        Dtype::BF16 => {
            search(bytes, |e| u16::from_le_bytes(*e) & 0x7f80 == 0x7f80, |e| bf16::from_le_bytes(*e).to_f32())
        }
        Dtype::F16 => search(bytes, |e| u16::from_le_bytes(*e) & 0x7c00 == 0x7c00, |e| f16::from_le_bytes(*e).to_f32()),
        Dtype::F64 => search(bytes, |e| !wide(e).is_finite(), wide),
        _ => return None,
    })
}

/// Little-endian elements as f32; `None` for a type that is not f64, f32, f16 or bf16. A trailing
/// partial element is dropped: callers have checked the length against the shape.
pub(super) fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => convert(bytes, |source: &[[u8; 4]], target| {
            for (t, s) in target.iter_mut().zip(source) {
                *t = f32::from_le_bytes(*s);
            }
        }),
        Dtype::BF16 => convert(bytes, |source: &[[u8; 2]], target| {
            for (t, s) in target.iter_mut().zip(source) {
                *t = f32::from_bits(u32::from(u16::from_le_bytes(*s)) << 16);
            }
        }),
        Dtype::F16 => convert(bytes, |source: &[[u8; 2]], target| {
            // Staged, because mapped bytes may be unaligned and the F16C instructions are reached
            // through an aligned slice.
            let mut staged = [f16::ZERO; BLOCK];
            for (h, s) in staged.iter_mut().zip(source) {
                *h = f16::from_le_bytes(*s);
            }
            staged[..source.len()].convert_to_f32_slice(target);
        }),
        Dtype::F64 => convert(bytes, |source: &[[u8; 8]], target| {
            for (t, s) in target.iter_mut().zip(source) {
                *t = f64::from_le_bytes(*s) as f32;
            }
        }),
        _ => return None,
    })
}

/// Applies `block` to pieces of at most [`BLOCK`] elements of `N` bytes, on all threads where it
/// pays.
fn convert<const N: usize>(bytes: &[u8], block: impl Fn(&[[u8; N]], &mut [f32]) + Sync) -> Vec<f32> {
    let (source, _) = bytes.as_chunks::<N>();
    let mut target = vec![0f32; source.len()];
    if source.len() < PARALLEL_FROM {
        target.chunks_mut(BLOCK).zip(source.chunks(BLOCK)).for_each(|(t, s)| block(s, t));
    } else {
        target.par_chunks_mut(BLOCK).zip(source.par_chunks(BLOCK)).for_each(|(t, s)| block(s, t));
    }
    target
}

/// f32 values in a narrower type, rounded to nearest, ties to even; `None` for a type that is not
/// f32, f16 or bf16.
fn from_f32(dtype: Dtype, values: &[f32]) -> Option<Vec<u8>> {
    Some(match dtype {
        Dtype::F32 => narrow(values, |v: f32| v.to_le_bytes()),
        Dtype::BF16 => narrow(values, |v| bf16::from_f32(v).to_le_bytes()),
        Dtype::F16 => narrow(values, |v| f16::from_f32(v).to_le_bytes()),
        _ => return None,
    })
}

fn narrow<const N: usize>(values: &[f32], one: impl Fn(f32) -> [u8; N] + Sync) -> Vec<u8> {
    let mut bytes = vec![0u8; values.len() * N];
    bytes.par_chunks_mut(BLOCK * N).zip(values.par_chunks(BLOCK)).for_each(|(target, source)| {
        for (t, &v) in target.as_chunks_mut::<N>().0.iter_mut().zip(source) {
            *t = one(v);
        }
    });
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Converts `values` to `dtype` and back, from an unaligned buffer, and compares with
    /// `expected`.
    fn check(dtype: Dtype, values: &[f32], expected: &[f32]) {
        let tensor = HostTensor::from_f32(vec![values.len()], values.to_vec()).unwrap().cast(dtype).unwrap();
        let mut shifted = vec![0u8];
        shifted.extend_from_slice(tensor.bytes());
        let back = to_f32(dtype, &shifted[1..]).unwrap();
        assert_eq!(back.len(), expected.len());
        for (b, e) in back.iter().zip(expected) {
            assert_eq!(b.to_bits(), e.to_bits(), "{dtype}: {b} is not {e}");
        }
    }

    #[test]
    fn conversions_are_exact_and_round_to_even() {
        let values = [0.0, -0.0, 1.0, -2.5, f32::INFINITY, f32::NEG_INFINITY, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
        check(Dtype::F32, &values, &values);
        // bf16 has 7 fraction bits: 1 + 1/256 is a tie and goes to the even 1, 1 + 3/256 is a tie
        // and goes to 1 + 4/256.
        let rounded = [0.0, -0.0, 1.0, -2.5, f32::INFINITY, f32::NEG_INFINITY, 1.0, 1.0 + 4.0 / 256.0];
        check(Dtype::BF16, &values, &rounded);
        // f16 holds both; its largest value is 65504, its smallest subnormal 2^-24.
        check(Dtype::F16, &values, &values);
        let smallest = 2f32.powi(-24);
        check(Dtype::F16, &[65504.0, 1e6, smallest, smallest / 4.0], &[65504.0, f32::INFINITY, smallest, 0.0]);
    }

    #[test]
    fn parallel_and_serial_agree() {
        let values: Vec<f32> = (0..PARALLEL_FROM + 77).map(|i| (i as f32 - 7e4) * 0.37).collect();
        for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
            let bytes = from_f32(dtype, &values).unwrap();
            let size = dtype.bitsize() / 8;
            let whole = to_f32(dtype, &bytes).unwrap();
            let pieces: Vec<f32> = bytes.chunks(1000 * size).flat_map(|piece| to_f32(dtype, piece).unwrap()).collect();
            assert_eq!(whole, pieces);
        }
    }

    #[test]
    fn every_half_survives_the_round_trip() {
        for bits in 0..=u16::MAX {
            let wide = to_f32(Dtype::F16, &bits.to_le_bytes()).unwrap()[0];
            assert_eq!(wide.to_bits(), f16::from_bits(bits).to_f32().to_bits());
        }
    }

    #[test]
    fn f64_narrows_and_integers_are_refused() {
        assert_eq!(to_f32(Dtype::F64, &0.1f64.to_le_bytes()), Some(vec![0.1]));
        assert_eq!(to_f32(Dtype::I64, &[0; 8]), None);
        assert!(HostTensor::from_f32(vec![1], vec![1.0]).unwrap().cast(Dtype::I32).is_none());
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found() {
        for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
            for (length, at) in [(5, 0), (5, 4), (BLOCK + 3, BLOCK), (PARALLEL_FROM + 99, PARALLEL_FROM + 98)] {
                let mut values = vec![1.5f32; length];
                let found = |values: &[f32]| first_infinite(dtype, &from_f32(dtype, values).unwrap()).unwrap();
                assert_eq!(found(&values), None, "{dtype} {length}");
                values[at] = f32::NEG_INFINITY;
                values[length - 1] = if at == length - 1 { f32::NEG_INFINITY } else { f32::NAN };
                assert_eq!(found(&values), Some((at, f32::NEG_INFINITY)), "{dtype} {length}");
            }
        }
        let too_large: Vec<u8> = [1.0, 1e300].iter().flat_map(|v: &f64| v.to_le_bytes()).collect();
        assert_eq!(first_infinite(Dtype::F64, &too_large), Some(Some((1, f32::INFINITY))), "it is read as f32");
        assert_eq!(first_infinite(Dtype::I64, &[0; 8]), None);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(HostTensor::from_f32(vec![2, 3], vec![0.0; 5]).is_none());
        assert!(HostTensor::from_bytes(vec![2], Dtype::F16, vec![0; 5]).is_none());
        assert_eq!(byte_len(Dtype::F32, &[usize::MAX, 2]), None);
        assert_eq!(byte_len(Dtype::F4, &[3]), None);
        assert_eq!(byte_len(Dtype::F32, &[]), Some(4));
    }
}
