//! A folder's weight files, safetensors or PyTorch's pickles, opened over a memory map: nothing is read until a
//! tensor's bytes are, and nothing is ever run.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::config_json::JsonFile;
use super::error::CheckpointError;
use super::header::{self, Entry};
use super::mapped::{MappedFile, Window};
use super::pickle::{self, StoredBytes, StoredTensor};
use super::tensors::{self, Dtype, HostTensor};

/// All tensors of a checkpoint, whichever of its files they are in.
#[derive(Debug)]
pub struct Shards {
    dir: PathBuf,
    files: Vec<Shard>,
    /// Name to (file, entry).
    places: HashMap<String, (usize, usize)>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Arc<MappedFile>,
    entries: Vec<StoredTensor>,
}

/// One tensor of a file, not yet read.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// The name in the file.
    pub name: &'a str,
    /// The shape.
    pub shape: &'a [usize],
    /// The element type.
    pub dtype: Dtype,
    /// The elements, row-major, little-endian; not necessarily aligned.
    pub bytes: &'a [u8],
    /// The file.
    pub file: &'a Path,
    map: &'a Arc<MappedFile>,
    stored: &'a StoredBytes,
}

impl TensorView<'_> {
    /// The elements as f32, on all threads where the tensor is large.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] for a type that is not f64, f32, f16 or bf16.
    pub fn to_f32(&self) -> Result<Vec<f32>, CheckpointError> {
        tensors::to_f32(self.dtype, self.bytes).ok_or_else(|| self.other_type())
    }

    /// The elements as f32, all of them finite: one NaN among a model's weights makes every result NaN.
    ///
    /// # Errors
    /// As [`to_f32`](Self::to_f32), and [`CheckpointError::Tensor`] with the first element that is not finite.
    pub fn to_finite_f32(&self) -> Result<Vec<f32>, CheckpointError> {
        let values = self.to_f32()?;
        self.check_finite()?;
        Ok(values)
    }

    /// That all elements are finite, read where they lie.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] with the first element that is not, and for a type that is not f64, f32, f16 or bf16.
    pub fn check_finite(&self) -> Result<(), CheckpointError> {
        match tensors::first_infinite(self.dtype, self.bytes) {
            None => Err(self.other_type()),
            Some(None) => Ok(()),
            Some(Some((at, value))) => {
                let reason = format!(
                    "holds {value} at element {at}; the file is damaged, or its training went astray: take another checkpoint"
                );
                Err(CheckpointError::tensor(self.file, self.name, reason))
            }
        }
    }

    /// A handle to the elements where they lie in the mapped file, which it keeps open; `None` where they had to be
    /// copied out of it to be in order.
    pub fn window(&self) -> Option<impl AsRef<[u8]> + Send + Sync + 'static> {
        match self.stored {
            StoredBytes::Mapped(range) => Some(Window { file: Arc::clone(self.map), range: range.clone() }),
            StoredBytes::Copied(_) => None,
        }
    }

    /// Says that the elements have been copied and will hardly be read again: their pages need not stay.
    pub fn release(&self) {
        if let StoredBytes::Mapped(range) = self.stored {
            self.map.release(range.clone());
        }
    }

    fn other_type(&self) -> CheckpointError {
        let reason = format!(
            "is of type {}, expected F32, F16, BF16 or F64; \
             quantized checkpoints must be converted first",
            self.dtype
        );
        CheckpointError::tensor(self.file, self.name, reason)
    }

    /// A tensor that shares the mapped bytes and keeps the file open by itself.
    pub fn to_host(&self) -> HostTensor {
        let shape = self.shape.to_vec();
        match self.stored {
            StoredBytes::Mapped(range) => HostTensor::shared(
                shape,
                self.dtype,
                Arc::new(Window { file: Arc::clone(self.map), range: range.clone() }),
            ),
            StoredBytes::Copied(bytes) => match HostTensor::from_bytes(shape, self.dtype, bytes.to_vec()) {
                Some(tensor) => tensor,
                None => unreachable!("as many bytes as type and shape need were copied"),
            },
        }
    }
}

