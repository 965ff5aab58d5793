//! Folders that do not fit: the message names what, where, both values and what to do.

use super::case::{device, fixtures};
use firebrick::checkpoint::bridge::Hold;
use firebrick::checkpoint::{Dtype, Pending, Shards, write_safetensors};
use firebrick::models::Llama;
use firebrick::projector::{Linear, Mlp, Mlp2xGelu, NoProjector, Projector};
use firebrick::recipe::{Opened, RecipeError};
use firebrick::vision::{Clip, NoVision, VisionEncoder};
use std::path::Path;

/// A tensor on its way into a damaged copy: name, shape, f32 bytes.
type Tensors = Vec<(String, Vec<usize>, Vec<u8>)>;

/// A copy of `llava_gqa` with other tensors or another `config.json`.
fn damaged(change: impl FnOnce(&mut Tensors), config: impl FnOnce(String) -> String) -> tempfile::TempDir {
    let (from, to) = (fixtures().join("llava_gqa/model"), tempfile::tempdir().unwrap());
    for file in std::fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    let shards = Shards::open(&from).unwrap();
    let mut tensors: Tensors =
        shards.iter().map(|v| (v.name.to_owned(), v.shape.to_vec(), v.to_host().bytes().to_vec())).collect();
    change(&mut tensors);
    let pending = tensors.into_iter().map(|(name, shape, bytes)| Pending::owned(name, shape, Dtype::F32, bytes));
    let path = to.path().join("model.safetensors");
    write_safetensors(&mut std::fs::File::create(&path).unwrap(), &path, pending.collect()).unwrap();
    let path = to.path().join("config.json");
    std::fs::write(&path, config(std::fs::read_to_string(&path).unwrap())).unwrap();
    to
}

fn open<V: VisionEncoder, P: Projector>(dir: &Path, vision: &V, projector: &P) -> Result<(), RecipeError> {
    Opened::new(dir, &Llama::default(), vision, projector, &device())?
        .load(projector, &|_| Hold::Frozen, &device())
        .map(|_| ())
}

/// Opening `dir` as a LLaVA-1.5 fails with a message that has all of `parts`.
fn check(dir: &Path, parts: &[&str]) {
    check_as(dir, &Clip::default(), &Mlp2xGelu::default(), parts);
}

fn check_as<V: VisionEncoder, P: Projector>(dir: &Path, vision: &V, projector: &P, parts: &[&str]) {
    let error = open(dir, vision, projector).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
}

#[test]
fn a_missing_tensor() {
    let dir = damaged(|tensors| tensors.retain(|(n, ..)| !n.ends_with("layers.1.mlp.up_proj.weight")), |c| c);
    check(dir.path(), &["layers.1.mlp.up_proj.weight", "[96, 48]", &dir.path().display().to_string()]);
}

#[test]
fn an_unexpected_tensor() {
    let dir =
        damaged(|tensors| tensors.push(("model.language_model.extra.weight".into(), vec![2, 3], vec![0; 24])), |c| c);
    check(dir.path(), &["model.language_model.extra.weight", "[2, 3]", "model.safetensors"]);
}

#[test]
fn a_misshapen_tensor() {
    let transpose = |tensors: &mut Tensors| {
        let (_, shape, _) = tensors.iter_mut().find(|(n, ..)| n.ends_with("layers.0.mlp.down_proj.weight")).unwrap();
        shape.reverse();
    };
    let dir = damaged(transpose, |c| c);
    check(dir.path(), &["layers.0.mlp.down_proj.weight", "[48, 96]", "[96, 48]", "model.safetensors"]);
}

#[test]
fn a_language_model_of_another_family() {
    let dir = damaged(|_| {}, |config| config.replace(r#""model_type": "llama""#, r#""model_type": "gemma""#));
    check(dir.path(), &["config.json", "gemma", "model: Llama", "llama, mistral, qwen2"]);
}

#[test]
fn a_tower_of_another_family() {
    let dir = damaged(|_| {}, |config| config.replace("clip_vision_model", "siglip_vision_model"));
    check(dir.path(), &["config.json", "siglip_vision_model", "vision: Clip", "clip_vision_model"]);
}

#[test]
fn a_projector_of_another_depth() {
    let dir = fixtures().join("llava_gqa/model");
    check_as(
        &dir,
        &Clip::default(),
        &Linear::default(),
        &["projector: Linear", "2 linear layers", "projector: Mlp2xGelu"],
    );
    check_as(
        &dir,
        &Clip::default(),
        &Mlp { depth: 3, ..Mlp::default() },
        &["Mlp<depth: 3>", "2 linear layers", "projector: Mlp2xGelu"],
    );
    let one = damaged(|tensors| tensors.retain(|(n, ..)| !n.contains("linear_2")), |c| c);
    check(one.path(), &["1 linear layers", "projector: Linear"]);
}

#[test]
fn a_folder_of_another_structure() {
    let (llava, text) = (fixtures().join("llava_gqa/model"), fixtures().join("llama_text/model"));
    check_as(&llava, &NoVision::default(), &NoProjector::default(), &["LLaVA", "vision: Clip"]);
    check(&text, &["language model alone", "vision.from"]);
    let twice = Clip { from: Some(text.display().to_string()), ..Clip::default() };
    check_as(&llava, &twice, &Mlp2xGelu::default(), &["a vision tower of its own", "vision.from"]);
}
