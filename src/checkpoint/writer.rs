//! Writing safetensors files and model folders, one tensor in memory at a time.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::atomic::DirWriter;
use super::error::CheckpointError;
use super::tensors::{Dtype, HostTensor, byte_len};

/// A tensor about to be written; its bytes are asked for when its turn comes.
pub struct Pending<'a> {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Bytes<'a>,
}

type Lazy<'a> = Box<dyn FnOnce() -> Result<Cow<'a, [u8]>, CheckpointError> + 'a>;

enum Bytes<'a> {
    Ready(Cow<'a, [u8]>),
    Host(HostTensor),
    Lazy(Lazy<'a>),
}

impl<'a> Pending<'a> {
    /// A tensor whose little-endian bytes lie in memory.
    pub fn borrowed(name: impl Into<String>, shape: Vec<usize>, dtype: Dtype, bytes: &'a [u8]) -> Self {
        Self { name: name.into(), shape, dtype, bytes: Bytes::Ready(Cow::Borrowed(bytes)) }
    }

    /// A tensor that owns its little-endian bytes.
    pub fn owned(name: impl Into<String>, shape: Vec<usize>, dtype: Dtype, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), shape, dtype, bytes: Bytes::Ready(Cow::Owned(bytes)) }
    }

    /// A host tensor.
    pub fn host(name: impl Into<String>, tensor: HostTensor) -> Self {
        Self { name: name.into(), shape: tensor.shape().to_vec(), dtype: tensor.dtype(), bytes: Bytes::Host(tensor) }
    }

    /// A tensor whose little-endian bytes are made when they are written and dropped right after:
    /// what lies on a device comes to the host one tensor at a time.
    pub fn lazy(
        name: impl Into<String>,
        shape: Vec<usize>,
        dtype: Dtype,
        bytes: impl FnOnce() -> Result<Cow<'a, [u8]>, CheckpointError> + 'a,
    ) -> Self {
        Self { name: name.into(), shape, dtype, bytes: Bytes::Lazy(Box::new(bytes)) }
    }

    /// The name it will have in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn byte_len(&self, path: &Path) -> Result<usize, CheckpointError> {
        byte_len(self.dtype, &self.shape).ok_or_else(|| {
            CheckpointError::tensor(
                path,
                &self.name,
                format!("has the impossible shape {:?} of {}", self.shape, self.dtype),
            )
        })
    }

    fn write(self, sink: &mut dyn Write, path: &Path) -> Result<(), CheckpointError> {
        let needed = self.byte_len(path)?;
        let host;
        let bytes: Cow<'_, [u8]> = match self.bytes {
            Bytes::Ready(bytes) => bytes,
            Bytes::Host(tensor) => {
                host = tensor;
                Cow::Borrowed(host.bytes())
            }
            Bytes::Lazy(make) => make()?,
        };
        if bytes.len() != needed {
            let reason = format!(
                "of shape {:?} and type {} needs {needed} bytes, {} were given",
                self.shape,
                self.dtype,
                bytes.len()
            );
            return Err(CheckpointError::tensor(path, &self.name, reason));
        }
        sink.write_all(&bytes).map_err(CheckpointError::io(path, "writing"))
    }
}

/// Writes one safetensors file with the metadata `{"format": "pt"}` that transformers insists on.
/// Returns the tensors' bytes.
///
/// Tensors go in order of falling alignment, then name, as the reference writer orders them, so
/// that every tensor is aligned in a memory map and equal contents give equal files.
///
/// # Errors
/// A name twice, bytes that do not fill their shape, or the sink's errors; `path` is for messages.
pub fn write_safetensors(
    sink: &mut dyn Write,
    path: &Path,
    mut tensors: Vec<Pending<'_>>,
) -> Result<u64, CheckpointError> {
    tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0usize;
    for tensor in &tensors {
        let end = at + tensor.byte_len(path)?;
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]});
        if header.insert(tensor.name.clone(), entry).is_some() {
            return Err(CheckpointError::tensor(path, &tensor.name, "is to be written twice"));
        }
        at = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let io = |error| CheckpointError::io(path, "writing")(error);
    sink.write_all(&(text.len() as u64).to_le_bytes()).map_err(io)?;
    sink.write_all(&text).map_err(io)?;
    for tensor in tensors {
        tensor.write(sink, path)?;
    }
    Ok(at as u64)
}

/// Writes `{stem}.safetensors` into a folder or, where the tensors exceed `shard_bytes`,
/// `{stem}-00001-of-00003.safetensors` … with `{stem}.safetensors.index.json`, split and named as
/// Hugging Face does (tensors in the order given; one larger than the limit has a shard of its
/// own). Returns the tensors' bytes.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_model(
    folder: &mut DirWriter,
    stem: &str,
    tensors: Vec<Pending<'_>>,
    shard_bytes: Option<u64>,
) -> Result<u64, CheckpointError> {
    let shards = split(folder.target(), tensors, shard_bytes.unwrap_or(u64::MAX))?;
    let count = shards.len();
    if count <= 1 {
        let tensors = shards.into_iter().next().unwrap_or_default();
        return write_one(folder, &format!("{stem}.safetensors"), tensors);
    }
    let mut total = 0;
    let mut places: Vec<(String, String)> = Vec::new();
    for (number, tensors) in shards.into_iter().enumerate() {
        let name = format!("{stem}-{:05}-of-{count:05}.safetensors", number + 1);
        places.extend(tensors.iter().map(|tensor| (tensor.name.clone(), name.clone())));
        total += write_one(folder, &name, tensors)?;
    }
    places.sort();
    if let Some(pair) = places.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(CheckpointError::tensor(folder.target(), &pair[0].0, "is to be written twice"));
    }
    let map: Map<String, Value> = places.into_iter().map(|(tensor, file)| (tensor, Value::String(file))).collect();
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    folder.write_json(&format!("{stem}.safetensors.index.json"), &index)?;
    Ok(total)
}

