//! Files of every format, made byte by byte, so that they can be wrong.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A file of the committed fixtures.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            // Written anew: a fixture may be read-only, its copy may not.
            false => fs::write(target, fs::read(entry.path()).unwrap()).unwrap(),
        }
    }
}

/// Changes the JSON in a file.
pub fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Sets the value at a JSON pointer whose parent is there.
pub fn set(path: &Path, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    edit(path, |root| root.pointer_mut(parent).unwrap()[key] = value);
}

/// Cuts a file to a length.
pub fn cut(path: &Path, length: usize) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..length]).unwrap();
}

/// `[[[[…`, deeper than any stack.
pub fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

/// A safetensors file: its header as JSON, and the tensors' bytes.
pub struct Safetensors {
    /// The header; objects keep the order of their keys.
    pub header: Value,
    /// The bytes behind it.
    pub data: Vec<u8>,
}

impl Safetensors {
    /// Reads a sound file.
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        Self { header, data: bytes[8 + length..].to_vec() }
    }

    /// The name of the tensor whose bytes come first.
    pub fn first(&self) -> String {
        let tensors = self.header.as_object().unwrap().iter().filter(|(_, entry)| entry["data_offsets"].is_array());
        let first = tensors.min_by_key(|(_, entry)| entry["data_offsets"][0].as_u64());
        first.unwrap().0.clone()
    }

    /// The first bytes of a tensor.
    pub fn bytes_of(&mut self, name: &str) -> &mut [u8] {
        let start = self.header[name]["data_offsets"][0].as_u64().unwrap() as usize;
        let end = self.header[name]["data_offsets"][1].as_u64().unwrap() as usize;
        &mut self.data[start..end]
    }

    /// Writes it.
    pub fn write(&self, path: &Path) {
        write_raw(path, self.header.to_string().as_bytes(), &self.data);
    }
}

/// A safetensors file with any header.
pub fn write_raw(path: &Path, header: &[u8], data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(data);
    fs::write(path, bytes).unwrap();
}

/// Changes a safetensors file.
pub fn edit_tensors(path: &Path, change: impl FnOnce(&mut Safetensors)) {
    let mut file = Safetensors::read(path);
    change(&mut file);
    file.write(path);
}

/// CRC-32 as PNG and zip have it.
pub fn crc32(bytes: &[u8]) -> u32 {
    let table = |byte: u32| (0..8).fold(byte, |c, _| if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 });
    !bytes.iter().fold(!0u32, |crc, &byte| table((crc ^ u32::from(byte)) & 0xFF) ^ (crc >> 8))
}

/// A PNG of 8-bit RGB with any size in its header and any compressed bytes.
pub fn png(width: u32, height: u32, compressed: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([8, 2, 0, 0, 0]);
    for (kind, content) in [(b"IHDR", &header[..]), (b"IDAT", compressed), (b"IEND", &[])] {
        let named = [&kind[..], content].concat();
        bytes.extend((content.len() as u32).to_be_bytes());
        bytes.extend(&named);
        bytes.extend(crc32(&named).to_be_bytes());
    }
    bytes
}

/// A zip archive of stored entries, as `torch.save` lays them out.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let at = bytes.len() as u32;
        // Flags, method and time are 0; then checksum, both sizes, length of the name, length of extra fields.
        let mut common = vec![0u8; 8];
        common.extend(crc32(content).to_le_bytes());
        common.extend([(content.len() as u32).to_le_bytes(); 2].concat());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        bytes.extend([b"PK\x03\x04\x14\x00".as_slice(), &common, name.as_bytes(), content].concat());
        directory.extend([b"PK\x01\x02\x14\x00\x14\x00".as_slice(), &common].concat());
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (count, at) = ((entries.len() as u16).to_le_bytes(), bytes.len() as u32);
    bytes.extend(&directory);
    bytes.extend([b"PK\x05\x06\0\0\0\0".as_slice(), &count, &count].concat());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(at.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// A record of LLaVA with one question.
pub fn record(image: Option<&str>) -> Value {
    let question = if image.is_some() { "<image>\nWhat?" } else { "What?" };
    let mut record = json!({"id": "a", "conversations": [
        {"from": "human", "value": question}, {"from": "gpt", "value": "An answer."}
    ]});
    if let Some(image) = image {
        record["image"] = image.into();
    }
    record
}
