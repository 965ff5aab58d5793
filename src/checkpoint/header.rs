//! The header of a safetensors file, distrusted: 8 bytes of length, a JSON object, then the
//! tensors' bytes without holes.
//!
//! Parsed here and not by the `safetensors` crate because its errors name no tensor, and because a
//! name that the JSON holds twice must be refused instead of the last one winning.
//!
//! Source: the format's description in the safetensors project, version 0.8; limits as in its Rust
//! implementation.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::error::CheckpointError;
use super::tensors::{Dtype, byte_len};

/// Longest header read, as in the reference implementation: a hostile length must not make us parse
/// gigabytes.
const MAX_HEADER: u64 = 100_000_000;

/// Bytes in front of the JSON.
pub(super) const PREFIX: usize = 8;

/// Where a tensor lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Byte range in the file.
    pub start: usize,
    pub end: usize,
}

/// Reads and checks the header of `file`, the whole file's bytes; `path` is for messages.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Vec<Entry>, CheckpointError> {
    let bad = |reason: String| CheckpointError::header(path, reason);
    let Some(prefix) = file.first_chunk::<PREFIX>() else {
        return Err(bad(format!("it has {} bytes, a header alone needs {PREFIX}", file.len())));
    };
    let length = u64::from_le_bytes(*prefix);
    let room = (file.len() - PREFIX) as u64;
    if length > room {
        return Err(bad(format!(
            "the header claims {length} bytes, the file has {room} left; \
             it is truncated or no safetensors file"
        )));
    }
    if length > MAX_HEADER {
        return Err(bad(format!("the header claims {length} bytes, more than the {MAX_HEADER} allowed")));
    }
    let data = PREFIX + length as usize;
    let header: Header = serde_json::from_slice(&file[PREFIX..data])
        .map_err(|error| bad(format!("its header is not the JSON it should be: {error}")))?;
    header.0.into_iter().map(|(name, raw)| place(path, name, raw, data)).collect::<Result<Vec<_>, _>>().and_then(
        |entries| {
            contiguous(path, &entries, data, file.len())?;
            Ok(entries)
        },
    )
}

/// Turns offsets into a range of the file and compares its length with what the shape needs.
fn place(path: &Path, name: String, raw: Raw, data: usize) -> Result<Entry, CheckpointError> {
    let [from, to] = raw.data_offsets;
    let bad = |reason: String| CheckpointError::tensor(path, &name, reason);
    if from > to {
        return Err(bad(format!("begins at byte {from} and ends at byte {to}")));
    }
    let needed = byte_len(raw.dtype, &raw.shape)
        .ok_or_else(|| bad(format!("has the impossible shape {:?} of {}", raw.shape, raw.dtype)))?;
    if needed != to - from {
        return Err(bad(format!(
            "of shape {:?} and type {} needs {needed} bytes, its offsets give {}",
            raw.shape,
            raw.dtype,
            to - from
        )));
    }
    let (Some(start), Some(end)) = (data.checked_add(from), data.checked_add(to)) else {
        return Err(bad(format!("ends at byte {to}, beyond any file")));
    };
    Ok(Entry { name, dtype: raw.dtype, shape: raw.shape, start, end })
}

/// The format allows neither overlaps nor holes, and nothing after the last tensor.
fn contiguous(path: &Path, entries: &[Entry], data: usize, file: usize) -> Result<(), CheckpointError> {
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|entry| (entry.start, entry.end));
    let mut at = data;
    let mut before = "the header";
    for entry in order {
        let (start, end) = (entry.start - data, entry.end - data);
        if entry.end > file {
            let reason = format!(
                "ends at data byte {end}, the file has {}; \
                 it is truncated, copy or download it again",
                file - data
            );
            return Err(CheckpointError::tensor(path, &entry.name, reason));
        }
        if entry.start != at {
            let how = if entry.start < at { "overlaps" } else { "leaves a hole after" };
            let reason = format!("{how} {before}: it begins at data byte {start}, {} was expected", at - data);
            return Err(CheckpointError::tensor(path, &entry.name, reason));
        }
        at = entry.end;
        before = &entry.name;
    }
    if at != file {
        let reason = format!("{} bytes follow the last tensor, which ends at byte {at} of {file}", file - at);
        return Err(CheckpointError::header(path, reason));
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The header's tensors in file order; `__metadata__` is skipped.
struct Header(Vec<(String, Raw)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut seen = std::collections::HashSet::new();
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(serde::de::Error::custom(format!("`{name}` occurs twice")));
            }
            if name == "__metadata__" {
                map.next_value::<serde::de::IgnoredAny>()?;
                continue;
            }
            tensors.push((name, map.next_value()?));
        }
        Ok(Header(tensors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn refused(bytes: &[u8], needle: &str) {
        let error = parse(Path::new("w.safetensors"), bytes).expect_err(needle).to_string();
        assert!(error.contains(needle) && error.starts_with("w.safetensors"), "{error:?} lacks {needle:?}");
    }

    const A: &str = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;

    #[test]
    fn a_sound_header_is_read() {
        let bytes = file(
            &format!(
                r#"{{"__metadata__":{{"format":"pt"}},{A},"b":{{"dtype":"I64","shape":[],"data_offsets":[8,16]}}}}  "#
            ),
            16,
        );
        let entries = parse(Path::new("w"), &bytes).unwrap();
        assert_eq!(
            entries.iter().map(|e| (e.name.as_str(), e.end - e.start)).collect::<Vec<_>>(),
            [("a", 8), ("b", 8)]
        );
        assert_eq!(entries[1].end, bytes.len());
    }

    #[test]
    fn absurd_lengths_are_refused() {
        refused(&[1, 2, 3], "3 bytes");
        refused(b"version https://git-lfs.github.com/spec/v1", "no safetensors file");
        let mut bytes = vec![0u8; MAX_HEADER as usize + 100];
        bytes[..8].copy_from_slice(&(MAX_HEADER + 1).to_le_bytes());
        refused(&bytes, "100000001 bytes, more than");
    }

    #[test]
    fn broken_layouts_are_refused() {
        refused(&file("{\"a\":", 0), "not the JSON");
        refused(&file("[1]", 0), "an object of tensors");
        refused(&file(&format!("{{{A},{A}}}"), 8), "`a` occurs twice");
        refused(&file(&format!("{{{A}}}"), 7), "`a` ends at data byte 8, the file has 7");
        refused(&file(&format!("{{{A}}}"), 9), "1 bytes follow");
        refused(
            &file(&format!(r#"{{{A},"b":{{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}}}"#), 8),
            "`b` overlaps a",
        );
        refused(
            &file(&format!(r#"{{{A},"b":{{"dtype":"U8","shape":[4],"data_offsets":[12,16]}}}}"#), 16),
            "`b` leaves a hole after a",
        );
        refused(
            &file(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8),
            "needs 12 bytes, its offsets give 8",
        );
        refused(
            &file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8),
            "begins at byte 8 and ends at byte 0",
        );
        refused(
            &file(r#"{"a":{"dtype":"F32","shape":[18446744073709551615,9],"data_offsets":[0,8]}}"#, 8),
            "impossible shape",
        );
        refused(&file(r#"{"a":{"dtype":"Q4_K","shape":[2],"data_offsets":[0,8]}}"#, 8), "unknown variant `Q4_K`");
    }
}