fn write_one(folder: &mut DirWriter, name: &str, tensors: Vec<Pending<'_>>) -> Result<u64, CheckpointError> {
    let path = folder.target().join(name);
    folder.write_with(name, |file| write_safetensors(file, &path, tensors))
}

/// Cuts the list wherever the next tensor would exceed the limit.
fn split<'a>(path: &Path, tensors: Vec<Pending<'a>>, limit: u64) -> Result<Vec<Vec<Pending<'a>>>, CheckpointError> {
    let mut shards: Vec<Vec<Pending<'a>>> = Vec::new();
    let mut filled = 0u64;
    for tensor in tensors {
        let size = tensor.byte_len(path)? as u64;
        match shards.last_mut() {
            Some(shard) if filled.saturating_add(size) <= limit => {
                filled += size;
                shard.push(tensor);
            }
            _ => {
                filled = size;
                shards.push(vec![tensor]);
            }
        }
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::super::atomic::Manifest;
    use super::super::shards::Shards;
    use super::*;
    use safetensors::SafeTensors;

    fn pending(name: &str, values: &[f32]) -> Pending<'static> {
        Pending::host(name, HostTensor::from_f32(vec![values.len()], values.to_vec()).unwrap())
    }

    #[test]
    fn the_reference_reader_reads_it_and_the_reference_writer_writes_the_same() {
        let (halves, floats) = ([1u8, 2, 3, 4, 5, 6], [7u8; 8]);
        let tensors = vec![
            Pending::borrowed("z.half", vec![3], Dtype::F16, &halves),
            Pending::lazy("b", vec![2, 1], Dtype::F32, || Ok(Cow::Owned(vec![7u8; 8]))),
            Pending::owned("a", vec![], Dtype::F32, vec![9u8; 4]),
            Pending::owned("none", vec![0, 4], Dtype::F32, vec![]),
        ];
        let mut ours = Vec::new();
        assert_eq!(write_safetensors(&mut ours, Path::new("x"), tensors).unwrap(), 18);
        let read = SafeTensors::deserialize(&ours).unwrap();
        assert_eq!(read.tensor("z.half").unwrap().data(), halves);
        assert_eq!(read.tensor("b").unwrap().shape(), [2, 1]);

        let view =
            |dtype, shape: &[usize], data| safetensors::tensor::TensorView::new(dtype, shape.to_vec(), data).unwrap();
        let theirs = safetensors::serialize(
            [
                ("z.half", view(Dtype::F16, &[3], &halves[..])),
                ("b", view(Dtype::F32, &[2, 1], &floats[..])),
                ("a", view(Dtype::F32, &[], &[9u8; 4][..])),
                ("none", view(Dtype::F32, &[0, 4], &[][..])),
            ],
            Some([("format".to_owned(), "pt".to_owned())].into()),
        )
        .unwrap();
        assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs));
    }

    #[test]
    fn bad_tensors_are_refused() {
        let write = |tensors| write_safetensors(&mut Vec::new(), Path::new("x"), tensors).unwrap_err().to_string();
        let error = write(vec![Pending::owned("a", vec![3], Dtype::F32, vec![0; 8])]);
        assert!(error.contains("tensor `a` of shape [3] and type F32 needs 12 bytes, 8 were given"), "{error}");
        let error = write(vec![pending("a", &[1.0]), pending("a", &[2.0])]);
        assert!(error.contains("written twice"), "{error}");
    }

    #[test]
    fn large_models_are_sharded_as_hugging_face_does() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("final");
        let mut folder = DirWriter::create(&target).unwrap();
        let tensors =
            vec![pending("d", &[1.0; 3]), pending("c", &[2.0]), pending("b", &[3.0; 9]), pending("a", &[4.0])];
        assert_eq!(write_model(&mut folder, "model", tensors, Some(16)).unwrap(), 56);
        folder.commit(Manifest::Omitted).unwrap();
        let index = std::fs::read_to_string(target.join("model.safetensors.index.json")).unwrap();
        let index: Value = serde_json::from_str(&index).unwrap();
        assert_eq!(
            index,
            json!({"metadata": {"total_size": 56}, "weight_map": {
                "a": "model-00003-of-00003.safetensors", "b": "model-00002-of-00003.safetensors",
                "c": "model-00001-of-00003.safetensors", "d": "model-00001-of-00003.safetensors"}})
        );
        let shards = Shards::open(&target).unwrap();
        assert_eq!(shards.get("b").unwrap().to_f32().unwrap(), [3.0; 9]);
        assert_eq!(shards.len(), 4);
    }

    #[test]
    fn small_models_are_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("final");
        let mut folder = DirWriter::create(&target).unwrap();
        write_model(&mut folder, "adapter_model", vec![pending("a", &[1.0])], Some(16)).unwrap();
        folder.commit(Manifest::Omitted).unwrap();
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 1);
        assert_eq!(Shards::open_stem(&target, "adapter_model").unwrap().len(), 1);
    }
}
