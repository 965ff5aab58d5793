//! A second reader of event files, which shares nothing with the writer: its CRC goes bit by bit, its protobuf fields
//! are looked up by number.

use std::path::Path;

/// A field of a message: its number and its bytes or its number's bits.
#[derive(Clone, Debug)]
pub enum Field {
    /// A varint.
    Varint(u64),
    /// Eight or four bytes.
    Fixed(u64),
    /// A text, bytes or a message.
    Bytes(Vec<u8>),
}

/// A message, read one level deep.
#[derive(Clone, Debug)]
pub struct Message(pub Vec<(u64, Field)>);

impl Message {
    pub fn parse(bytes: &[u8]) -> Self {
        let (mut at, mut fields) = (0, Vec::new());
        while at < bytes.len() {
            let key = varint(bytes, &mut at);
            let field = match key & 7 {
                0 => Field::Varint(varint(bytes, &mut at)),
                1 => Field::Fixed(u64::from_le_bytes(take(bytes, &mut at, 8).try_into().unwrap())),
                2 => {
                    let length = varint(bytes, &mut at) as usize;
                    Field::Bytes(take(bytes, &mut at, length).to_vec())
                }
                5 => Field::Fixed(u32::from_le_bytes(take(bytes, &mut at, 4).try_into().unwrap()).into()),
                other => panic!("wire type {other}"),
            };
            fields.push((key >> 3, field));
        }
        Self(fields)
    }

    pub fn get(&self, number: u64) -> Option<&Field> {
        self.0.iter().find(|(n, _)| *n == number).map(|(_, field)| field)
    }

    /// The field at a path of numbers through nested messages.
    pub fn at(&self, path: &[u64]) -> Field {
        let field = self.get(path[0]).unwrap_or_else(|| panic!("no field {path:?} in {self:?}")).clone();
        if path.len() == 1 { field } else { field.nested().at(&path[1..]) }
    }
}

impl Field {
    pub fn at(&self, path: &[u64]) -> Field {
        self.nested().at(path)
    }

    pub fn nested(&self) -> Message {
        Message::parse(self.bytes())
    }

    pub fn bytes(&self) -> &[u8] {
        let Self::Bytes(bytes) = self else { panic!("{self:?} is not bytes") };
        bytes
    }

    pub fn varint(&self) -> u64 {
        let Self::Varint(value) = self else { panic!("{self:?} is not a varint") };
        *value
    }

    fn fixed(&self) -> u64 {
        let Self::Fixed(value) = self else { panic!("{self:?} is not of fixed width") };
        *value
    }
}

fn varint(bytes: &[u8], at: &mut usize) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, at, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    panic!("a varint of more than ten bytes");
}

fn take<'a>(bytes: &'a [u8], at: &mut usize, length: usize) -> &'a [u8] {
    *at += length;
    &bytes[*at - length..*at]
}

/// The payloads of a file of records, every CRC checked; the rest where the last record is torn.
pub fn records(mut bytes: &[u8]) -> (Vec<Vec<u8>>, &[u8]) {
    let mut found = Vec::new();
    while bytes.len() >= 16 {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        if bytes.len() < 16 + length {
            break;
        }
        let sum = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(sum(8), masked_crc(&bytes[..8]), "CRC of a length");
        let payload = &bytes[12..12 + length];
        assert_eq!(sum(12 + length), masked_crc(payload), "CRC of a payload");
        found.push(payload.to_vec());
        bytes = &bytes[16 + length..];
    }
    (found, bytes)
}

fn masked_crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    (!crc).rotate_left(17).wrapping_add(0xA282_EAD8)
}

/// A value with its step.
#[derive(Clone, Debug)]
pub struct Seen {
    pub step: i64,
    pub tag: String,
    pub value: Message,
}

/// All event files of a folder.
#[derive(Debug)]
pub struct Files {
    /// Every value in the files, as a reader sees it that knows nothing of restarts.
    pub all: Vec<Seen>,
    /// What is left of them to a reader that drops what a restart says does not count.
    pub counted: Vec<Seen>,
    /// How many files there are.
    pub files: usize,
    /// How many starts have been met; TensorBoard takes the first for no restart.
    starts: usize,
}

impl Files {
    pub fn read(dir: &Path) -> Self {
        let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let mut files = Self { all: Vec::new(), counted: Vec::new(), files: paths.len(), starts: 0 };
        for path in paths {
            let bytes = std::fs::read(&path).unwrap();
            let (records, rest) = records(&bytes);
            assert!(rest.is_empty(), "{}: {} bytes after the last record", path.display(), rest.len());
            let version = Message::parse(&records[0]);
            assert_eq!(version.at(&[3]).bytes(), b"brain.Event:2");
            records.iter().for_each(|record| files.add(&Message::parse(record)));
        }
        files
    }

    fn add(&mut self, event: &Message) {
        assert!(f64::from_bits(event.at(&[1]).fixed()) > 1.7e9, "the time of {event:?}");
        let step = event.get(2).map_or(0, |step| step.varint() as i64);
        if event.get(7).is_some_and(|log| log.at(&[1]).varint() == 1) {
            if self.starts > 0 {
                self.counted.retain(|seen| seen.step < step);
            }
            self.starts += 1;
        }
        let Some(summary) = event.get(5) else { return };
        for (number, value) in summary.nested().0 {
            assert_eq!(number, 1);
            let value = value.nested();
            let tag = String::from_utf8(value.at(&[1]).bytes().to_vec()).unwrap();
            let seen = Seen { step, tag, value };
            self.all.push(seen.clone());
            self.counted.push(seen);
        }
    }

    /// The value of a tag at a step.
    pub fn find(&self, tag: &str, step: i64) -> Option<&Message> {
        self.all.iter().find(|seen| seen.tag == tag && seen.step == step).map(|seen| &seen.value)
    }

    /// Every point of a curve.
    pub fn scalars(&self) -> Vec<(String, i64, f32)> {
        let scalar = |seen: &Seen| {
            let bits = seen.value.get(2)?.fixed() as u32;
            Some((seen.tag.clone(), seen.step, f32::from_bits(bits)))
        };
        self.all.iter().filter_map(scalar).collect()
    }
}
