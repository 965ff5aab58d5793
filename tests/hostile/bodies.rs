//! What is done with any bytes at all, shared with the fuzz targets: a reader refuses them with a message that names the
//! file, or what it read is sound.

use firebrick::checkpoint::pickle::{self, StoredBytes};
use firebrick::checkpoint::{Shards, byte_len};
use firebrick::data::expand::{count, nth};
use firebrick::data::{
    AlignPreferenceData, AlpacaData, ChatData, ClassificationData, DataKind, Dataset, LlavaData, MessagesData,
    MessagesImagesData, PairsMarginData, PlainDpoData, PreferenceData, RlhfvData, SafetyData, ShareGptData, StepsData,
    UnpairedPreferenceData, VlFeedbackData,
};
use std::fs;
use std::path::Path;

/// An index and a shard. The first two bytes are the length of the index, little-endian; the index places tensors in
/// `a.safetensors`, which holds what follows.
pub fn safetensors_index(dir: &Path, bytes: &[u8]) {
    let (length, rest) = bytes.split_at(bytes.len().min(2));
    let length = length.iter().rev().fold(0, |n, &byte| n << 8 | usize::from(byte)).min(rest.len());
    fs::write(dir.join("model.safetensors.index.json"), &rest[..length]).unwrap();
    fs::write(dir.join("a.safetensors"), &rest[length..]).unwrap();
    let shards = match Shards::open(dir) {
        Ok(shards) => shards,
        Err(error) => return assert!(error.to_string().contains(&*dir.to_string_lossy()), "{error}"),
    };
    for view in shards.iter() {
        assert_eq!(byte_len(view.dtype, view.shape), Some(view.bytes.len()), "{}", view.name);
        assert_eq!(view.file.parent(), Some(dir), "{}", view.name);
        assert_eq!(view.to_host().bytes(), view.bytes, "{}", view.name);
        match view.to_f32() {
            Ok(values) => assert_eq!(values.len(), view.shape.iter().product::<usize>(), "{}", view.name),
            Err(error) => assert!(error.to_string().contains("a.safetensors"), "{error}"),
        }
    }
    assert_eq!(shards.iter().count(), shards.len());
}

/// Data files. An even first byte makes the rest a `.json`, an odd one a `.jsonl`.
pub fn records(dir: &Path, bytes: &[u8]) {
    let (first, rest) = bytes.split_at(bytes.len().min(1));
    let lines = first.first().is_some_and(|byte| byte % 2 == 1);
    let path = dir.join(if lines { "data.jsonl" } else { "data.json" });
    fs::write(&path, rest).unwrap();
    read_all(LlavaData::default(), &path, rest);
    read_all(MessagesData::default(), &path, rest);
    // Reading each file as every kind would take long: the length says as which other one.
    match rest.len() % 14 {
        0 => read_all(MessagesImagesData::default(), &path, rest),
        1 => read_all(ChatData::default(), &path, rest),
        2 => read_all(AlpacaData::default(), &path, rest),
        3 => read_all(ShareGptData::default(), &path, rest),
        4 => read_all(PairsMarginData::default(), &path, rest),
        5 => read_all(PreferenceData::default(), &path, rest),
        6 => read_all(SafetyData::default(), &path, rest),
        7 => read_all(PlainDpoData::default(), &path, rest),
        8 => read_all(RlhfvData::default(), &path, rest),
        9 => read_all(UnpairedPreferenceData::default(), &path, rest),
        10 => read_all(ClassificationData::default(), &path, rest),
        11 => read_all(StepsData::default(), &path, rest),
        12 => read_all(AlignPreferenceData::default(), &path, rest),
        _ => read_all(VlFeedbackData::default(), &path, rest),
    }
}

fn read_all<K: DataKind>(kind: K, path: &Path, content: &[u8]) {
    let names_file = |error: String| assert!(error.contains(&*path.to_string_lossy()), "{error}");
    let lines = content.split(|&byte| byte == b'\n').count();
    let data = match Dataset::open(kind, &[path.to_owned()], &[]) {
        Ok(data) => data,
        Err(error) => return names_file(error.to_string()),
    };
    assert!(!data.is_empty(), "a file without records was taken");
    for index in 0..data.len() {
        assert!((1..=lines).contains(&data.place(index).line), "{} of {lines} lines", data.place(index));
        match data.sample(index) {
            Ok(sample) => assert_eq!(sample.conversation.image_count(), sample.images.len()),
            Err(error) => names_file(error.to_string()),
        }
        if K::EXPANDS {
            let (records, _) = count(data.kind(), data.row(index), &data.place(index));
            for n in 0..records {
                let row = data.row(index).and_then(|row| nth(data.kind(), row, n, &data.place(index)));
                if let Err(error) = row.and_then(|row| data.kind().parse(&row, &data.place(index))) {
                    names_file(error.to_string());
                }
            }
        }
    }
}

/// PyTorch's files.
pub fn torch(bytes: &[u8]) {
    let Ok(contents) = pickle::read(bytes) else { return };
    let mut copied = 0;
    for tensor in &contents.tensors {
        let needed = byte_len(tensor.dtype, &tensor.shape);
        match &tensor.bytes {
            StoredBytes::Mapped(range) => {
                assert_eq!(needed, bytes.get(range.clone()).map(<[u8]>::len), "{}", tensor.name)
            }
            StoredBytes::Copied(copy) => {
                assert_eq!(needed, Some(copy.len()), "{}", tensor.name);
                copied += copy.len();
            }
        }
    }
    assert!(copied <= bytes.len(), "{copied} bytes were copied out of {}", bytes.len());
}
