//! From the command line to whoever answers.

use super::super::Common;
use super::super::answering::{LocalEngine, LocalSettings};
use super::options::EngineOptions;
use crate::checkpoint::hub::Wanted;
use crate::engine::{Engine, HttpEngine, HttpSettings, Prompt, Request};
use crate::generation::Reuse;
use crate::generation::settings::{CheckpointDefaults, Generation};
use crate::pipelines::infer::{GenerationSetting, plain};
use crate::recipe::{RecipeError, fetch, reference};
use crate::settings::Given;
use crate::text::{Conversation, Message, Role};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tokens of an answer where nobody says how many: transformers' 20 cut most answers short.
const MAX_NEW_TOKENS: usize = 512;

/// Whoever answers, before any weight is read.
pub(super) enum Chosen {
    Local(LocalSettings),
    Http { engine: HttpEngine, models: Vec<String> },
}

impl Chosen {
    /// Finds the folders, or the server.
    pub(super) fn of(options: &EngineOptions) -> anyhow::Result<Self> {
        if let Some(url) = &options.url {
            let settings = HttpSettings {
                api_key_variable: options.token_from.clone(),
                concurrency: options.concurrency,
                answer_timeout: Duration::from_secs(options.timeout),
                ..HttpSettings::new(url.as_str())
            };
            let engine = HttpEngine::new(settings)?;
            let mut models = options.served_model.clone();
            if models.is_empty() {
                models.extend(engine.models()?.into_iter().next().map(|model| model.id));
            }
            if models.is_empty() {
                return Err(RecipeError::Usage(format!("{url} lists no model; name one with --served-model")).into());
            }
            if let Some(twice) = models.iter().enumerate().find(|(i, model)| models[..*i].contains(model)) {
                return Err(
                    RecipeError::Usage(format!("--served-model names {} twice; once is enough", twice.1)).into()
                );
            }
            return Ok(Self::Http { engine, models });
        }
        let Some(model) = options.model.clone() else {
            return Err(RecipeError::Usage("give --model or --url".to_owned()).into());
        };
        let common = Common {
            model,
            adapter: options.adapter.clone(),
            vision_from: options.vision_from.clone(),
            device: options.device,
            template: options.template.clone(),
        };
        Ok(Self::Local(LocalSettings {
            common,
            adapters: options.adapters.clone(),
            lanes: options.batch_size,
            reuse: Reuse::OFF,
        }))
    }

    /// The models: what requests call each, and what its file is called.
    pub(super) fn models(&self) -> Vec<(Option<String>, String)> {
        match self {
            Self::Http { models, .. } => models.iter().map(|model| (Some(model.clone()), plain(model))).collect(),
            Self::Local(LocalSettings { common, adapters, .. }) => {
                let name = |path: &Path| plain(&path.display().to_string());
                let base = match &common.adapter {
                    None => name(&common.model),
                    Some(adapter) => format!("{}+{}", name(&common.model), name(adapter)),
                };
                let adapters = adapters.iter().map(|(adapter, _)| (Some(adapter.clone()), plain(adapter)));
                std::iter::once((None, base)).chain(adapters).collect()
            }
        }
    }

    /// What `info.json` says of it: for people, and what may not change when a run goes on.
    pub(super) fn info(&self) -> anyhow::Result<(Value, Value)> {
        match self {
            Self::Http { engine, models } => {
                let info = json!({"url": engine.name(), "served_models": models});
                Ok((info.clone(), info))
            }
            Self::Local(LocalSettings { common, adapters, lanes, reuse: _ }) => {
                let adapters_named: serde_json::Map<String, Value> =
                    adapters.iter().map(|(name, dir)| (name.clone(), json!(dir.display().to_string()))).collect();
                let show = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
                let info = json!({
                    "model": common.model.display().to_string(),
                    "adapter": show(&common.adapter),
                    "adapters": adapters_named,
                    "vision_from": show(&common.vision_from),
                });
                let here = common.here()?;
                let base = [Some(here.model), here.adapter, here.vision_from].into_iter().flatten().collect::<Vec<_>>();
                let mut weights = serde_json::Map::new();
                weights.insert("base".into(), reference::weights(&base)?.into());
                for (name, dir) in adapters {
                    weights.insert(name.clone(), reference::weights(&[fetch::folder(dir, Wanted::Adapter)?])?.into());
                }
                let kept = json!({
                    "weights": weights,
                    "template": common.template,
                    "device": common.device.to_string(),
                    "batch_size": lanes,
                });
                Ok((info, kept))
            }
        }
    }

    /// Holds the settings to what the engine can do, and says what of them is in force: all of them of a checkpoint, those that are
    /// sent to a server.
    pub(super) fn settle(&self, setting: &mut GenerationSetting) -> anyhow::Result<Value> {
        match self {
            Self::Local(LocalSettings { common, .. }) => {
                let path = common.here()?.model.join("generation_config.json");
                let defaults = match std::fs::read_to_string(&path) {
                    Ok(text) => {
                        CheckpointDefaults::parse(&text, &path.display().to_string()).map_err(RecipeError::from)?
                    }
                    Err(_) => CheckpointDefaults::default(),
                };
                let settings = setting.under(&defaults).map_err(RecipeError::from)?;
                if settings.max_new_tokens.is_none() && settings.max_length.is_none() {
                    let most = MAX_NEW_TOKENS.max(settings.min_new_tokens);
                    setting.given = std::mem::take(&mut setting.given).set("max_new_tokens", most);
                }
                let settings = setting.under(&defaults).map_err(RecipeError::from)?;
                let mut shown = Given::<Generation>::from_fields(&settings).values().clone();
                if settings.eos_token_id.is_empty() {
                    shown.insert("eos_token_id".to_owned(), "those of the checkpoint".into());
                }
                Ok(shown.into())
            }
            Self::Http { engine, .. } => {
                let mut request = Request::new("--generation and --set", question());
                (request.generation, request.n) = (Some(setting.for_engine()), setting.returned());
                engine.accepts(&request).map_err(|error| RecipeError::Usage(error.to_string()))?;
                Ok(setting.given.values().clone().into())
            }
        }
    }

    /// Loads what there is to load.
    pub(super) fn open(self) -> anyhow::Result<Box<dyn Engine>> {
        Ok(match self {
            Self::Http { engine, .. } => Box::new(engine),
            Self::Local(settings) => Box::new(LocalEngine::open(settings)?),
        })
    }
}

/// A reward model's folder, opened as the answering model is.
pub(super) fn judge(model: &Path, options: &EngineOptions) -> LocalSettings {
    let common = Common {
        model: model.to_owned(),
        adapter: None,
        vision_from: None,
        device: options.device,
        template: options.template.clone(),
    };
    LocalSettings { common, adapters: Vec::new(), lanes: options.batch_size, reuse: Reuse::OFF }
}

fn question() -> Prompt {
    let conversation = Conversation::new(vec![Message::text(Role::User, "?")]);
    Prompt::Chat { conversation, images: Vec::new() }
}
