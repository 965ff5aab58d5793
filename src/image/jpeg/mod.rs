//! JPEG, bit for bit as libjpeg-turbo decodes it with its defaults (which are Pillow's).
//!
//! The decoders of the ecosystem differ from libjpeg-turbo by up to 4 levels, and on a quarter of the pixels of a 4:2:0
//! photograph: another inverse DCT, another interpolation of chroma. The arithmetic here is its `islow` DCT, its "fancy"
//! upsampling and its fixed-point colour conversion.
//!
//! Sequential and progressive Huffman streams of 8-bit samples are read; arithmetic coding, lossless and 12-bit streams are
//! refused by name. Files that end early or carry impossible codes are refused, where libjpeg would fill with grey.
//! Source: ITU-T T.81 for the format; jidctint.c, jdsample.c, jdcolor.c of libjpeg-turbo for the arithmetic.

mod huffman;
mod pixels;
mod scan;

use std::io::{Read, Seek, SeekFrom};

use huffman::{BitReader, Table};
use scan::{Scan, ScanComponent};

use super::Rgb8;

/// What is wrong with a JPEG stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JpegError {
    #[error("the JPEG stream ends early; the file is cut short")]
    Truncated,
    #[error("the JPEG stream is damaged: {0}")]
    Corrupt(&'static str),
    #[error("{0} is not read; save the picture as an ordinary JPEG or as PNG")]
    Unsupported(&'static str),
}

use JpegError::{Corrupt, Truncated, Unsupported};

/// Position in a block of the n-th coefficient of the stream.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

mod marker {
    pub const SOI: u8 = 0xd8;
    pub const EOI: u8 = 0xd9;
    pub const SOS: u8 = 0xda;
    pub const DHT: u8 = 0xc4;
    pub const DQT: u8 = 0xdb;
    pub const DRI: u8 = 0xdd;
    pub const JFIF: u8 = 0xe0;
    pub const ADOBE: u8 = 0xee;
    pub const SEQUENTIAL: [u8; 2] = [0xc0, 0xc1];
    pub const PROGRESSIVE: u8 = 0xc2;

    /// Any frame header: 0xc0 to 0xcf but for the three codes in between that are tables.
    pub fn is_frame(code: u8) -> bool {
        matches!(code, 0xc0..=0xcf) && !matches!(code, 0xc4 | 0xc8 | 0xcc)
    }

    /// Codes without a length and a body.
    pub fn is_bare(code: u8) -> bool {
        matches!(code, 0x01 | 0xd0..=0xd7)
    }
}

/// One colour component and its coefficients.
struct Component {
    id: u8,
    /// Sampling factors, 1 to 4.
    h: usize,
    v: usize,
    quant_index: usize,
    /// Quantization steps in natural order, as they stood at the component's first scan.
    quant: Option<[u16; 64]>,
    /// Blocks that hold pixels.
    blocks: (usize, usize),
    /// Blocks per row of `coefficients`, padded to whole interleaved units.
    stride: usize,
    /// `[block row, block column, 64]`, natural order.
    coefficients: Vec<i16>,
}

/// The frame header.
struct Frame {
    progressive: bool,
    width: usize,
    height: usize,
    h_max: usize,
    v_max: usize,
    components: Vec<Component>,
}

/// What the samples of the components mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Colours {
    Grey,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

/// `(width, height)` from the frame header.
pub(crate) fn probe(reader: &mut (impl Read + Seek)) -> Result<(u32, u32), JpegError> {
    let mut next = || byte(reader);
    if (next()?, next()?) != (0xff, marker::SOI) {
        return Err(Corrupt("no start marker"));
    }
    loop {
        let mut next = || byte(reader);
        while next()? != 0xff {}
        let mut code = next()?;
        while code == 0xff {
            code = next()?;
        }
        if code == 0 || marker::is_bare(code) {
            continue;
        }
        if code == marker::EOI || code == marker::SOS {
            return Err(Corrupt("no frame header before the picture's data"));
        }
        let length = u16::from_be_bytes([next()?, next()?]);
        let body = length.checked_sub(2).ok_or(Corrupt("a segment shorter than its own length field"))?;
        if marker::is_frame(code) {
            let mut frame = [0; 5];
            reader.read_exact(&mut frame).map_err(|_| Truncated)?;
            let [_, h0, h1, w0, w1] = frame;
            return Ok((u16::from_be_bytes([w0, w1]).into(), u16::from_be_bytes([h0, h1]).into()));
        }
        reader.seek(SeekFrom::Current(body.into())).map_err(|_| Truncated)?;
    }
}

fn byte(reader: &mut impl Read) -> Result<u8, JpegError> {
    let mut one = [0];
    reader.read_exact(&mut one).map_err(|_| Truncated)?;
    Ok(one[0])
}

/// The whole picture as RGB.
pub(crate) fn decode(bytes: &[u8]) -> Result<Rgb8, JpegError> {
    let mut decoder = Decoder::new(bytes);
    decoder.read()?;
    let colours = decoder.colours()?;
    let frame = decoder.frame.take().ok_or(Corrupt("no frame header"))?;
    pixels::render(frame, colours)
}

/// State of the stream between its segments.
struct Decoder<'a> {
    data: &'a [u8],
    position: usize,
    quant: [Option<[u16; 64]>; 4],
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    restart_interval: usize,
    jfif: bool,
    /// Colour transform named by Adobe's segment.
    adobe: Option<u8>,
    frame: Option<Frame>,
}

