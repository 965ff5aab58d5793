//! Files to RGB bytes, as `PIL.Image.open(path).convert("RGB")` gives them.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{ImageError, Rgb8, jpeg, png};

/// Pillow refuses more pixels than this as a decompression bomb, and so does this module.
const MAX_PIXELS: u64 = 178_956_970;
/// Longest accepted side, the most that JPEG can express.
const MAX_SIDE: u32 = 65_535;
/// Most pixels that a byte of PNG can hold: deflate yields at most 1032 bytes per byte, eight 1-bit pixels each.
const PNG_PIXELS_PER_BYTE: u64 = 1032 * 8;
/// Most pixels that a byte of JPEG can hold: one bit per 8×8 block.
const JPEG_PIXELS_PER_BYTE: u64 = 8 * 64;
/// Most bytes that a picture may have before it is converted: as many as the most pixels have in RGB.
const MAX_DECODED: u64 = 3 * MAX_PIXELS;
/// Longest file that is read.
const MAX_FILE: u64 = 1 << 30;
/// Size of the headers that the two rules above leave out of account.
const HEADER_BYTES: u64 = 1024;
/// Bytes that tell every format from the others.
const SIGNATURE_BYTES: usize = 32;

/// `(width, height)` from the header alone, without decoding.
///
/// # Errors
/// [`ImageError`] where the file cannot be read, is no image, or announces more pixels than are accepted.
pub fn probe(path: &Path) -> Result<(u32, u32), ImageError> {
    let read = |source| ImageError::Read { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(read)?;
    let length = file.metadata().map_err(read)?.len();
    let mut reader = BufReader::new(file);
    let start = reader.fill_buf().map_err(read)?;
    let format = sniff(path, &start[..start.len().min(SIGNATURE_BYTES)])?;
    dimensions(path, &mut reader, format, length)
}

/// As [`probe`], of a file's bytes; `path` is what errors call it.
///
/// # Errors
/// [`ImageError`] where the bytes are no image, or announce more pixels than are accepted.
pub fn probe_bytes(bytes: &[u8], path: &Path) -> Result<(u32, u32), ImageError> {
    let format = sniff(path, &bytes[..bytes.len().min(SIGNATURE_BYTES)])?;
    dimensions(path, &mut Cursor::new(bytes), format, bytes.len() as u64)
}

/// The picture in a file. EXIF orientation is not applied, as Pillow's `open` does not; transparency is dropped.
///
/// # Errors
/// [`ImageError`] with the path and the reason.
pub fn decode(path: &Path) -> Result<Rgb8, ImageError> {
    let read = |source| ImageError::Read { path: path.to_path_buf(), source };
    let length = std::fs::metadata(path).map_err(read)?.len();
    if length > MAX_FILE {
        return Err(ImageError::decode(
            path,
            format!("the file has {length} bytes, more than {MAX_FILE}; scale it down"),
        ));
    }
    decode_bytes(&std::fs::read(path).map_err(read)?, path)
}

/// The picture in `bytes`; `path` is what errors call it.
///
/// # Errors
/// [`ImageError`] with the path and the reason.
pub fn decode_bytes(bytes: &[u8], path: &Path) -> Result<Rgb8, ImageError> {
    probe_bytes(bytes, path)?;
    let format = sniff(path, &bytes[..bytes.len().min(SIGNATURE_BYTES)])?;
    if format == ImageFormat::Jpeg {
        return jpeg::decode(bytes).map_err(|error| ImageError::decode(path, error));
    }
    let bytes = without_extras(bytes);
    let failed = |error| ImageError::decode(path, error);
    let mut decoder = ImageReader::with_format(Cursor::new(&bytes), format).into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    if decoder.total_bytes() > MAX_DECODED {
        let why =
            format!("{} bytes once decoded, more than {MAX_DECODED}; scale the picture down", decoder.total_bytes());
        return Err(ImageError::TooLarge { path: path.to_path_buf(), width, height, why });
    }
    // What a decoder takes besides, for frames and tables.
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED);
    decoder.set_limits(limits).map_err(failed)?;
    let image = DynamicImage::from_decoder(decoder).map_err(failed)?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    Ok(Rgb8 { width, height, data: to_rgb(image) })
}

