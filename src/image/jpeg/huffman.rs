//! Huffman tables and the bits of an entropy-coded segment.

use super::JpegError::{self, Corrupt, Truncated};

/// Codes up to this length are found by one look-up.
const LOOKUP_BITS: u32 = 9;
const MAX_BITS: u32 = 16;

/// A Huffman table, canonical codes.
#[derive(Clone)]
pub(super) struct Table {
    /// `length << 8 | symbol` by the next bits; 0 where the code is longer.
    lookup: Box<[u16; 1 << LOOKUP_BITS]>,
    /// By length: one past the largest code, and what to add to a code to get its symbol's index.
    limits: [(u32, i32); MAX_BITS as usize + 1],
    symbols: Vec<u8>,
}

impl Table {
    /// From the number of codes of each length 1..=16 and the symbols in order.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Self, JpegError> {
        let mut lookup = Box::new([0; 1 << LOOKUP_BITS]);
        let mut limits = [(0, 0); MAX_BITS as usize + 1];
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1..).zip(counts) {
            let count = usize::from(count);
            if code + count as u32 > 1 << length {
                return Err(Corrupt("an impossible Huffman table"));
            }
            if length <= LOOKUP_BITS {
                for (i, &symbol) in symbols[index..index + count].iter().enumerate() {
                    let first = (code as usize + i) << (LOOKUP_BITS - length);
                    let entry = (length << 8) as u16 | u16::from(symbol);
                    lookup[first..first + (1 << (LOOKUP_BITS - length))].fill(entry);
                }
            }
            limits[length as usize] = (code + count as u32, index as i32 - code as i32);
            index += count;
            code = (code + count as u32) << 1;
        }
        Ok(Self { lookup, limits, symbols: symbols.to_vec() })
    }
}

/// Bits of an entropy-coded segment, most significant first, stuffed zeros removed. At a marker or at the end of the file it
/// yields zeros and counts them; [`BitReader::check`] tells whether any was used.
pub(super) struct BitReader<'a> {
    data: &'a [u8],
    position: usize,
    /// The next bits, in the top.
    buffer: u64,
    available: u32,
    /// How many of the available bits, at their end, are made up.
    padding: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(data: &'a [u8], position: usize) -> Self {
        Self { data, position, buffer: 0, available: 0, padding: 0 }
    }

    /// Where the data stopped: at a marker.
    pub(super) fn position(&self) -> usize {
        // Bytes in the buffer are entropy-coded data, which holds no marker; the next marker is sought from here on.
        self.position
    }

    fn refill(&mut self) {
        while self.available <= 56 {
            let byte = match (self.data.get(self.position), self.data.get(self.position + 1)) {
                (Some(0xff), Some(0)) => {
                    self.position += 2;
                    0xff
                }
                (Some(0xff), _) | (None, _) => {
                    self.padding += 8;
                    0
                }
                (Some(&byte), _) => {
                    self.position += 1;
                    byte
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.available);
            self.available += 8;
        }
    }

    fn need(&mut self, count: u32) {
        if self.available < count {
            self.refill();
        }
    }

    fn skip(&mut self, count: u32) {
        self.buffer <<= count;
        self.available -= count;
    }

    /// The next symbol.
    pub(super) fn symbol(&mut self, table: &Table) -> Result<u8, JpegError> {
        self.need(MAX_BITS);
        let entry = table.lookup[(self.buffer >> (64 - LOOKUP_BITS)) as usize];
        if entry != 0 {
            self.skip(u32::from(entry >> 8));
            return Ok(entry as u8);
        }
        for length in LOOKUP_BITS + 1..=MAX_BITS {
            let code = (self.buffer >> (64 - length)) as u32;
            let (limit, offset) = table.limits[length as usize];
            if code < limit {
                self.skip(length);
                let symbol = table.symbols.get((code as i32 + offset) as usize);
                return symbol.copied().ok_or(Corrupt("a code outside its Huffman table"));
            }
        }
        self.check()?;
        Err(Corrupt("a code outside its Huffman table"))
    }

    /// The next `count` bits, at most 16.
    pub(super) fn bits(&mut self, count: u32) -> i32 {
        if count == 0 {
            return 0;
        }
        self.need(count);
        let value = self.buffer >> (64 - count);
        self.skip(count);
        value as i32
    }

    /// A signed number of `count` bits: those that start with 0 are negative.
    pub(super) fn signed(&mut self, count: u32) -> i32 {
        let value = self.bits(count);
        if count > 0 && value < 1 << (count - 1) { value - (1 << count) + 1 } else { value }
    }

    /// Refuses to go on once made-up bits were used.
    pub(super) fn check(&self) -> Result<(), JpegError> {
        if self.available >= self.padding {
            return Ok(());
        }
        if self.position >= self.data.len() {
            Err(Truncated)
        } else {
            Err(Corrupt("a marker within the picture's data"))
        }
    }

    /// Goes past the restart marker that must follow.
    pub(super) fn restart(&mut self) -> Result<(), JpegError> {
        (self.buffer, self.available, self.padding) = (0, 0, 0);
        while self.data.get(self.position + 1) == Some(&0xff) {
            self.position += 1;
        }
        match (self.data.get(self.position), self.data.get(self.position + 1)) {
            (Some(0xff), Some(0xd0..=0xd7)) => {
                self.position += 2;
                Ok(())
            }
            (_, None) => Err(Truncated),
            _ => Err(Corrupt("a missing restart marker")),
        }
    }
}