impl<'a> Decoder<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            position: 0,
            quant: [None; 4],
            dc: [const { None }; 4],
            ac: [const { None }; 4],
            restart_interval: 0,
            jfif: false,
            adobe: None,
            frame: None,
        }
    }

    /// All segments up to the end marker.
    fn read(&mut self) -> Result<(), JpegError> {
        loop {
            let code = match self.next_marker() {
                Ok(code) => code,
                // Sequential files whose data is whole are shown without an end marker; a progressive file may lack scans.
                Err(Truncated) if self.is_complete() => return Ok(()),
                Err(error) => return Err(error),
            };
            if code == marker::EOI {
                return if self.has_all_scans() { Ok(()) } else { Err(Corrupt("a colour component has no data")) };
            }
            if code == marker::SOI || marker::is_bare(code) {
                continue;
            }
            let body = self.segment()?;
            match code {
                marker::DQT => self.quantization(body)?,
                marker::DHT => self.huffman(body)?,
                marker::DRI => self.restart_interval = be16(body, 0)?,
                marker::JFIF => self.jfif |= body.starts_with(b"JFIF\0"),
                marker::ADOBE if body.starts_with(b"Adobe") && body.len() >= 12 => self.adobe = Some(body[11]),
                marker::SOS => self.scan(body)?,
                code if marker::SEQUENTIAL.contains(&code) => self.frame(body, false)?,
                marker::PROGRESSIVE => self.frame(body, true)?,
                0xc3 | 0xc7 | 0xcb | 0xcf => return Err(Unsupported("lossless JPEG")),
                0xc9 | 0xca | 0xcd | 0xce => return Err(Unsupported("arithmetic coding in JPEG")),
                0xc5 | 0xc6 => return Err(Unsupported("hierarchical JPEG")),
                _ => {}
            }
        }
    }

    fn has_all_scans(&self) -> bool {
        self.frame.as_ref().is_some_and(|frame| frame.components.iter().all(|c| c.quant.is_some()))
    }

    fn is_complete(&self) -> bool {
        self.has_all_scans() && self.frame.as_ref().is_some_and(|frame| !frame.progressive)
    }

    fn next_marker(&mut self) -> Result<u8, JpegError> {
        loop {
            while *self.data.get(self.position).ok_or(Truncated)? != 0xff {
                self.position += 1;
            }
            while *self.data.get(self.position).ok_or(Truncated)? == 0xff {
                self.position += 1;
            }
            let code = self.data[self.position];
            self.position += 1;
            if code != 0 {
                return Ok(code);
            }
        }
    }

    /// The body of the segment at the current position.
    fn segment(&mut self) -> Result<&'a [u8], JpegError> {
        let length = be16(self.data, self.position)?;
        let body = self.data.get(self.position + 2..self.position + length.max(2)).ok_or(Truncated)?;
        self.position += length.max(2);
        Ok(body)
    }

    fn quantization(&mut self, mut body: &[u8]) -> Result<(), JpegError> {
        while let Some((&head, rest)) = body.split_first() {
            let (wide, index) = (head >> 4 != 0, usize::from(head & 15));
            let size = if wide { 128 } else { 64 };
            let values = rest.get(..size).ok_or(Corrupt("a short quantization table"))?;
            let mut table = [0; 64];
            for (i, &place) in ZIGZAG.iter().enumerate() {
                table[usize::from(place)] = if wide { be16(values, 2 * i)? as u16 } else { values[i].into() };
            }
            *self.quant.get_mut(index).ok_or(Corrupt("a quantization table's number"))? = Some(table);
            body = &rest[size..];
        }
        Ok(())
    }

    fn huffman(&mut self, mut body: &[u8]) -> Result<(), JpegError> {
        while let Some((&head, rest)) = body.split_first() {
            let counts: &[u8; 16] = rest.first_chunk().ok_or(Corrupt("a short Huffman table"))?;
            let total: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let values = rest.get(16..16 + total).ok_or(Corrupt("a short Huffman table"))?;
            let tables = if head >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let slot = tables.get_mut(usize::from(head & 15)).ok_or(Corrupt("a Huffman table's number"))?;
            *slot = Some(Table::new(counts, values)?);
            body = &rest[16 + total..];
        }
        Ok(())
    }

    fn frame(&mut self, body: &[u8], progressive: bool) -> Result<(), JpegError> {
        if self.frame.is_some() {
            return Err(Corrupt("a second frame header"));
        }
        let &[precision, h0, h1, w0, w1, count, ref rest @ ..] = body else {
            return Err(Truncated);
        };
        if precision != 8 {
            return Err(Unsupported("JPEG with other than 8 bits a sample"));
        }
        let height = usize::from(u16::from_be_bytes([h0, h1]));
        let width = usize::from(u16::from_be_bytes([w0, w1]));
        if width == 0 || height == 0 {
            return Err(Unsupported("JPEG without its height in the header"));
        }
        let specs = rest.get(..usize::from(count) * 3).ok_or(Truncated)?;
        let factors = |spec: &[u8]| (usize::from(spec[1] >> 4), usize::from(spec[1] & 15));
        let specs: Vec<_> = specs.chunks_exact(3).map(|spec| (spec[0], factors(spec), usize::from(spec[2]))).collect();
        if specs.iter().any(|&(_, (h, v), _)| !(1..=4).contains(&h) || !(1..=4).contains(&v)) {
            return Err(Corrupt("a sampling factor"));
        }
        let h_max = specs.iter().map(|spec| spec.1.0).max().unwrap_or(1);
        let v_max = specs.iter().map(|spec| spec.1.1).max().unwrap_or(1);
        let (units_x, units_y) = (width.div_ceil(8 * h_max), height.div_ceil(8 * v_max));
        let component = |(id, (h, v), quant_index): (u8, (usize, usize), usize)| Component {
            id,
            h,
            v,
            quant_index,
            quant: None,
            blocks: ((width * h).div_ceil(8 * h_max), (height * v).div_ceil(8 * v_max)),
            stride: units_x * h,
            coefficients: vec![0; units_x * h * units_y * v * 64],
        };
        let components = specs.into_iter().map(component).collect();
        self.frame = Some(Frame { progressive, width, height, h_max, v_max, components });
        Ok(())
    }

    /// A scan's header and the entropy-coded data behind it.
    fn scan(&mut self, header: &[u8]) -> Result<(), JpegError> {
        let frame = self.frame.as_mut().ok_or(Corrupt("picture data before the frame header"))?;
        let count = usize::from(*header.first().ok_or(Truncated)?);
        let (specs, tail) = header[1..].split_at_checked(count * 2).ok_or(Truncated)?;
        let &[first, last, approximation, ..] = tail else {
            return Err(Truncated);
        };
        let mut components = Vec::with_capacity(count);
        for spec in specs.chunks_exact(2) {
            let index = frame.components.iter().position(|c| c.id == spec[0]).ok_or(Corrupt("an unknown component"))?;
            let component = &mut frame.components[index];
            if component.quant.is_none() {
                let table = self.quant.get(component.quant_index).copied().flatten();
                component.quant = Some(table.ok_or(Corrupt("a missing quantization table"))?);
            }
            let table = |tables: &'_ [Option<Table>; 4], index: u8| tables.get(usize::from(index)).cloned().flatten();
            let (dc, ac) = (table(&self.dc, spec[1] >> 4), table(&self.ac, spec[1] & 15));
            components.push(ScanComponent { index, dc, ac, previous: 0 });
        }
        let scan = Scan::new(frame, components, [first, last, approximation], self.restart_interval)?;
        let mut reader = BitReader::new(self.data, self.position);
        scan.decode(frame, &mut reader)?;
        self.position = reader.position();
        Ok(())
    }

    /// libjpeg's rules for what the components are.
    fn colours(&self) -> Result<Colours, JpegError> {
        let frame = self.frame.as_ref().ok_or(Corrupt("no frame header"))?;
        let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
        match (ids.len(), self.adobe) {
            (1, _) => Ok(Colours::Grey),
            (3, _) if self.jfif => Ok(Colours::YCbCr),
            (3, Some(0)) => Ok(Colours::Rgb),
            (3, None) if ids == *b"RGB" => Ok(Colours::Rgb),
            (3, _) => Ok(Colours::YCbCr),
            (4, None | Some(0)) => Ok(Colours::Cmyk),
            (4, _) => Ok(Colours::Ycck),
            _ => Err(Unsupported("JPEG with other than 1, 3 or 4 components")),
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Result<usize, JpegError> {
    let pair = bytes.get(at..at + 2).ok_or(Truncated)?;
    Ok(usize::from(u16::from_be_bytes([pair[0], pair[1]])))
}
