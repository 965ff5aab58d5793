//! AdamW whose moments are held in 8 bits: block by block, each block with a scale of its own.

// n elements, c blocks, e elements of a block
use super::AdamWStep;
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::sync::LazyLock;

/// Elements that share a scale.
pub const BLOCK: usize = 256;

/// Parameters with fewer elements keep their moments in f32, as in bitsandbytes.
pub const MIN_8BIT_ELEMENTS: usize = 4096;

/// The 256 values that a code stands for, in ascending order, as parts of a block's scale.
///
/// # Source
/// The dynamic tree quantization of Dettmers 2015, as `bitsandbytes.functional.create_dynamic_map` has it: seven decades
/// down from 1, the lower a decade the fewer values it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeMap {
    /// From -1 to 1: first moments.
    Signed,
    /// From 0 to 1, twice as fine: second moments.
    Unsigned,
}

/// A map and what finds the nearest of its values.
pub(super) struct CodeTable {
    pub(super) values: [f32; 256],
    /// `middles[i]` lies between the values `i` and `i + 1`; the last one is infinite.
    pub(super) middles: [f32; 256],
    /// For each cell of numbers that share sign, exponent and the first bits of the fraction, how many middles lie below
    /// it. A cell has at most one inside.
    cells: Vec<u8>,
}

/// Bits of the fraction that tell cells apart.
const CELL_BITS: u32 = 7;
/// All numbers below `2^-23` of the scale are one cell: the lowest middle lies above.
const LOWEST_CELL: u32 = (127 - 23) << CELL_BITS;
/// The cell of 1 itself is the last one.
const CELLS: usize = (23 << CELL_BITS) + 1;

impl CodeMap {
    pub(super) fn table(self) -> &'static CodeTable {
        static SIGNED: LazyLock<CodeTable> = LazyLock::new(|| CodeTable::new(CodeMap::Signed));
        static UNSIGNED: LazyLock<CodeTable> = LazyLock::new(|| CodeTable::new(CodeMap::Unsigned));
        match self {
            Self::Signed => &SIGNED,
            Self::Unsigned => &UNSIGNED,
        }
    }

    /// The 256 values.
    pub fn values(self) -> &'static [f32; 256] {
        &self.table().values
    }

    fn build(self) -> [f32; 256] {
        let mut values = vec![0.0, 1.0];
        for decade in 0..7 {
            let intervals = match self {
                Self::Signed => 1usize << decade,
                Self::Unsigned => 2usize << decade,
            };
            let step = (1.0 - 0.1f32) / intervals as f32;
            // As torch.linspace: from both ends to the middle, with one rounding.
            let bound = |i: usize| {
                if i < intervals.div_ceil(2) {
                    step.mul_add(i as f32, 0.1)
                } else {
                    (-step).mul_add((intervals - i) as f32, 1.0)
                }
            };
            let power = 10f64.powi(decade - 6) as f32;
            for i in 0..intervals {
                let value = power * ((bound(i) + bound(i + 1)) / 2.0);
                values.push(value);
                if self == Self::Signed {
                    values.push(-value);
                }
            }
        }
        values.sort_by(f32::total_cmp);
        let mut all = [0.0; 256];
        all.copy_from_slice(&values);
        all
    }
}

impl CodeTable {
    fn new(map: CodeMap) -> Self {
        let values = map.build();
        let middles: [f32; 256] =
            std::array::from_fn(|i| if i < 255 { (values[i] + values[i + 1]) / 2.0 } else { f32::INFINITY });
        let low =
            |cell: usize| if cell == 0 { 0.0 } else { f32::from_bits((LOWEST_CELL + cell as u32) << (23 - CELL_BITS)) };
        let positive = (0..CELLS).map(|cell| middles.iter().filter(|m| **m < low(cell)).count() as u8);
        // Of a negative cell the far end is the low one, which the cell does not hold.
        let negative = (0..CELLS).map(|cell| middles.iter().filter(|m| **m <= -low(cell + 1)).count() as u8);
        Self { values, middles, cells: positive.chain(negative).collect() }
    }

