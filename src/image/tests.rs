//! Against Pillow 13 and transformers 5.23, bit for bit; the fixtures come from `tests/parity/gen/image.py`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/image")
}

fn expected() -> Value {
    let text = std::fs::read_to_string(fixtures().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn load(file: &Value) -> Rgb8 {
    decode(&fixtures().join(file.as_str().unwrap())).unwrap()
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn from_config(config: &Value) -> Result<ImageProcessor, ImageError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("preprocessor_config.json"), config.to_string()).unwrap();
    ImageProcessor::from_dir(dir.path())
}

#[test]
fn decodes_as_pillow() {
    let expected = expected();
    let cases = expected["decoded"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let image = load(&case["file"]);
        let (width, height) = (number(&case["width"]), number(&case["height"]));
        assert_eq!((image.width, image.height), (width, height), "{case}");
        assert_eq!(sha(&image.data), case["sha256"], "{case}");
        let header = probe(&fixtures().join(case["file"].as_str().unwrap())).unwrap();
        assert_eq!(header, (width as u32, height as u32), "{case}");
    }
}

#[test]
fn resizes_as_pillow() {
    let expected = expected();
    let cases = expected["resized"].as_array().unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let filter = if case["resample"] == 3 { Filter::Bicubic } else { Filter::Bilinear };
        let (height, width) = (number(&case["height"]), number(&case["width"]));
        let resized = resize(&load(&case["file"]), height, width, filter);
        assert_eq!((resized.height, resized.width), (height, width));
        assert_eq!(sha(&resized.data), case["sha256"], "{case}");
    }
}

#[test]
fn processes_as_transformers() {
    let expected = expected();
    let cases = expected["processed"].as_array().unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let config = &expected["configs"][case["config"].as_str().unwrap()];
        let processor = from_config(config).unwrap();
        let values = processor.preprocess(&load(&case["file"]));
        let (height, width) = processor.crop_size();
        assert_eq!(json!([3, height, width]), case["shape"], "{case}");
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(sha(&bytes), case["sha256"], "{case}");
        // What is written says the same.
        assert_eq!(from_config(&processor.to_json()).unwrap(), processor, "{case}");
    }
}

#[test]
fn large_images_are_the_same_on_several_threads() {
    let small = load(&"rgb_97x61.png".into());
    let large = resize(&small, 700, 900, Filter::Bicubic);
    let rows = resize(&large, 350, 450, Filter::Bicubic);
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(one.install(|| resize(&resize(&small, 700, 900, Filter::Bicubic), 350, 450, Filter::Bicubic)), rows);
}

#[test]
fn a_thin_picture_needs_no_large_square() {
    let thin = Rgb8::filled(1, 60_000, [10, 20, 30]);
    for aspect_ratio in [AspectRatio::Crop, AspectRatio::Pad] {
        let processor = ImageProcessor::clip(16).with_aspect_ratio(aspect_ratio);
        assert_eq!(processor.preprocess(&thin).len(), 3 * 16 * 16);
    }
}