impl Shards {
    /// Opens a model's folder: `model.safetensors`, or `model.safetensors.index.json` with its
    /// shards, else `pytorch_model.bin` or its index.
    ///
    /// # Errors
    /// Says what is wrong with the folder, the index or a file's header.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        Self::open_stem(dir, "model")
    }

    /// Like [`open`](Self::open) for another stem, e.g. `adapter_model`, whose pickle is `adapter_model.bin`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_stem(dir: &Path, stem: &str) -> Result<Self, CheckpointError> {
        // The name that `save_pretrained` gave a model's pickles.
        let pickle = if stem == "model" { "pytorch_model" } else { stem };
        for file in [format!("{stem}.safetensors"), format!("{pickle}.bin")] {
            let index = dir.join(format!("{file}.index.json"));
            if dir.join(&file).is_file() {
                return Self::open_file(&dir.join(file));
            }
            if index.is_file() {
                return Self::open_index(dir, &index);
            }
        }
        Err(nothing_here(dir, stem))
    }

    /// Opens one file: safetensors, or PyTorch's where its name ends in `.bin`, `.pt` or `.pth`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_file(path: &Path) -> Result<Self, CheckpointError> {
        let dir = path.parent().unwrap_or(Path::new(".")).to_path_buf();
        Self::collect(dir, vec![Shard::open(path)?])
    }

    fn open_index(dir: &Path, index: &Path) -> Result<Self, CheckpointError> {
        let placed = read_index(index)?;
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for shard in placed.values() {
            *count.entry(shard).or_default() += 1;
        }
        let mut files = Vec::with_capacity(count.len());
        for (&shard, &tensors) in &count {
            let path = dir.join(shard);
            if !path.is_file() {
                return Err(CheckpointError::MissingShard {
                    index: index.to_path_buf(),
                    shard: shard.to_owned(),
                    tensors,
                });
            }
            files.push(Shard::open(&path)?);
        }
        let shards = Self::collect(dir.to_path_buf(), files)?;
        for (tensor, shard) in &placed {
            if shards.get(tensor).is_none_or(|view| view.file != dir.join(shard)) {
                let (index, tensor, shard) = (index.to_path_buf(), tensor.clone(), shard.clone());
                return Err(CheckpointError::NotInShard { index, tensor, shard });
            }
        }
        Ok(shards)
    }

    fn collect(dir: PathBuf, files: Vec<Shard>) -> Result<Self, CheckpointError> {
        let mut places = HashMap::new();
        for (f, file) in files.iter().enumerate() {
            for (e, entry) in file.entries.iter().enumerate() {
                if let Some((other, _)) = places.insert(entry.name.clone(), (f, e)) {
                    let first = files[other].path.clone();
                    return Err(CheckpointError::DuplicateTensor {
                        tensor: entry.name.clone(),
                        first,
                        second: file.path.clone(),
                    });
                }
            }
        }
        Ok(Self { dir, files, places })
    }

    /// Has all files fetched from the disk, in the background, for whoever is about to read all tensors.
    pub fn prefetch(&self) {
        self.files.iter().for_each(|file| file.map.prefetch());
    }

    /// The bytes of all files.
    pub fn byte_len(&self) -> usize {
        self.files.iter().map(|file| file.map.len()).sum()
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// All names, file by file in the order of the headers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|view| view.name)
    }

    /// All tensors, file by file in the order of the headers.
    pub fn iter(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.files.iter().flat_map(|file| file.entries.iter().map(|entry| file.view(entry)))
    }

    /// A tensor by its name in the files.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        let &(file, entry) = self.places.get(name)?;
        Some(self.files[file].view(&self.files[file].entries[entry]))
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self, CheckpointError> {
        let map = MappedFile::open(path)?;
        let entries = match is_pickle(path) {
            true => pickle::read(&map).map_err(CheckpointError::pickle(path))?.tensors,
            false => header::parse(path, &map)?.into_iter().map(StoredTensor::from).collect(),
        };
        Ok(Self { path: path.to_path_buf(), map, entries })
    }

    fn view<'a>(&'a self, entry: &'a StoredTensor) -> TensorView<'a> {
        TensorView {
            name: &entry.name,
            shape: &entry.shape,
            dtype: entry.dtype,
            bytes: match &entry.bytes {
                StoredBytes::Mapped(range) => &self.map[range.clone()],
                StoredBytes::Copied(bytes) => bytes,
            },
            file: &self.path,
            map: &self.map,
            stored: &entry.bytes,
        }
    }
}