    /// The code of the value nearest to `x`, which lies in `-1..=1`; the lower one between two.
    #[inline(always)]
    pub(super) fn nearest(&self, x: f32) -> u8 {
        let bits = x.to_bits();
        let cell = ((bits & 0x7FFF_FFFF) >> (23 - CELL_BITS)).saturating_sub(LOWEST_CELL).min(CELLS as u32 - 1);
        let code = self.cells[cell as usize + CELLS * (bits >> 31) as usize];
        code + u8::from(x > self.middles[usize::from(code)])
    }
}

/// One moment of one parameter: a code for each element and a scale for each block of [`BLOCK`].
#[expect(clippy::large_enum_variant, reason = "one for each parameter: a box would save nothing")]
#[derive(Clone, Debug)]
pub enum Moment8 {
    /// In host memory: where the CPU computes, and where moments wait for a GPU to want them.
    Host {
        /// One per element.
        codes: Vec<u8>,
        /// The largest magnitude of each block.
        scales: Vec<f32>,
    },
    /// On the device that computes.
    Device {
        /// Four codes in each number, the first one lowest; the last block is filled up.
        packed: Tensor<1, Int>,
        /// The largest magnitude of each block.
        scales: Tensor<1>,
    },
}

/// A parameter with its two moments.
#[derive(Clone, Debug)]
pub struct AdamW8Tensors {
    /// The parameter, flat.
    pub param: Tensor<1>,
    /// The first moment.
    pub m: Moment8,
    /// The second moment.
    pub v: Moment8,
}

impl Moment8 {
    /// A moment of zeros for `length` elements.
    pub fn zeros(length: usize, map: CodeMap) -> Self {
        let zero = map.table().nearest(0.0);
        Self::Host { codes: vec![zero; length], scales: vec![0.0; length.div_ceil(BLOCK)] }
    }

    /// In host memory.
    pub fn into_host(self, length: usize) -> Self {
        let Self::Device { packed, scales } = self else { return self };
        let packed = packed.into_data();
        let codes = packed.iter::<i64>().flat_map(|four| (four as u32).to_le_bytes()).take(length).collect();
        Self::Host { codes, scales: scales.into_data().iter::<f32>().collect() }
    }

    fn into_device(self, device: &Device) -> Self {
        let Self::Host { mut codes, scales } = self else { return self };
        codes.resize(scales.len() * BLOCK, 0);
        let packed: Vec<i32> = codes.as_chunks::<4>().0.iter().map(|four| i32::from_le_bytes(*four)).collect();
        let (length, blocks) = (packed.len(), scales.len());
        Self::Device {
            packed: Tensor::from_data(TensorData::new(packed, [length]), device),
            scales: Tensor::from_data(TensorData::new(scales, [blocks]), device),
        }
    }
}

/// One step with torch's arithmetic between a moment's reading and its rounding; in place on the CPU where the parameter
/// has no other owner.
///
/// # Shapes
/// All flat and of one length; plain tensors, f32.
/// # Source
/// `bitsandbytes.optim.AdamW8bit` 0.50, checked against it: the codes are equal.
pub fn adamw_8bit_step(tensors: AdamW8Tensors, grad: Tensor<1>, u: AdamWStep) -> AdamW8Tensors {
    #[cfg(feature = "cpu")]
    if super::fused(&tensors.param) {
        return super::flex::adamw_8bit_step(tensors, grad, u);
    }
    composed(tensors, grad, u)
}

fn composed(tensors: AdamW8Tensors, grad: Tensor<1>, u: AdamWStep) -> AdamW8Tensors {
    let AdamW8Tensors { param, m, v } = tensors;
    let (device, length) = (param.device(), param.dims()[0]);
    let (signed, unsigned) = (Codes::new(CodeMap::Signed, &device), Codes::new(CodeMap::Unsigned, &device));
    let (m, v) = (signed.read(m.into_device(&device), length), unsigned.read(v.into_device(&device), length));
    let grad = if u.grad_scale == 1.0 { grad } else { grad * u.grad_scale };
    let m = m * u.beta1 + grad.clone() * (1.0 - u.beta1);
    let v = v * u.beta2 + grad.square() * (1.0 - u.beta2);
    let denominator = v.clone().sqrt() / u.bias_correction2.sqrt() + u.eps;
    let param = param * (1.0 - u.lr * u.weight_decay);
    let param = param - m.clone() / denominator * (u.lr / u.bias_correction1);
    AdamW8Tensors { param, m: signed.write(m), v: unsigned.write(v) }
}

