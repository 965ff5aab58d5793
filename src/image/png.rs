//! PNG files without what pixels do not depend on.
//!
//! A colour profile or a text of a megabyte may be compressed from a gigabyte, and decoders unpack it before they have looked at a
//! pixel. None of it changes what Pillow's `convert("RGB")` yields, so no decoder here gets to see it.

use std::io::Read;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// `(width, height)` as the first chunk announces them.
pub(super) fn probe(reader: &mut impl Read) -> Result<(u32, u32), &'static str> {
    let mut start = [0; 24];
    reader.read_exact(&mut start).map_err(|_| "the PNG file is cut short before its header ends")?;
    if start[..8] != *SIGNATURE || start[8..16] != *b"\0\0\0\rIHDR" {
        return Err("the PNG file is damaged, it does not begin with its header");
    }
    let number = |at: usize| u32::from_be_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
    Ok((number(16), number(20)))
}

/// The chunks that pixels depend on, up to the end of the picture; of a file that is cut short those that are there.
pub(super) fn core(bytes: &[u8]) -> Vec<u8> {
    let mut core = SIGNATURE.to_vec();
    let mut rest = bytes.strip_prefix(SIGNATURE).unwrap_or_default();
    while let (Some(length), Some(name)) = (rest.first_chunk::<4>(), rest.get(4..8)) {
        // Length, name, data, sum.
        let whole = (u32::from_be_bytes(*length) as usize).saturating_add(12).min(rest.len());
        // A capital begins the names that a decoder must know; transparency is the one other that changes pixels.
        if name[0].is_ascii_uppercase() || name == b"tRNS" {
            core.extend_from_slice(&rest[..whole]);
        }
        if name == b"IEND" {
            break;
        }
        rest = &rest[whole..];
    }
    core
}