#[test]
fn both_config_files_and_old_forms_are_read() {
    let clip = ImageProcessor::clip(336);
    let old = json!({
        "feature_extractor_type": "CLIPFeatureExtractor", "size": 336, "crop_size": 336, "do_resize": true,
        "do_center_crop": true, "do_normalize": true, "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    });
    assert_eq!(from_config(&old).unwrap(), clip);
    let dir = tempfile::tempdir().unwrap();
    let nested = json!({ "processor_class": "LlavaProcessor", "patch_size": 14, "image_processor": clip.to_json() });
    std::fs::write(dir.path().join("processor_config.json"), nested.to_string()).unwrap();
    std::fs::write(dir.path().join("preprocessor_config.json"), "{\"size\": 5}").unwrap();
    assert_eq!(ImageProcessor::from_dir(dir.path()).unwrap(), clip);
    let pad = json!({ "image_aspect_ratio": "pad" });
    assert_eq!(from_config(&pad).unwrap().aspect_ratio, AspectRatio::Pad);
    let square = json!({ "image_aspect_ratio": "square" });
    assert_eq!(from_config(&square).unwrap().aspect_ratio, AspectRatio::Crop);
}

#[test]
fn settings_that_are_not_implemented_are_refused_by_name() {
    let refused = |config: Value, names: &str| {
        let message = from_config(&config).unwrap_err().to_string();
        assert!(message.contains(names) && message.contains("preprocessor_config.json"), "{message}");
    };
    refused(json!({ "image_processor_type": "SiglipImageProcessor" }), "SiglipImageProcessor");
    refused(json!({ "resample": 1 }), "`resample`: 1");
    refused(json!({ "size": { "shortest_edge": 5, "longest_edge": 9 } }), "longest_edge");
    refused(json!({ "size": { "max_height": 5 } }), "`size`");
    refused(json!({ "size": 0 }), "`size`: 0");
    refused(json!({ "crop_size": { "height": 1e9, "width": 1 } }), "crop_size");
    refused(json!({ "do_center_crop": false }), "do_center_crop");
    refused(json!({ "do_resize": "yes" }), "do_resize");
    refused(json!({ "image_std": [0.5, 0.0, 0.5] }), "channel 1");
    refused(json!({ "image_mean": [0.5] }), "image_mean");
    refused(json!({ "image_grid_pinpoints": [[336, 672]] }), "image_grid_pinpoints");
    refused(json!({ "image_aspect_ratio": "anyres" }), "anyres");
    let empty = tempfile::tempdir().unwrap();
    let message = ImageProcessor::from_dir(empty.path()).unwrap_err().to_string();
    assert!(message.contains("preprocessor_config.json"), "{message}");
}

#[test]
fn damaged_files_are_refused_with_their_path() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: &[u8], says: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let message = decode(&path).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(says), "{message}");
    };
    let read = |name: &str| std::fs::read(fixtures().join(name)).unwrap();
    let (jpeg, progressive, png) = (read("420.jpg"), read("progressive.jpg"), read("rgb_64x64.png"));
    check("empty.png", &[], "empty");
    check("text.jpg", b"not a picture at all, but some text that is long enough", "not a PNG");
    check("cut.jpg", &jpeg[..jpeg.len() * 2 / 3], "cut short");
    check("header.jpg", &jpeg[..100], "ends early");
    check("scans.jpg", &progressive[..progressive.len() - 2], "cut short");
    check("cut.png", &png[..png.len() / 2], "cannot decode");
    let mut flipped = png.clone();
    flipped[png.len() / 2] ^= 0x55;
    check("flipped.png", &flipped, "cannot decode");
    let mut huge = jpeg.clone();
    let frame = huge.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    huge[frame + 5..frame + 9].fill(0xff);
    check("huge.jpg", &huge, "65535x65535");
    huge[frame + 5..frame + 9].copy_from_slice(&[0x20, 0, 0x20, 0]);
    check("bomb.jpg", &huge, "can hold");
    let missing = probe(&dir.path().join("missing.png")).unwrap_err().to_string();
    assert!(missing.contains("missing.png"), "{missing}");
}

/// A profile or a text that unpacks to more than the memory of a machine is never unpacked, and changes no pixel.
#[test]
fn compressed_extras_of_a_png_are_passed_over() {
    let png = std::fs::read(fixtures().join("rgb_64x64.png")).unwrap();
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, &vec![0; 32 << 20]).unwrap();
    let packed = packed.finish().unwrap();
    let chunk = |name: &[u8; 4], front: &[u8]| {
        let body = [name.as_slice(), front, &packed].concat();
        let mut sum = flate2::Crc::new();
        sum.update(&body);
        let length = (body.len() - 4) as u32;
        [&length.to_be_bytes()[..], &body, &sum.sum().to_be_bytes()].concat()
    };
    let good = decode_bytes(&png, Path::new("good.png")).unwrap();
    for (name, front) in [(b"iCCP", &b"x\0\0"[..]), (b"zTXt", b"x\0\0"), (b"iTXt", b"x\0\x01\0\0\0")] {
        // Behind the header, where the decoder would come upon it first.
        let bomb = [&png[..33], &chunk(name, front), &png[33..]].concat();
        assert_eq!(decode_bytes(&bomb, Path::new("bomb.png")).unwrap(), good);
        assert_eq!(without_extras(&bomb).len(), without_extras(&png).len());
    }
}

/// Where decoding would take more memory than the most pixels in RGB, whatever the file's size.
#[test]
fn what_is_too_large_once_decoded_is_refused_before() {
    // A canvas of 13000x13000 with transparency, in a GIF of a hundred bytes.
    let mut gif = b"GIF89a".to_vec();
    gif.extend([0xc8, 0x32, 0xc8, 0x32, 0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
    gif.extend([0x21, 0xf9, 4, 1, 0, 0, 0, 0, 0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0, 0x3b]);
    let error = decode_bytes(&gif, Path::new("bomb.gif")).unwrap_err().to_string();
    assert!(error.contains("bomb.gif") && error.contains("13000x13000") && error.contains("once decoded"), "{error}");
}

/// Whatever the bytes, an error and no panic.
#[test]
fn noise_in_a_jpeg_never_panics() {
    for name in ["420.jpg", "progressive.jpg", "restart.jpg", "cmyk.jpg"] {
        let good = std::fs::read(fixtures().join(name)).unwrap();
        let mut state = 12345u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize
        };
        for _ in 0..300 {
            let mut bad = good.clone();
            for _ in 0..1 + next() % 4 {
                let place = next() % bad.len();
                bad[place] = next() as u8;
            }
            let _ = decode_bytes(&bad, Path::new(name));
            let _ = probe_bytes(&bad);
        }
    }
}

fn probe_bytes(bytes: &[u8]) -> Result<(u32, u32), jpeg::JpegError> {
    jpeg::probe(&mut std::io::Cursor::new(bytes))
}
