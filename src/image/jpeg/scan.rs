//! Scans: from entropy-coded bits to coefficients, sequential and progressive.

use super::JpegError::{self, Corrupt};
use super::huffman::{BitReader, Table};
use super::{Frame, ZIGZAG};

/// A component's part in a scan.
pub(super) struct ScanComponent {
    /// Its index in the frame.
    pub(super) index: usize,
    pub(super) dc: Option<Table>,
    pub(super) ac: Option<Table>,
    /// The DC value before, from which the next differs.
    pub(super) previous: i32,
}

/// What the bits of a block say.
#[derive(Clone, Copy)]
enum Kind {
    Sequential,
    /// The upper bits of DC values.
    DcFirst,
    /// One more bit of each.
    DcRefine,
    /// The upper bits of a band of AC values.
    AcFirst,
    /// One more bit of each, and values that become non-zero with it.
    AcRefine,
}

/// One scan.
pub(super) struct Scan {
    components: Vec<ScanComponent>,
    kind: Kind,
    /// The band of coefficients, in the stream's order.
    first: usize,
    last: usize,
    /// Lowest bit that is known after this scan.
    shift: u32,
    restart_interval: usize,
    /// Blocks still to come without new values.
    end_of_band: i32,
}

impl Scan {
    /// Checks the header against the frame.
    pub(super) fn new(
        frame: &Frame,
        components: Vec<ScanComponent>,
        [first, last, approximation]: [u8; 3],
        restart_interval: usize,
    ) -> Result<Self, JpegError> {
        let (high, shift) = (approximation >> 4, u32::from(approximation & 15));
        let (first, last) = (usize::from(first), usize::from(last));
        let kind = match (frame.progressive, first, high) {
            (false, ..) => Kind::Sequential,
            (true, 0, 0) => Kind::DcFirst,
            (true, 0, _) => Kind::DcRefine,
            (true, _, 0) => Kind::AcFirst,
            (true, ..) => Kind::AcRefine,
        };
        if components.is_empty() || components.len() > 4 {
            return Err(Corrupt("the number of components in a scan"));
        }
        if frame.progressive && (last > 63 || first > last || (first == 0 && last != 0) || shift > 13) {
            return Err(Corrupt("the band of a progressive scan"));
        }
        if frame.progressive && first > 0 && components.len() != 1 {
            return Err(Corrupt("an AC scan of several components"));
        }
        let needs_dc = matches!(kind, Kind::Sequential | Kind::DcFirst);
        let needs_ac = matches!(kind, Kind::Sequential | Kind::AcFirst | Kind::AcRefine);
        if components.iter().any(|c| (needs_dc && c.dc.is_none()) || (needs_ac && c.ac.is_none())) {
            return Err(Corrupt("a missing Huffman table"));
        }
        let shift = if frame.progressive { shift } else { 0 };
        Ok(Self { components, kind, first, last, shift, restart_interval, end_of_band: 0 })
    }

    /// Reads every block of the scan into the frame.
    pub(super) fn decode(mut self, frame: &mut Frame, reader: &mut BitReader<'_>) -> Result<(), JpegError> {
        // Blocks per unit of each component; a scan of one component goes block by block, without padding.
        let single = self.components.len() == 1;
        let (units_x, units_y) = if single {
            frame.components[self.components[0].index].blocks
        } else {
            (frame.width.div_ceil(8 * frame.h_max), frame.height.div_ceil(8 * frame.v_max))
        };
        for unit in 0..units_x * units_y {
            if self.restart_interval > 0 && unit > 0 && unit % self.restart_interval == 0 {
                reader.check()?;
                reader.restart()?;
                self.end_of_band = 0;
                self.components.iter_mut().for_each(|component| component.previous = 0);
            }
            let (x, y) = (unit % units_x, unit / units_x);
            for part in 0..self.components.len() {
                let component = &mut frame.components[self.components[part].index];
                let (h, v) = if single { (1, 1) } else { (component.h, component.v) };
                for (row, column) in (0..v).flat_map(|row| (0..h).map(move |column| (row, column))) {
                    let index = (y * v + row) * component.stride + x * h + column;
                    let block = component.coefficients[index * 64..].first_chunk_mut();
                    self.block(part, block.ok_or(Corrupt("more blocks than the header says"))?, reader)?;
                }
            }
            reader.check()?;
        }
        Ok(())
    }

