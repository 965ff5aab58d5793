//! The zip archive that `torch.save` writes since 1.6: `data.pkl` and `data/<key>`, uncompressed,
//! under one folder.
//!
//! The archive is read by the `rawzip` crate, which works on a slice and tells where an entry's
//! bytes lie. Here stands what it leaves to its caller: refusing compressed, overlapping, repeated
//! and oddly named entries, each of which two readers could understand differently.
//!
//! Source: `torch/serialization.py` and `caffe2/serialize/inline_container.cc` of torch 2.15.

use std::collections::HashMap;
use std::ops::Range;

use rawzip::{CompressionMethod, ZipArchive, ZipFileHeaderRecord, ZipSliceArchive};

use super::error::{PickleError, shown};

/// What every zip file that is not empty begins with.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

/// Newest version of the layout known to torch 2.15, which itself writes 3.
const MAX_VERSION: u32 = 10;

/// The archive's files by their path below the archive's folder.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    ranges: HashMap<&'a str, Range<usize>>,
}

impl<'a> Archive<'a> {
    /// Reads the directory of `file` and checks that it is a checkpoint's.
    pub fn open(file: &'a [u8]) -> Result<Self, PickleError> {
        let zip = ZipArchive::from_slice(file).map_err(damaged)?;
        if zip.end_offset() != file.len() as u64 {
            let (end, len) = (zip.end_offset(), file.len());
            return Err(PickleError::file(format!("its zip archive ends at byte {end} of {len}")));
        }
        let mut names: Vec<(&'a str, Range<usize>)> = Vec::new();
        let mut spans: Vec<(Range<u64>, &'a str)> = Vec::new();
        let mut at = zip.directory_offset();
        for record in zip.entries() {
            let record = record.map_err(damaged)?;
            let (name, span, data) = place(file, &zip, &record)?;
            at = at.max(span.end);
            spans.push((span, name));
            names.push((name, data));
        }
        if spans.len() as u64 != zip.entries_hint() {
            let (listed, claimed) = (spans.len(), zip.entries_hint());
            return Err(PickleError::file(format!("its directory lists {listed} entries and claims {claimed}")));
        }
        if at > zip.directory_offset() {
            return Err(PickleError::file("an entry of its zip archive reaches into the archive's directory"));
        }
        disjoint(spans)?;
        let archive = Self { ranges: below_root(names)? };
        archive.check(file)?;
        Ok(archive)
    }

    /// Where the file `path` lies, if there is one.
    pub fn get(&self, path: &str) -> Option<Range<usize>> {
        self.ranges.get(path).cloned()
    }

    /// Where the pickle lies.
    pub fn pickle(&self) -> Result<Range<usize>, PickleError> {
        self.get("data.pkl").ok_or_else(|| {
            PickleError::file("it is a zip archive without `data.pkl`, so that torch.save did not write it")
        })
    }

    fn check(&self, file: &[u8]) -> Result<(), PickleError> {
        if self.ranges.contains_key("constants.pkl") {
            return Err(PickleError::file(
                "it is a TorchScript program; save the `state_dict()` of the module that it was made from",
            ));
        }
        match self.get("byteorder").map(|range| &file[range]) {
            None | Some(b"little") => {}
            Some(b"big") => {
                return Err(PickleError::file(
                    "it is big-endian; load it where it was written and save it with safetensors",
                ));
            }
            Some(other) => {
                let found = shown(&String::from_utf8_lossy(other));
                return Err(PickleError::file(format!("its byte order is `{found}`, expected `little`")));
            }
        }
        let Some(version) = self.get("version").map(|range| String::from_utf8_lossy(&file[range])) else {
            return Ok(());
        };
        match version.trim().parse::<u32>() {
            Ok(known) if known <= MAX_VERSION => Ok(()),
            _ => Err(PickleError::file(format!(
                "its layout has version `{}`, expected at most {MAX_VERSION}",
                shown(version.trim())
            ))),
        }
    }
}

fn damaged(error: rawzip::Error) -> PickleError {
    PickleError::file(format!("its zip archive is damaged: {error}; copy or download it again"))
}

/// An entry's name, its span with its header, and the span of its bytes alone.
fn place<'a>(
    file: &'a [u8],
    zip: &ZipSliceArchive<&'a [u8]>,
    record: &ZipFileHeaderRecord<'_>,
) -> Result<(&'a str, Range<u64>, Range<usize>), PickleError> {
    let listed = record.file_path();
    let seen = shown(&String::from_utf8_lossy(listed.as_bytes()));
    let bad = |reason: String| PickleError::file(format!("the entry `{seen}` of its zip archive {reason}"));
    if record.flags().is_encrypted() {
        return Err(bad("is encrypted".to_owned()));
    }
    if record.compression_method() != CompressionMethod::STORE {
        let method = record.compression_method();
        return Err(bad(format!(
            "is compressed ({method:?}), which torch.save never does; load and save the file with torch"
        )));
    }
    if record.compressed_size_hint() != record.uncompressed_size_hint() {
        let (here, there) = (record.compressed_size_hint(), record.uncompressed_size_hint());
        return Err(bad(format!("takes {here} bytes but claims to hold {there}")));
    }
    let entry = zip
        .get_entry(record.wayfinder())
        .map_err(|error| bad(format!("is not where the directory says: {error}; the file is truncated or damaged")))?;
    let (start, end) = entry.compressed_data_range();
    let header = record.local_header_offset();
    // The name's second copy, in front of the bytes, is the one that lives as long as the file.
    let fixed = start.saturating_sub(header) as usize;
    let local = file.get(header as usize..).and_then(|rest| rest.get(30..30 + listed.as_bytes().len()));
    let Some(local) = local.filter(|&local| local == listed.as_bytes() && local.len() + 30 <= fixed) else {
        return Err(bad("has another name in front of its bytes".to_owned()));
    };
    let name = std::str::from_utf8(local).map_err(|_| bad("has a name that is not UTF-8".to_owned()))?;
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    // A name is looked up in the archive and never on the disk; PyTorch takes the file's own as the root.
    if !name.trim_end_matches('/').split('/').all(plain) || name.contains(['\\', '\0']) {
        return Err(bad("has a name that leaves the archive's folder".to_owned()));
    }
    Ok((name, header..end, start as usize..end as usize))
}

fn disjoint(mut spans: Vec<(Range<u64>, &str)>) -> Result<(), PickleError> {
    spans.sort_by_key(|(span, _)| (span.start, span.end));
    for pair in spans.windows(2) {
        let [(before, first), (after, second)] = pair else { continue };
        if after.start < before.end {
            return Err(PickleError::file(format!(
                "the entries `{}` and `{}` of its zip archive overlap: one ends at byte {}, the other begins at {}",
                shown(first),
                shown(second),
                before.end,
                after.start
            )));
        }
    }
    Ok(())
}

/// Names without the one folder that all entries must share.
fn below_root(names: Vec<(&str, Range<usize>)>) -> Result<HashMap<&str, Range<usize>>, PickleError> {
    let root = names.first().and_then(|(name, _)| name.split('/').next()).unwrap_or_default();
    let mut ranges = HashMap::with_capacity(names.len());
    for (name, range) in names {
        let Some(below) = name.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')) else {
            return Err(PickleError::file(format!(
                "the entry `{}` of its zip archive lies outside the folder `{}`, so that torch.save did not write it",
                shown(name),
                shown(root)
            )));
        };
        if name.ends_with('/') {
            continue;
        }
        if ranges.insert(below, range).is_some() {
            return Err(PickleError::file(format!("its zip archive holds the entry `{}` twice", shown(name))));
        }
    }
    Ok(ranges)
}
