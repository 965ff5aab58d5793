//! TFRecord framing: `length u64, CRC of the length u32, payload, CRC of the payload u32`, all little-endian.
//!
//! # Source
//! TensorFlow's `record_writer.h`; checked against files that TensorBoard 2.21 wrote.

use std::io::{self, Read};

/// Bytes of a record besides its payload.
const FRAME: u64 = 8 + 4 + 4;
/// Bytes in front of the payload.
const HEAD: usize = 8 + 4;
/// No event of ours is larger; a length beyond it is damage whose CRC happens to be right.
const LARGEST: u64 = 256 << 20;

/// Appends `payload` as one record.
pub(super) fn frame(payload: &[u8], out: &mut Vec<u8>) {
    let length = (payload.len() as u64).to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked(&length).to_le_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(&masked(payload).to_le_bytes());
}

/// The CRC as it is stored: rotated and shifted, so that the CRC of data that holds CRCs is still good.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// The whole records at the start of a file; what follows the first torn or damaged one is not read.
#[derive(Debug)]
pub(super) struct Records<R> {
    reader: R,
    /// Bytes of the file that have not been read, so that a length is never believed beyond them.
    left: u64,
    /// Where the next record starts.
    offset: u64,
}

impl<R: Read> Records<R> {
    /// The records of a file of `length` bytes.
    pub fn new(reader: R, length: u64) -> Self {
        Self { reader, left: length, offset: 0 }
    }

    /// Where the last record that was read ends.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next payload; nothing at the end and at the first record that is not whole.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.left < FRAME {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        self.reader.read_exact(&mut head)?;
        let length = u64::from_le_bytes(std::array::from_fn(|i| head[i]));
        let sum = u32::from_le_bytes(std::array::from_fn(|i| head[8 + i]));
        if sum != masked(&head[..8]) || length > LARGEST.min(self.left - FRAME) {
            return self.end();
        }
        let mut payload = vec![0; length as usize];
        self.reader.read_exact(&mut payload)?;
        let mut sum = [0; 4];
        self.reader.read_exact(&mut sum)?;
        if u32::from_le_bytes(sum) != masked(&payload) {
            return self.end();
        }
        self.left -= FRAME + length;
        self.offset += FRAME + length;
        Ok(Some(payload))
    }

    fn end(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.left = 0;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> (Vec<Vec<u8>>, u64) {
        let mut records = Records::new(bytes, bytes.len() as u64);
        let mut found = Vec::new();
        while let Some(payload) = records.next().unwrap() {
            found.push(payload);
        }
        (found, records.offset())
    }

    #[test]
    fn a_file_cut_or_damaged_anywhere_yields_the_records_before() {
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        let payloads = [b"first".to_vec(), Vec::new(), vec![7; 300]];
        for payload in &payloads {
            frame(payload, &mut bytes);
            ends.push(bytes.len());
        }
        for cut in 0..=bytes.len() {
            let whole = ends.iter().filter(|&&end| end <= cut).count() - 1;
            assert_eq!(all(&bytes[..cut]), (payloads[..whole].to_vec(), ends[whole] as u64), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let whole = ends.iter().filter(|&&end| end <= at).count() - 1;
            assert_eq!(all(&damaged), (payloads[..whole].to_vec(), ends[whole] as u64), "damaged at {at}");
        }
    }

    /// The CRC of these digits is the one that CRC-32C is known by; masked, it is what TensorBoard's `masked_crc32c` gives.
    #[test]
    fn the_mask_is_tensorflows() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(masked(b"123456789"), 0xC78A_B0E5);
    }

    #[test]
    fn an_absurd_length_with_a_right_crc_is_not_allocated() {
        let length = (u64::MAX - 3).to_le_bytes();
        let mut bytes = length.to_vec();
        bytes.extend_from_slice(&masked(&length).to_le_bytes());
        bytes.extend_from_slice(&[0; 64]);
        assert_eq!(all(&bytes), (Vec::new(), 0));
    }
}
