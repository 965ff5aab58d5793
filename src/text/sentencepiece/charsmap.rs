//! The normalizer's table (`precompiled_charsmap`), checked before the `tokenizers` crate walks it without checking.

use std::collections::HashSet;

/// A larger table is refused, in bytes. `nmt_nfkc_cf`, the largest of SentencePiece's own, has 0.3 MB.
const MAX_TABLE: usize = 4 << 20;
/// A longer replacement of one character is refused, in bytes. The longest of Unicode's (U+FDFA) has 33.
const MAX_REPLACEMENT: usize = 1024;

/// Whether every text can be looked up in the table: a damaged one would panic, or write megabytes for a character.
///
/// The table is a 32-bit length, a double-array trie of that many bytes, and the replacements, each ended by a zero
/// byte. A leaf of the trie holds where its replacement begins.
///
/// # Errors
/// What is wrong.
pub(super) fn check(charsmap: &[u8]) -> Result<(), String> {
    let wrong = |reason: &str| format!("the normalizer's table is damaged: {reason}; fetch the file again");
    if charsmap.len() > MAX_TABLE {
        return Err(wrong(&format!("{} bytes, where at most {MAX_TABLE} are allowed", charsmap.len())));
    }
    let (size, rest) = charsmap.split_first_chunk::<4>().ok_or_else(|| wrong("it ends in its own length"))?;
    let size = u32::from_le_bytes(*size) as usize;
    if !size.is_multiple_of(4) || size > rest.len() || size < 4 {
        return Err(wrong(&format!("a trie of {size} bytes in {} bytes", rest.len())));
    }
    let (trie, replacements) = rest.split_at(size);
    let replacements = std::str::from_utf8(replacements).map_err(|e| wrong(&format!("not UTF-8: {e}")))?;
    let (units, _) = trie.as_chunks::<4>();
    let units: Vec<Unit> = units.iter().map(|unit| Unit(u32::from_le_bytes(*unit))).collect();
    walk(&units, replacements).map_err(|e| wrong(&e))
}

/// Visits every node that some text leads to.
fn walk(units: &[Unit], replacements: &str) -> Result<(), String> {
    let root = units.first().map_or(0, Unit::offset);
    let mut open = vec![root];
    let mut seen = HashSet::from([root]);
    while let Some(node) = open.pop() {
        // A child is at the node's place with its lowest byte changed to any value.
        if node | 0xFF >= units.len() {
            return Err(format!("node {node} lies outside its {} units", units.len()));
        }
        for byte in 1..=0xFF {
            let unit = &units[node ^ byte];
            if unit.label() != byte as u32 {
                continue;
            }
            let child = node ^ byte ^ unit.offset();
            if unit.has_leaf() {
                let leaf = units.get(child).ok_or_else(|| format!("leaf {child} lies outside the trie"))?;
                replacement(leaf.value(), replacements)?;
            }
            if seen.insert(child) {
                open.push(child);
            }
        }
    }
    Ok(())
}

fn replacement(start: usize, replacements: &str) -> Result<(), String> {
    let text = replacements.get(start..).ok_or_else(|| format!("no replacement begins at byte {start}"))?;
    let window = text.len().min(MAX_REPLACEMENT + 1);
    let ends = text.len() <= MAX_REPLACEMENT || text.as_bytes()[..window].contains(&0);
    if ends { Ok(()) } else { Err(format!("a replacement longer than {MAX_REPLACEMENT} bytes at byte {start}")) }
}

/// A unit of Darts-clone's double array.
struct Unit(u32);

impl Unit {
    fn has_leaf(&self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    fn value(&self) -> usize {
        (self.0 & 0x7FFF_FFFF) as usize
    }

    fn label(&self) -> u32 {
        self.0 & 0x8000_00FF
    }

    fn offset(&self) -> usize {
        // The crate shifts 64 bits wide; 22 bits by 8 fit in 32 as well.
        ((self.0 >> 10) << ((self.0 & 1 << 9) >> 6)) as usize
    }
}
