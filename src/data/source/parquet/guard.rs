//! Whether a table's footer is one that the decoder can be trusted with.
//!
//! The footer lists the schema as a tree in preorder, each group with its number of children. The decoder reserves
//! memory for as many children as a group claims, and calls itself for each level of nesting: a footer of a few bytes
//! that claims two thousand million children, or nests without end, would end the process. Both are looked for here,
//! before the decoder sees the file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Groups within groups that are read. Conversations need about six.
const DEEPEST: usize = 64;
/// What a table begins and ends with.
const MAGIC: &[u8] = b"PAR1";
/// Length of the footer's length and the magic behind it.
const TAIL: u64 = 8;

/// The table's footer field that holds the schema, and the schema element's that holds its number of children.
const SCHEMA: i64 = 2;
const NUM_CHILDREN: i64 = 5;

/// # Errors
/// What is wrong with the footer, in words.
pub fn check(mut file: &File) -> Result<(), String> {
    let length = file.seek(SeekFrom::End(0)).map_err(|error| error.to_string())?;
    if length < TAIL + MAGIC.len() as u64 {
        return Err(format!("it has {length} bytes, fewer than the smallest table"));
    }
    let mut tail = [0; TAIL as usize];
    read(file, length - TAIL, &mut tail)?;
    let (size, magic) = tail.split_at(4);
    if magic != MAGIC {
        return Err("it does not end with `PAR1`: it is cut off, or no Parquet file".to_owned());
    }
    let size = size.iter().rev().fold(0, |size, byte| size << 8 | u64::from(*byte));
    if size > length - TAIL {
        return Err(format!("its footer claims {size} bytes, but the file has {length}"));
    }
    let mut footer = vec![0; usize::try_from(size).map_err(|error| error.to_string())?];
    read(file, length - TAIL - size, &mut footer)?;
    let sound = Thrift { bytes: &footer }.footer();
    file.rewind().map_err(|error| error.to_string())?;
    sound.ok_or_else(|| "its footer is damaged".to_owned())
}

fn read(mut file: &File, at: u64, into: &mut [u8]) -> Result<(), String> {
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(into)).map_err(|error| error.to_string())
}

/// Thrift's compact protocol, as far as it is needed to walk through a footer. `None` stands for damage.
struct Thrift<'a> {
    bytes: &'a [u8],
}

impl Thrift<'_> {
    fn footer(&mut self) -> Option<()> {
        let mut sound = None;
        self.fields(|footer, id, kind| {
            if (id, kind) != (SCHEMA, LIST) {
                return footer.skip(kind, 0);
            }
            let (kind, elements) = footer.list()?;
            sound = (kind == STRUCT).then_some(());
            sound?;
            footer.schema(elements)
        })?;
        sound
    }

    /// The schema's elements: those that are there are as many as are claimed, and none lies too deep.
    fn schema(&mut self, elements: usize) -> Option<()> {
        // Children that each open group still waits for.
        let mut open: Vec<usize> = Vec::new();
        for number in 0..elements {
            let mut children = 0;
            self.fields(|element, id, kind| {
                if (id, kind) == (NUM_CHILDREN, I32) {
                    children = usize::try_from(element.zigzag()?).ok()?;
                    return (children < elements).then_some(());
                }
                element.skip(kind, 0)
            })?;
            match open.last_mut() {
                Some(waiting) => *waiting -= 1,
                None if number > 0 => return None,
                None => {}
            }
            open.push(children);
            while open.last() == Some(&0) {
                open.pop();
            }
            if open.len() > DEEPEST {
                return None;
            }
        }
        open.is_empty().then_some(())
    }

    /// Calls `each` with number and type of every field of a struct; it must move behind the value.
    fn fields(&mut self, mut each: impl FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        let mut id = 0i64;
        loop {
            let header = self.byte()?;
            if header == 0 {
                return Some(());
            }
            id = match header >> 4 {
                0 => self.zigzag()?,
                step => id.checked_add(i64::from(step))?,
            };
            each(self, id, header & 0x0F)?;
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        match kind {
            TRUE | FALSE => Some(()),
            BYTE => self.take(1),
            I16 | I32 | I64 => self.varint().map(drop),
            DOUBLE => self.take(8),
            BINARY => {
                let length = self.varint()?;
                self.take(usize::try_from(length).ok()?)
            }
            LIST | SET => {
                let (kind, size) = self.list()?;
                (0..size).try_for_each(|_| self.element(kind, depth + 1))
            }
            MAP => {
                let size = usize::try_from(self.varint()?).ok()?;
                let kinds = if size == 0 { 0 } else { self.byte()? };
                (0..size).try_for_each(|_| {
                    self.element(kinds >> 4, depth + 1)?;
                    self.element(kinds & 0x0F, depth + 1)
                })
            }
            STRUCT => self.fields(|thrift, _, kind| thrift.skip(kind, depth + 1)),
            UUID => self.take(16),
            _ => None,
        }
    }

    /// An element of a list, where even a truth value has a byte of its own.
    fn element(&mut self, kind: u8, depth: usize) -> Option<()> {
        if matches!(kind, TRUE | FALSE) { self.take(1) } else { self.skip(kind, depth) }
    }

    /// Type and number of a list's elements, each of which takes at least a byte.
    fn list(&mut self) -> Option<(u8, usize)> {
        let header = self.byte()?;
        let size = match header >> 4 {
            15 => usize::try_from(self.varint()?).ok()?,
            size => usize::from(size),
        };
        (size <= self.bytes.len()).then_some((header & 0x0F, size))
    }

    fn zigzag(&mut self) -> Option<i64> {
        let number = self.varint()?;
        Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(byte)
    }

    fn take(&mut self, length: usize) -> Option<()> {
        self.bytes = self.bytes.get(length..)?;
        Some(())
    }
}

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;
const UUID: u8 = 13;

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer whose schema is a chain of groups, each with this number of children.
    fn nested(groups: usize, children: u8) -> Vec<u8> {
        // Field 2, a list of structs; its size as a varint.
        let mut bytes = vec![0x29, 0xFC];
        let elements = groups + 1;
        bytes.extend([0x80 | (elements & 0x7F) as u8, (elements >> 7) as u8]);
        // Field 5, an i32 in zigzag.
        (0..groups).for_each(|_| bytes.extend([0x55, children << 1, 0]));
        bytes.extend([0, 0]);
        bytes
    }

    #[test]
    fn footers_that_claim_too_much_are_refused() {
        let check = |bytes: &[u8]| Thrift { bytes }.footer().is_some();
        assert!(check(&nested(3, 1)));
        assert!(!check(&nested(3, 2)), "more children than elements");
        assert!(!check(&nested(DEEPEST + 2, 1)), "nested without end");
        // One group that claims 2^31 - 1 children.
        assert!(!check(&[0x29, 0x2C, 0x55, 0xFE, 0xFF, 0xFF, 0xFF, 0x0F, 0, 0, 0]));
        assert!(!check(&[0x29, 0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]), "more elements than bytes");
        assert!(!check(&[0]), "no schema");
    }
}