/// A map on a device.
struct Codes {
    values: Tensor<1>,
    middles: Tensor<1>,
}

impl Codes {
    fn new(map: CodeMap, device: &Device) -> Self {
        let table = map.table();
        let upload = |values: &[f32]| Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device);
        Self { values: upload(&table.values), middles: upload(&table.middles[..255]) }
    }

    fn read(&self, moment: Moment8, length: usize) -> Tensor<1> {
        let Moment8::Device { packed, scales } = moment else { unreachable!("it was uploaded") };
        let ([fours], [blocks]) = (packed.dims(), scales.dims());
        let byte = |index: i64| packed.clone().bitwise_right_shift_scalar((8 * index) as i32).bitwise_and_scalar(255);
        let codes: Tensor<2, Int> = Tensor::stack((0..4).map(byte).collect(), 1);
        let values_ce = self.values.clone().select(0, codes.reshape([4 * fours])).reshape([blocks, BLOCK]);
        (values_ce * scales.reshape([blocks, 1])).reshape([blocks * BLOCK]).narrow(0, 0, length)
    }

    fn write(&self, values_n: Tensor<1>) -> Moment8 {
        let (length, device) = (values_n.dims()[0], values_n.device());
        let blocks = length.div_ceil(BLOCK);
        let filled = match blocks * BLOCK - length {
            0 => values_n,
            more => Tensor::cat(vec![values_n, Tensor::zeros([more], &device)], 0),
        };
        let values_ce = filled.reshape([blocks, BLOCK]);
        let scales_c1 = values_ce.clone().abs().max_dim(1);
        let scaled = values_ce / scales_c1.clone().clamp_min(f32::MIN_POSITIVE);
        let scaled: Tensor<1> = scaled.reshape([blocks * BLOCK]);
        // How many middles lie below, found bit by bit.
        let mut codes = Tensor::<1, Int>::zeros([blocks * BLOCK], &device);
        for bit in (0..8).rev().map(|bit| 1i64 << bit) {
            let middle = self.middles.clone().select(0, codes.clone() + (bit - 1));
            codes = codes + scaled.clone().greater(middle).int() * bit;
        }
        let codes: Tensor<2, Int> = codes.reshape([blocks * BLOCK / 4, 4]);
        let byte = |index: usize| {
            let one: Tensor<1, Int> = codes.clone().narrow(1, index, 1).reshape([blocks * BLOCK / 4]);
            one.bitwise_left_shift_scalar((8 * index) as i32)
        };
        let packed = (1..4).fold(byte(0), |packed, index| packed.bitwise_or(byte(index)));
        Moment8::Device { packed, scales: scales_c1.reshape([blocks]) }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use serde_json::Value;

    fn reference() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/optimizer/adam_8bit.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn bytes(reference: &Value, key: &str) -> Vec<u8> {
        let hex = reference[key].as_str().unwrap();
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    fn floats(reference: &Value, key: &str) -> Vec<f32> {
        bytes(reference, key).as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
    }

    /// The generator's formula.
    fn values(elements: u64, salt: u64) -> Vec<f32> {
        let scales = [1.0, 0.5, 0.1, 0.05, 0.01, 0.003, 0.001];
        let value = |i: u64| {
            let hashed = (i * 2_654_435_761 + salt * 40_503) & 0xFFFF_FFFF;
            let hashed = ((hashed ^ (hashed >> 15)) * 2_246_822_519) & 0xFFFF_FFFF;
            ((hashed as f64 / 4_294_967_296.0 - 0.5) * scales[(i % 7) as usize]) as f32
        };
        (0..elements).map(value).collect()
    }

    #[test]
    fn the_maps_are_those_of_the_reference_to_the_bit() {
        let reference = reference();
        for (map, key) in [(CodeMap::Signed, "signed_map"), (CodeMap::Unsigned, "unsigned_map")] {
            let expected = floats(&reference, key);
            let found = map.values().iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!((found.count(), expected.len()), (0, 256), "{key}");
        }
    }

    #[test]
    fn the_nearest_value_is_found_everywhere() {
        for map in [CodeMap::Signed, CodeMap::Unsigned] {
            let table = map.table();
            let around = |x: f32| [x.next_down(), x, x.next_up()];
            let edges = table.values.iter().chain(&table.middles[..255]).flat_map(|x| around(*x));
            let spread = (0..200_000u32).map(|i| f32::from_bits(i * 5_333));
            for x in edges.chain(spread).flat_map(|x| [x, -x]).filter(|x| x.abs() <= 1.0) {
                let expected = table.middles.iter().filter(|middle| **middle < x).count();
                assert_eq!(usize::from(table.nearest(x)), expected, "{map:?} {x:e}");
            }
        }
    }

    /// Rounding of the weights and of the blocks' scales: the reference's sums are fused in places.
    const ROUNDING: f32 = 3e-7;

    fn check(step: impl Fn(AdamW8Tensors, Tensor<1>, AdamWStep) -> AdamW8Tensors) {
        let reference = reference();
        let number = |key: &str| reference[key].as_f64().unwrap();
        let (elements, device) = (reference["elements"].as_u64().unwrap(), Device::flex());
        let length = elements as usize;
        let upload = |salt| Tensor::<1>::from_data(TensorData::new(values(elements, salt), [length]), &device);
        let mut tensors = AdamW8Tensors {
            param: upload(0),
            m: Moment8::zeros(length, CodeMap::Signed),
            v: Moment8::zeros(length, CodeMap::Unsigned),
        };
        for number_of_step in 1..=reference["steps"].as_u64().unwrap() {
            let update = AdamWStep {
                lr: number("lr"),
                beta1: number("beta1"),
                beta2: number("beta2"),
                eps: number("eps"),
                weight_decay: number("weight_decay"),
                bias_correction1: 1.0 - number("beta1").powi(number_of_step as i32),
                bias_correction2: 1.0 - number("beta2").powi(number_of_step as i32),
                grad_scale: 1.0,
            };
            tensors = step(tensors, upload(number_of_step), update);
        }
        for (moment, name) in [(tensors.m, "first"), (tensors.v, "second")] {
            let Moment8::Host { codes, scales } = moment.into_host(length) else { unreachable!() };
            let expected = bytes(&reference, &format!("{name}_codes"));
            assert_eq!(codes.iter().zip(&expected).filter(|(a, b)| a != b).count(), 0, "{name}");
            assert_eq!(codes.len(), expected.len());
            for (a, b) in scales.iter().zip(floats(&reference, &format!("{name}_scales"))) {
                assert!((a / b - 1.0).abs() < ROUNDING, "{name} {a} {b}");
            }
        }
        let weights: Vec<f32> = tensors.param.into_data().try_to_vec().unwrap();
        for (a, b) in weights.iter().zip(floats(&reference, "first_weights")) {
            assert!((a - b).abs() < ROUNDING, "{a} {b}");
        }
    }

    #[test]
    fn five_steps_give_the_references_codes() {
        check(adamw_8bit_step);
    }

    #[test]
    fn composed_of_tensor_operations_too() {
        check(composed);
    }

    #[test]
    fn codes_survive_the_way_to_a_device_and_back() {
        let codes: Vec<u8> = (0..700).map(|i| (i * 37 % 256) as u8).collect();
        let moment = Moment8::Host { codes: codes.clone(), scales: vec![1.0, 2.0, 3.0] };
        let Moment8::Host { codes: back, scales } = moment.into_device(&Device::flex()).into_host(700) else {
            unreachable!()
        };
        assert_eq!((back, scales), (codes, vec![1.0, 2.0, 3.0]));
    }
}