impl From<Entry> for StoredTensor {
    fn from(entry: Entry) -> Self {
        let Entry { name, dtype, shape, start, end } = entry;
        Self { name, dtype, shape, bytes: StoredBytes::Mapped(start..end) }
    }
}

fn is_pickle(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "bin" || e == "pt" || e == "pth")
}

/// Reads `weight_map`, tensor to shard, and refuses entries that leave the folder.
fn read_index(index: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let json = JsonFile::read(index)?;
    let map = json.fields()?.object("weight_map")?;
    let mut placed = BTreeMap::new();
    for (tensor, shard) in map.iter() {
        let Value::String(shard) = shard else {
            return Err(map.error(tensor, "the name of a shard"));
        };
        if !is_plain(shard) {
            return Err(CheckpointError::UnsafeShard {
                index: index.to_path_buf(),
                tensor: tensor.clone(),
                shard: shard.clone(),
            });
        }
        placed.insert(tensor.clone(), shard.clone());
    }
    if placed.is_empty() {
        return Err(CheckpointError::NoWeights {
            dir: index.to_path_buf(),
            reason: "its weight_map is empty".to_owned(),
        });
    }
    Ok(placed)
}

/// Whether `name` is one normal component: no separator (of any system), no `..`, no drive.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(_)), None))
        && !name.contains(['/', '\\', ':'])
}

/// Explains why a folder cannot be opened from what is in it.
fn nothing_here(dir: &Path, stem: &str) -> CheckpointError {
    let names: Vec<String> = match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
        Err(error) => return CheckpointError::io(dir, "reading the folder")(error),
    };
    let with = |suffixes: &[&str]| {
        let mut found: Vec<String> =
            names.iter().filter(|name| suffixes.iter().any(|s| name.ends_with(s))).cloned().collect();
        found.sort();
        found
    };
    let safetensors = with(&[".safetensors"]);
    let pickles = with(&[".bin", ".pt", ".pth"]);
    let shard = safetensors.iter().chain(&pickles).find_map(|name| {
        let (stem, rest) = name.split_once('-').filter(|(_, rest)| rest.contains("-of-"))?;
        Some(format!("{stem}.{}", rest.rsplit('.').next()?))
    });
    let reason = if let Some(file) = shard {
        format!("it holds shards but no {file}.index.json; copy or download that file too")
    } else {
        let all: Vec<&str> = safetensors.iter().chain(&pickles).map(String::as_str).collect();
        let there = if all.is_empty() { "no weight file".to_owned() } else { all.join(", ") };
        let pickle = if stem == "model" { "pytorch_model" } else { stem };
        format!("neither {stem}.safetensors nor {pickle}.bin is in it, nor an index of either (there is {there})")
    };
    CheckpointError::NoWeights { dir: dir.to_path_buf(), reason }
}

#[cfg(test)]
mod tests {
    use super::super::writer::{Pending, write_safetensors};
    use super::*;

    fn save(path: &Path, tensors: &[(&str, &[f32])]) {
        let mut file = fs::File::create(path).unwrap();
        let pending = tensors
            .iter()
            .map(|(name, values)| {
                Pending::borrowed(*name, vec![values.len()], Dtype::F32, bytemuck::cast_slice(values))
            })
            .collect();
        write_safetensors(&mut file, path, pending).unwrap();
    }

    fn index(dir: &Path, json: &str) {
        fs::write(dir.join("model.safetensors.index.json"), json).unwrap();
    }

