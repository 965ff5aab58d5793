//! Parts of a model that lie in folders of their own: the vision tower, the projector.

use super::{RecipeError, fetch};
use crate::checkpoint::bridge::{self, Hold};
use crate::checkpoint::hub::Wanted;
use crate::checkpoint::{CheckpointError, Rename, Shards};
use crate::models::CausalLm;
use crate::projector::ProjectorModel;
use crate::vision::VisionTower;
use crate::vlm::{IGNORED, Layout, Part, Vlm};
use burn::tensor::Device;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The folder that an original configuration means by `mm_vision_tower`: a path, a folder beside the weights, or a name on
/// the hub.
///
/// # Errors
/// [`RecipeError::Structure`] naming where it was sought, [`RecipeError::Hub`].
pub(super) fn tower_folder(dir: &Path, name: &str, wanted: Wanted) -> Result<PathBuf, RecipeError> {
    if let Some(path) = local_tower(dir, name) {
        return Ok(path);
    }
    if fetch::is_remote(Path::new(name)) {
        return fetch::folder(Path::new(name), wanted);
    }
    Err(RecipeError::Structure {
        dir: dir.to_owned(),
        problem: format!("takes its vision tower from {name}, which is no folder here"),
        advice: "give that tower's folder: --set vision.from=DIR to a recipe, --vision-from DIR to a tool".to_owned(),
    })
}

/// The folder on this machine that an original configuration means. The model's own folder goes before the working
/// directory, in which a tower of another model may have the same name.
pub(super) fn local_tower(dir: &Path, name: &str) -> Option<PathBuf> {
    let last = name.rsplit('/').next().unwrap_or(name);
    // Joined to an absolute name, the folder gives way.
    let sought = [dir.join(name), dir.join(last), PathBuf::from(name)];
    sought.into_iter().find(|path| path.join("config.json").is_file())
}

/// Gives a tower the weights of its own folder.
///
/// # Errors
/// [`CheckpointError`] naming every tensor that is missing, unexpected or misshapen.
pub(super) fn load_tower<T: VisionTower>(
    tower: T,
    dir: &Path,
    hold: &dyn Fn(&str) -> Hold,
    device: &Device,
) -> Result<T, RecipeError> {
    let shards = Shards::open(dir)?;
    let inner = tower.file_key("");
    // A whole CLIP prefixes its image half; the tower saved alone may not.
    let prefixed = shards.names().any(|name| !inner.is_empty() && name.starts_with(&inner));
    let rules: Vec<(&str, &str)> = if prefixed { Vec::new() } else { vec![("", inner.as_str())] };
    let ignore: Vec<&str> = IGNORED.iter().chain(T::BESIDE).copied().collect();
    let key = |name: &str| Some(tower.file_key(name));
    let names = bridge::FileNames { key: &key, rename: Rename(&rules), ignore: &ignore };
    let hold = |name: &str| hold(&format!("vision_tower.{name}"));
    Ok(bridge::load(tower.clone(), &shards, &names, &hold, device)?)
}

/// Gives the projector the weights in `path`: a file (`mm_projector.bin`, a safetensors file), or the folder of a run or a
/// checkpoint. What an original LoRA trained beside itself (`non_lora_trainables.bin`) may hold other parts too.
///
/// # Errors
/// [`CheckpointError`] naming every tensor of the projector that is missing or misshapen, and in a file of its own those
/// that no part of the model has.
pub(super) fn load_projector<L: CausalLm, T: VisionTower, P: ProjectorModel>(
    model: Vlm<L, T, P>,
    path: &Path,
    hold: &dyn Fn(&str) -> Hold,
    device: &Device,
) -> Result<Vlm<L, T, P>, RecipeError> {
    let (shards, origin) = open_projector(path)?;
    let alone = origin != Origin::Model;
    let rules = model.projector_renaming();
    // Rows of new tokens are no table of this model's.
    let beside = |name: &str| origin.has_rows_of_new_tokens() && is_table(name);
    let held: HashSet<String> = shards.names().map(|name| rules.apply(name)).collect();
    let original = held.iter().any(|name| name.starts_with("model.mm_projector."));
    let layout = if original { Layout::Original } else { Layout::Composed };
    let key = |name: &str| {
        let key = model.file_key(name, layout)?;
        let wanted = Part::of(name) == Part::Projector || (alone && held.contains(&key) && !beside(&key));
        wanted.then_some(key)
    };
    let others = held.iter().filter(|name| beside(name) || (!alone && !name.contains("projector.")));
    let ignore: Vec<&str> = others.map(String::as_str).collect();
    let names = bridge::FileNames { key: &key, rename: Rename(&rules.pairs()), ignore: &ignore };
    Ok(bridge::load(model.clone(), &shards, &names, hold, device)?)
}

/// The token table that LLaVA's first stage saves beside the projector where it has start and end tokens.
pub(super) fn is_table(name: &str) -> bool {
    name.ends_with("embed_tokens.weight") || name.ends_with("embed_in.weight")
}

/// Files that hold a projector, the surest first.
pub(super) const PROJECTOR_FILES: &[(&str, Origin)] = &[
    ("non_lora_trainables.bin", Origin::BesideLora),
    ("non_lora_trainables.safetensors", Origin::BesideLora),
    ("mm_projector.safetensors", Origin::Alone),
    ("mm_projector.bin", Origin::Alone),
];

/// What a projector's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A file of its own, as LLaVA's first stage leaves it.
    Alone,
    /// What the original code trained beside a LoRA.
    BesideLora,
    /// A whole model's or an adapter's.
    Model,
}

impl Origin {
    /// Whether a token table in it holds the rows of new tokens and nothing else that counts.
    pub(super) fn has_rows_of_new_tokens(self) -> bool {
        self == Self::Alone
    }
}

/// The tensors at `path`, and what kind of file holds them.
pub(super) fn open_projector(path: &Path) -> Result<(Shards, Origin), CheckpointError> {
    if path.is_file() {
        let known = PROJECTOR_FILES.iter().find(|(name, _)| path.file_name().is_some_and(|file| file == *name));
        return Ok((Shards::open_file(path)?, known.map_or(Origin::Alone, |(_, origin)| *origin)));
    }
    for (name, origin) in PROJECTOR_FILES {
        let file = path.join(name);
        if file.is_file() {
            return Ok((Shards::open_file(&file)?, *origin));
        }
    }
    if path.join("adapter_config.json").is_file() {
        return Ok((Shards::open_stem(path, "adapter_model")?, Origin::Model));
    }
    Ok((Shards::open(path)?, Origin::Model))
}
