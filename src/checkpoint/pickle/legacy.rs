//! The layout of `torch.save` before 1.6 (and since with `_use_new_zipfile_serialization=False`):
//! five pickles, then the storages, each behind its length.
//!
//! Source: `_legacy_save` and `_legacy_load` in `torch/serialization.py` of torch 2.15.

use std::collections::HashMap;
use std::ops::Range;

use super::error::{PickleError, shown};
use super::machine::{self, Loaded};
use super::opcode as op;
use super::value::{Object, Value};

/// The first pickle's number, 0x1950a86a20f9469cfc6c, as `LONG1` writes it.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The second pickle's number.
const PROTOCOL: i64 = 1001;

/// The state dict's pickle and where the storages lie.
#[derive(Debug)]
pub(super) struct Legacy<'a> {
    pub loaded: Loaded<'a>,
    pub storages: HashMap<&'a str, Range<usize>>,
}

/// Bytes of the first pickle, where `file` begins with the magic number of this layout.
pub(super) fn magic(file: &[u8]) -> Option<usize> {
    let [op::PROTO, _, rest @ ..] = file else {
        return None;
    };
    // Protocol 4 frames even a number.
    let body = if rest.first() == Some(&op::FRAME) { rest.get(9..)? } else { rest };
    let after = body.strip_prefix(MAGIC)?;
    Some(file.len() - after.len())
}

/// Reads `file`, whose first `at` bytes are the magic number.
pub(super) fn read(file: &[u8], mut at: usize) -> Result<Legacy<'_>, PickleError> {
    let mut next = || {
        let loaded = machine::load(&file[at..], at)?;
        at += loaded.len;
        Ok::<_, PickleError>(loaded)
    };
    let protocol = next()?;
    if !matches!(protocol.root, Value::Int(PROTOCOL)) {
        return Err(PickleError::file(format!("its older layout is not of version {PROTOCOL}")));
    }
    let system = next()?;
    let order = system.heap.dict(system.root).unwrap_or_default();
    if order.iter().any(|entry| matches!(entry, (Value::Str("little_endian"), Value::Bool(false)))) {
        return Err(PickleError::file("it is big-endian; load it where it was written and save it with safetensors"));
    }
    let loaded = next()?;
    let keys = next()?;
    let storages = storages(file, at, &loaded, &keys)?;
    Ok(Legacy { loaded, storages })
}

/// Finds the storages behind the pickles: for each key, in order, the number of elements in 8 bytes
/// and the elements.
fn storages<'a>(
    file: &[u8],
    mut at: usize,
    loaded: &Loaded<'a>,
    keys: &Loaded<'a>,
) -> Result<HashMap<&'a str, Range<usize>>, PickleError> {
    // The first use of a storage gives the width of its elements.
    let mut widths: HashMap<&str, u64> = HashMap::new();
    for object in loaded.heap.objects() {
        if let Object::Storage(storage) = object {
            widths.entry(storage.key).or_insert(storage.dtype.bitsize() as u64 / 8);
        }
    }
    let Some(keys) = keys.heap.sequence(keys.root) else {
        let kind = keys.heap.kind(keys.root);
        return Err(PickleError::file(format!("its list of storages is {kind}")));
    };
    let mut places = HashMap::with_capacity(keys.len());
    for key in keys {
        let &Value::Str(key) = key else {
            return Err(PickleError::file("its list of storages holds something else than names"));
        };
        let bad = |reason: String| PickleError::file(format!("the storage `{}` {reason}", shown(key)));
        let Some(width) = widths.get(key) else {
            return Err(bad("belongs to no tensor".to_owned()));
        };
        let Some(count) = file.get(at..).and_then(<[u8]>::first_chunk) else {
            return Err(bad(format!("should begin at byte {at} of {}; the file is truncated", file.len())));
        };
        at += count.len();
        let (count, left) = (u64::from_le_bytes(*count), file.len() - at);
        let Some(bytes) = count.checked_mul(*width).filter(|&bytes| bytes <= left as u64) else {
            return Err(bad(format!(
                "of {count} elements of {width} bytes begins at byte {at} of {}; the file is truncated",
                file.len()
            )));
        };
        let range = at..at + bytes as usize;
        at = range.end;
        if places.insert(key, range).is_some() {
            return Err(bad("occurs twice".to_owned()));
        }
    }
    if at != file.len() {
        let reason = format!("{} bytes follow the last storage, which ends at byte {at}", file.len() - at);
        return Err(PickleError::file(reason));
    }
    Ok(places)
}