    fn refused(dir: &Path, needle: &str) {
        let error = Shards::open(dir).expect_err(needle).to_string();
        assert!(error.contains(needle), "{error:?} lacks {needle:?}");
    }

    #[test]
    fn one_file_and_shards_are_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        save(&dir.path().join("one.safetensors"), &[("a", &[1.0]), ("b", &[2.0, 3.0])]);
        save(&dir.path().join("two.safetensors"), &[("c", &[4.0])]);
        index(
            dir.path(),
            r#"{"metadata":{},"weight_map":{"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}}"#,
        );
        let shards = Shards::open(dir.path()).unwrap();
        assert_eq!((shards.len(), shards.files().count()), (3, 2));
        assert_eq!(shards.get("b").unwrap().to_f32().unwrap(), [2.0, 3.0]);
        assert_eq!(shards.get("c").unwrap().file, dir.path().join("two.safetensors"));
        assert!(shards.get("d").is_none());
        let kept = shards.get("b").unwrap().to_host();
        drop(shards);
        assert_eq!(*kept.to_f32().unwrap(), [2.0, 3.0]);
        let named = Shards::open_stem(dir.path(), "two").unwrap();
        assert_eq!(named.names().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn a_bad_index_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        save(&at.join("one.safetensors"), &[("a", &[1.0])]);
        save(&at.join("two.safetensors"), &[("a", &[2.0]), ("b", &[2.0])]);
        index(at, r#"{"weight_map":{"a":"one.safetensors","z":"three.safetensors"}}"#);
        refused(at, "the shard `three.safetensors`, which holds 1 tensors");
        index(at, r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#);
        refused(at, "tensor `a` is both in");
        index(at, r#"{"weight_map":{"a":"one.safetensors","b":"one.safetensors"}}"#);
        refused(at, "tensor `b` should be in `one.safetensors`");
        for evil in ["../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", "c:one", "a\\\\b", ""] {
            index(at, &format!(r#"{{"weight_map":{{"a":"{evil}"}}}}"#));
            refused(at, "a plain file name");
        }
        index(at, r#"{"weight_map":{"a":3}}"#);
        refused(at, "weight_map.a is 3, expected the name of a shard");
        index(at, r#"{"weight_map":{}}"#);
        refused(at, "weight_map is empty");
        index(at, r#"{"metadata":{}}"#);
        refused(at, "weight_map is missing");
        index(at, "{\n  \"weight_map\": nope}");
        refused(at, "index.json:2:18: not valid JSON");
    }

    #[test]
    fn folders_without_weights_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        refused(&at.join("absent"), "absent: reading the folder failed");
        refused(at, "there is no weight file");
        fs::write(at.join("optimizer.pt"), b"PK").unwrap();
        refused(at, "there is optimizer.pt");
        fs::write(at.join("pytorch_model.bin"), b"PK").unwrap();
        refused(at, "pytorch_model.bin");
        fs::remove_file(at.join("pytorch_model.bin")).unwrap();
        save(&at.join("adapter_model.safetensors"), &[("a", &[1.0])]);
        refused(at, "there is adapter_model.safetensors");
        save(&at.join("model-00001-of-00002.safetensors"), &[("a", &[1.0])]);
        refused(at, "shards but no model.safetensors.index.json");
    }

    #[test]
    fn truncation_is_found_at_any_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        save(&path, &[("a", &[1.0, 2.0]), ("b", &[3.0])]);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            refused(dir.path(), "model.safetensors");
        }
    }

    #[test]
    fn integers_are_refused_as_weights() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let mut file = fs::File::create(&path).unwrap();
        write_safetensors(&mut file, &path, vec![Pending::borrowed("ids", vec![1], Dtype::I64, &[0; 8])]).unwrap();
        let error = Shards::open(dir.path()).unwrap().get("ids").unwrap().to_f32().unwrap_err().to_string();
        assert!(error.contains("tensor `ids` is of type I64, expected F32"), "{error}");
    }
}