/// The bytes of a picture without what pixels do not depend on and decoders unpack all the same: the compressed colour profiles and
/// texts of PNG. Other formats have none.
pub fn without_extras(bytes: &[u8]) -> Cow<'_, [u8]> {
    match image::guess_format(bytes) {
        Ok(ImageFormat::Png) => png::core(bytes).into(),
        _ => bytes.into(),
    }
}

fn sniff(path: &Path, start: &[u8]) -> Result<ImageFormat, ImageError> {
    if start.is_empty() {
        return Err(ImageError::decode(path, "the file is empty"));
    }
    match image::guess_format(start) {
        Ok(format) if format.reading_enabled() => Ok(format),
        Ok(format) => Err(ImageError::decode(path, format!("{format:?} is not read; convert it to PNG or JPEG"))),
        Err(_) => Err(ImageError::decode(path, "not a PNG, JPEG, WebP, BMP or GIF file by its first bytes")),
    }
}

fn dimensions<R: BufRead + Read + Seek>(
    path: &Path,
    reader: &mut R,
    format: ImageFormat,
    length: u64,
) -> Result<(u32, u32), ImageError> {
    let (width, height) = match format {
        ImageFormat::Jpeg => jpeg::probe(reader).map_err(|error| ImageError::decode(path, error))?,
        ImageFormat::Png => png::probe(reader).map_err(|error| ImageError::decode(path, error))?,
        _ => ImageReader::with_format(reader, format)
            .into_decoder()
            .map_err(|error| ImageError::decode(path, error))?
            .dimensions(),
    };
    if width == 0 || height == 0 {
        return Err(ImageError::decode(path, format!("the picture is empty, {width}x{height} pixels")));
    }
    let pixels = u64::from(width) * u64::from(height);
    let too_large = |why| ImageError::TooLarge { path: path.to_path_buf(), width, height, why };
    if pixels > MAX_PIXELS || width.max(height) > MAX_SIDE {
        return Err(too_large(format!("more than {MAX_PIXELS} or a side beyond {MAX_SIDE}; scale the picture down")));
    }
    let densest = match format {
        ImageFormat::Png => PNG_PIXELS_PER_BYTE,
        ImageFormat::Jpeg => JPEG_PIXELS_PER_BYTE,
        _ => return Ok((width, height)),
    };
    if pixels > (length + HEADER_BYTES).saturating_mul(densest) {
        return Err(too_large(format!("more than a file of {length} bytes can hold; it is damaged or cut short")));
    }
    Ok((width, height))
}

/// Pillow's conversion to RGB. Where the picture has 16 bits, the `image` crate would round to 8; Pillow keeps the high byte
/// of colours and clips greys.
fn to_rgb(image: DynamicImage) -> Vec<u8> {
    let high = |sample: u16| (sample >> 8) as u8;
    match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageLuma8(image) => image.into_raw().into_iter().flat_map(|grey| [grey; 3]).collect(),
        DynamicImage::ImageLumaA8(image) => image.as_raw().chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        DynamicImage::ImageRgba8(image) => image.as_raw().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        DynamicImage::ImageLuma16(image) => {
            image.into_raw().into_iter().flat_map(|grey| [grey.min(255) as u8; 3]).collect()
        }
        DynamicImage::ImageLumaA16(image) => image.as_raw().chunks_exact(2).flat_map(|p| [high(p[0]); 3]).collect(),
        DynamicImage::ImageRgb16(image) => image.into_raw().into_iter().map(high).collect(),
        DynamicImage::ImageRgba16(image) => {
            image.as_raw().chunks_exact(4).flat_map(|p| [high(p[0]), high(p[1]), high(p[2])]).collect()
        }
        other => other.into_rgb8().into_raw(),
    }
}
