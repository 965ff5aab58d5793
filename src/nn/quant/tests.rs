use super::*;
use crate::nn::quant::levels::DYNAMIC;

const NF4: QuantFormat = four_bit(Levels::Nf4, 64, false);

const fn four_bit(levels: Levels, block_size: usize, double: bool) -> QuantFormat {
    QuantFormat::FourBit { levels, block_size, double }
}

/// Numbers that look random and are the same everywhere.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1_u64 << 24) as f32) - 0.5
    };
    (0..count).map(|_| next() + next() + next()).collect()
}

#[test]
fn a_block_by_hand() {
    // The largest magnitude is 2: -1, 0, 0.5·2 and 1 in NF4 are the codes 0, 7, nearest to 0.5 (0.4407 or 0.5626), 15.
    let blocks = Blocks::quantize(&[-2.0, 0.0, 1.0, 2.0], [1, 4], NF4);
    assert_eq!(blocks.codes(), [0x07, 0xCF]);
    assert_eq!(blocks.scales(), &Scales::Plain(vec![2.0]));
    assert_eq!(blocks.dequantize(), [-2.0, 0.0, 2.0 * 0.440_709_83, 2.0]);
    let blocks = Blocks::quantize(&[-2.0, 0.0, 1.0, 2.0], [1, 4], four_bit(Levels::Fp4, 64, false));
    assert_eq!((blocks.codes(), blocks.dequantize()), (&[0xB0, 0x53][..], vec![-2.0, 0.0, 1.0, 2.0]));
}

#[test]
fn between_two_levels_the_lower_is_taken() {
    let bounds = Levels::Nf4.bounds();
    let mut values = bounds.to_vec();
    values.push(1.0);
    let blocks = Blocks::quantize(&values, [1, 16], four_bit(Levels::Nf4, 16, false));
    let codes: Vec<u8> = blocks.codes().iter().flat_map(|byte| [byte >> 4, byte & 15]).collect();
    assert_eq!(codes, (0..16).collect::<Vec<u8>>());
}

#[test]
fn int8_rounds_ties_to_even_in_half_precision() {
    let blocks = Blocks::quantize(&[127.0, 0.5, 1.5, -2.5, 0.0, 0.0, 0.0, 0.0], [2, 4], QuantFormat::Int8);
    let codes: Vec<i8> = blocks.codes().iter().map(|code| *code as i8).collect();
    assert_eq!(codes, [127, 0, 2, -2, 0, 0, 0, 0]);
    assert_eq!(blocks.scales(), &Scales::Plain(vec![127.0, 0.0]));
    assert!((blocks.element(0) - 127.0).abs() < 1e-4 && blocks.element(5) == 0.0);
}

#[test]
fn the_levels_of_scales_are_a_sorted_symmetric_table() {
    assert!(DYNAMIC.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!((DYNAMIC[127], DYNAMIC[255], DYNAMIC[0]), (0.0, 1.0, -DYNAMIC[254]));
    assert!((DYNAMIC[128] - 5.5e-7).abs() < 1e-12, "{}", DYNAMIC[128]);
}

#[test]
fn no_element_is_off_by_more_than_half_a_gap() {
    let values = noise(3 * 50);
    let most = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    // The widest gaps between neighbours, as shares of the largest magnitude; double quantization moves the scale a little.
    for (format, gap) in [
        (NF4, 0.31),
        (four_bit(Levels::Fp4, 64, false), 0.34),
        (four_bit(Levels::Nf4, 32, true), 0.4),
        (QuantFormat::Int8, 0.01),
    ] {
        let blocks = Blocks::quantize(&values, [3, 50], format);
        let worst = blocks.dequantize().iter().zip(&values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= gap / 2.0 * most, "{format}: {worst}");
        assert_eq!(blocks.bytes_held(), format.bytes_held([3, 50]), "{format}");
    }
}

#[test]
fn zeros_and_parts_of_blocks_stay_what_they_are() {
    for format in [NF4, four_bit(Levels::Fp4, 64, true), QuantFormat::Int8] {
        assert_eq!(Blocks::quantize(&[0.0; 15], [3, 5], format).dequantize(), [0.0; 15], "{format}");
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let error = Blocks::new(NF4, [2, 64], Arc::new(vec![0; 63]), Scales::Plain(vec![1.0; 2])).unwrap_err().to_string();
    assert!(error.contains("codes has 63 elements, but a weight 2 × 64 in nf4 in blocks of 64 has 64"), "{error}");
    let error = Blocks::new(NF4, [2, 64], Arc::new(vec![0; 64]), Scales::Plain(vec![1.0; 3])).unwrap_err().to_string();
    assert!(error.contains("scales has 3 elements"), "{error}");
}

#[cfg(feature = "cpu")]
#[test]
fn the_composition_and_the_kernel_agree_to_the_bit() {
    let device = Device::flex();
    for (format, shape) in [
        (NF4, [6, 192]),
        (NF4, [5, 37]),
        (four_bit(Levels::Fp4, 32, false), [7, 33]),
        (four_bit(Levels::Nf4, 64, true), [300, 80]),
        (QuantFormat::Int8, [6, 67]),
    ] {
        let blocks = Blocks::quantize(&noise(shape[0] * shape[1]), shape, format);
        let expected = blocks.dequantize();
        let composed: Vec<f32> = DeviceBlocks::new(&blocks, &device).dense().into_data().try_to_vec().unwrap();
        assert_eq!(composed, expected, "{format} {shape:?}");
        let x = Tensor::<2>::from_data(
            burn::tensor::TensorData::new(noise(4 * shape[1]), [4, shape[1]]),
            &device.clone().autodiff(),
        );
        let kernel = crate::nn::Weight::Quantized(Quantized::on(blocks.clone(), &device));
        let products: [&dyn Fn(Tensor<2>) -> Tensor<2>; 2] =
            [&|x| DeviceBlocks::new(&blocks, &device).matmul(x), &|x| kernel.linear(x, None)];
        let [(y, dx), (expected_y, expected_dx)] = products.map(|product| {
            let x = x.clone().require_grad();
            let y = product(x.clone());
            let gradients = y.clone().square().sum().backward();
            let host = |tensor: Tensor<2>| -> Vec<f32> { tensor.into_data().try_to_vec().unwrap() };
            (host(y), host(x.grad(&gradients).unwrap()))
        });
        for (found, expected) in y.iter().chain(&dx).zip(expected_y.iter().chain(&expected_dx)) {
            // Sums of a few hundred products of size one, in another order.
            assert!((found - expected).abs() <= 1e-4 * expected.abs().max(10.0), "{found} instead of {expected}");
        }
        let kernel: Vec<f32> = Quantized::on(blocks, &device).dense().into_data().try_to_vec().unwrap();
        assert_eq!(kernel, expected, "{format} {shape:?}");
    }
}