    fn block(&mut self, part: usize, block: &mut [i16; 64], reader: &mut BitReader<'_>) -> Result<(), JpegError> {
        match self.kind {
            Kind::Sequential => {
                self.dc_first(part, block, reader)?;
                self.sequential_ac(part, block, reader)
            }
            Kind::DcFirst => self.dc_first(part, block, reader),
            Kind::DcRefine => {
                block[0] |= (reader.bits(1) << self.shift) as i16;
                Ok(())
            }
            Kind::AcFirst => self.ac_first(part, block, reader),
            Kind::AcRefine => self.ac_refine(part, block, reader),
        }
    }

    fn dc_first(&mut self, part: usize, block: &mut [i16; 64], reader: &mut BitReader<'_>) -> Result<(), JpegError> {
        let component = &mut self.components[part];
        let table = component.dc.as_ref().ok_or(Corrupt("a missing Huffman table"))?;
        let length = reader.symbol(table)?;
        if length > 15 {
            return Err(Corrupt("a DC value of more than 15 bits"));
        }
        component.previous = component.previous.wrapping_add(reader.signed(length.into()));
        block[0] = (component.previous << self.shift) as i16;
        Ok(())
    }

    fn ac_table(&self, part: usize) -> Result<&Table, JpegError> {
        self.components[part].ac.as_ref().ok_or(Corrupt("a missing Huffman table"))
    }

    fn sequential_ac(&self, part: usize, block: &mut [i16; 64], reader: &mut BitReader<'_>) -> Result<(), JpegError> {
        let table = self.ac_table(part)?;
        let mut k = 1;
        while k < 64 {
            let symbol = reader.symbol(table)?;
            let (run, length) = (usize::from(symbol >> 4), symbol & 15);
            if length == 0 {
                if run < 15 {
                    break;
                }
                k += 16;
                continue;
            }
            k += run;
            let place = ZIGZAG.get(k).ok_or(Corrupt("a run beyond its block"))?;
            block[usize::from(*place)] = reader.signed(length.into()) as i16;
            k += 1;
        }
        Ok(())
    }

    fn ac_first(&mut self, part: usize, block: &mut [i16; 64], reader: &mut BitReader<'_>) -> Result<(), JpegError> {
        if self.end_of_band > 0 {
            self.end_of_band -= 1;
            return Ok(());
        }
        let mut k = self.first;
        while k <= self.last {
            let symbol = reader.symbol(self.ac_table(part)?)?;
            let (run, length) = (symbol >> 4, symbol & 15);
            if length == 0 {
                if run < 15 {
                    self.end_of_band = (1 << run) - 1 + reader.bits(run.into());
                    break;
                }
                k += 16;
                continue;
            }
            k += usize::from(run);
            let place = ZIGZAG.get(k).ok_or(Corrupt("a run beyond its block"))?;
            block[usize::from(*place)] = (reader.signed(length.into()) << self.shift) as i16;
            k += 1;
        }
        Ok(())
    }

    fn ac_refine(&mut self, part: usize, block: &mut [i16; 64], reader: &mut BitReader<'_>) -> Result<(), JpegError> {
        let bit = 1i16 << self.shift;
        let mut k = self.first;
        if self.end_of_band == 0 {
            while k <= self.last {
                let symbol = reader.symbol(self.ac_table(part)?)?;
                let (run, length) = (symbol >> 4, symbol & 15);
                let value = match length {
                    0 if run < 15 => {
                        self.end_of_band = (1 << run) + reader.bits(run.into());
                        break;
                    }
                    0 => 0,
                    1 if reader.bits(1) == 1 => bit,
                    1 => -bit,
                    _ => return Err(Corrupt("a new value of more than one bit")),
                };
                k = refine(block, k, self.last, bit, Some(run), reader);
                if value != 0 && k <= self.last {
                    block[usize::from(ZIGZAG[k])] = value;
                }
                k += 1;
            }
        }
        if self.end_of_band > 0 {
            refine(block, k, self.last, bit, None, reader);
            self.end_of_band -= 1;
        }
        Ok(())
    }
}

/// Gives one more bit to each non-zero value from `k` on, until `zeros` zeros were passed and another is met (or to the end of
/// the band). Returns where it stopped.
fn refine(
    block: &mut [i16; 64],
    mut k: usize,
    last: usize,
    bit: i16,
    zeros: Option<u8>,
    reader: &mut BitReader<'_>,
) -> usize {
    let mut left = zeros;
    while k <= last {
        let value = &mut block[usize::from(ZIGZAG[k])];
        if *value == 0 {
            match &mut left {
                Some(0) => break,
                Some(left) => *left -= 1,
                None => {}
            }
        } else if reader.bits(1) == 1 && *value & bit == 0 {
            *value = value.wrapping_add(if *value > 0 { bit } else { -bit });
        }
        k += 1;
    }
    k
}
