//! What all recipes that infer do.

use super::engines::{self, Chosen};
use super::folder::Folder;
use super::options::{AnswerOptions, DataOptions, EngineOptions};
use super::preview;
use crate::checkpoint::hub::Wanted;
use crate::engine::Engine;
use crate::pipelines::infer::{
    BadRecord, BestOf, Classify, Done, File, Generate, GenerationSetting, InferError, Plan, Records, Reward, Task,
    file_names, run,
};
use crate::recipe::tools::LocalEngine;
use crate::recipe::{RecipeError, fetch, reference, zoo};
use crate::trainer::progress::Progress;
use serde_json::{Value, json};

/// What is to be said of records.
pub(super) enum Kind {
    Answers(AnswerOptions),
    Rewards,
    Classes,
}

/// A recipe with its command line.
pub(super) struct Work {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) engine: EngineOptions,
    pub(super) data: DataOptions,
    pub(super) format: String,
}

/// One of the files that are written.
struct Planned {
    file: String,
    /// What requests call the model.
    model: Option<String>,
    /// Which of the settings.
    setting: usize,
}

impl Work {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let records = zoo::records(&self.format, &self.data.data, &self.data.images)?;
        let chosen = Chosen::of(&self.engine)?;
        let mut settings = self.settings()?;
        let resolved: Vec<Value> = match self.kind {
            Kind::Answers(_) => settings.iter_mut().map(|setting| chosen.settle(setting)).collect::<Result<_, _>>()?,
            Kind::Rewards | Kind::Classes => Vec::new(),
        };
        let models = chosen.models();
        let planned = self.files(&models, &settings);
        let names: Vec<String> = planned.iter().map(|one| one.file.clone()).collect();
        let info = self.info(&chosen, &*records, &planned, &models, (&settings, resolved))?;
        // Before anything is written: a record that is refused leaves nothing behind.
        let plan = self.plan(&*records)?;
        let folder = Folder::open(&self.data, &names, &info)?;
        let left: Vec<&Planned> = planned.iter().filter(|one| !folder.output(&one.file).exists()).collect();
        if left.is_empty() {
            say!("{}: the run is finished", self.data.output.display());
            return Ok(folder.finish()?);
        }
        let (engine, judge) = match chosen.open().and_then(|engine| Ok((engine, self.judge()?))) {
            Ok(engines) => engines,
            Err(error) => {
                folder.abandon();
                return Err(error);
            }
        };
        let progress = Progress::work((plan.len() * left.len()) as u64, self.name);
        for one in &left {
            let (output, journal) = (folder.output(&one.file), folder.journal(&one.file));
            let run_of = folder.run(&one.file);
            let file = File { output: &output, journal: &journal, run: &run_of };
            let task = self.task(&*engine, one, &settings[one.setting], judge.as_deref());
            let done = run(file, &*records, &plan, &*task, &mut |count, _| progress.inc(count as u64));
            let done = done.map_err(usual)?;
            progress.message(&format!("{}: {}", output.display(), summary(&done)));
        }
        progress.finish();
        if let Some(first) = planned.first() {
            preview::show(&folder.output(&first.file), self.data.preview)?;
        }
        say!("\n{}: {} file(s) and info.json", self.data.output.display(), planned.len());
        Ok(folder.finish()?)
    }

    /// How answers are made; for other work one setting without a name.
    fn settings(&self) -> anyhow::Result<Vec<GenerationSetting>> {
        let Kind::Answers(options) = &self.kind else {
            return GenerationSetting::all(&[] as &[&str], &[] as &[&str]).map_err(usual);
        };
        let mut settings = GenerationSetting::all(&options.generation, &options.set).map_err(usual)?;
        for setting in &mut settings {
            if let Some(drawn) = options.best_of {
                setting.given = std::mem::take(&mut setting.given).set("best_of", drawn);
            }
            let advice = match (setting.best_of(), &options.reward_model) {
                (Some(_), None) => {
                    "`best_of` draws answers of which a reward model chooses; name one with --reward-model"
                }
                (None, Some(_)) => "--reward-model chooses among drawn answers; say how many are drawn with --best-of",
                _ => continue,
            };
            return Err(RecipeError::Usage(advice.to_owned()).into());
        }
        Ok(settings)
    }

    fn files(&self, models: &[(Option<String>, String)], settings: &[GenerationSetting]) -> Vec<Planned> {
        let called: Vec<String> = models.iter().map(|(_, name)| name.clone()).collect();
        let ways: Vec<String> = settings.iter().map(|setting| setting.name.clone()).collect();
        let suffix = (!self.data.shard.is_whole()).then(|| self.data.shard.suffix());
        let names = file_names(&called, &ways, suffix.as_deref());
        let mut planned = Vec::new();
        for ((model, _), files) in models.iter().zip(names) {
            let files = files.into_iter().enumerate();
            planned.extend(files.map(|(setting, file)| Planned { file, model: model.clone(), setting }));
        }
        planned
    }

    /// What is written of the run; what stands under `settings` may not change when it goes on.
    fn info(
        &self,
        chosen: &Chosen,
        records: &dyn Records,
        planned: &[Planned],
        models: &[(Option<String>, String)],
        (settings, resolved): (&[GenerationSetting], Vec<Value>),
    ) -> anyhow::Result<Value> {
        let (model, kept) = chosen.info()?;
        let file = |(number, one): (usize, &Planned)| {
            let (name, setting) = (&models[number / settings.len()].1, &settings[one.setting].name);
            json!({"file": one.file, "model": one.model.as_ref().unwrap_or(name), "generation": named(setting)})
        };
        let mut fixed = json!({
            "recipe": self.name,
            "firebrick": env!("CARGO_PKG_VERSION"),
            "engine": kept,
            "data": {"format": self.format, "fingerprint": records.fingerprint(), "records": records.len()},
            "shard": self.data.shard.to_string(),
            "save_every": self.save_every(),
        });
        if let Kind::Answers(options) = &self.kind {
            let names = planned.iter().take(settings.len()).map(|one| settings[one.setting].name.clone());
            let ways = names.zip(resolved).map(|(name, values)| json!({"name": named(&name), "settings": values}));
            fixed["generation"] = ways.collect();
            fixed["logprobs"] = options.logprobs.into();
            fixed["sequence_scores"] = options.sequence_scores.into();
            if let Some(model) = &options.reward_model {
                fixed["reward_weights"] = reference::weights(&[fetch::folder(model, Wanted::Model)?])?.into();
            }
        }
        let bad = if self.data.bad_record == BadRecord::Skip { "skip" } else { "error" };
        let shown = |path: &std::path::PathBuf| path.display().to_string();
        Ok(json!({
            "files": planned.iter().enumerate().map(file).collect::<Vec<_>>(),
            "engine": model,
            "data": {
                "files": records.files().iter().map(shown).collect::<Vec<_>>(),
                "images": self.data.images.iter().map(shown).collect::<Vec<_>>(),
            },
            "bad_record": bad,
            "settings": fixed,
        }))
    }

    fn save_every(&self) -> usize {
        let at_once = if self.engine.url.is_some() { self.engine.concurrency } else { self.engine.batch_size };
        self.data.save_every.unwrap_or(8 * at_once)
    }

    fn plan(&self, records: &dyn Records) -> anyhow::Result<Plan> {
        let range = self.data.shard.range(records.len());
        let progress = Progress::work(range.len() as u64, "reading records");
        let plan = Plan::new(records, range, self.save_every(), self.data.bad_record, &|| progress.inc(1));
        progress.finish();
        plan.map_err(usual)
    }

    fn judge(&self) -> anyhow::Result<Option<Box<dyn Engine>>> {
        let Kind::Answers(AnswerOptions { reward_model: Some(model), .. }) = &self.kind else { return Ok(None) };
        Ok(Some(Box::new(LocalEngine::open(engines::judge(model, &self.engine))?)))
    }

    fn task<'e>(
        &self,
        engine: &'e dyn Engine,
        planned: &Planned,
        setting: &'e GenerationSetting,
        judge: Option<&'e dyn Engine>,
    ) -> Box<dyn Task + 'e> {
        let model = planned.model.clone();
        match &self.kind {
            Kind::Rewards => Box::new(Reward { engine, model }),
            Kind::Classes => Box::new(Classify { engine, model }),
            Kind::Answers(options) => {
                let best_of = setting.best_of().zip(judge).map(|(drawn, judge)| BestOf { drawn, judge });
                let logprobs = options.logprobs || setting.logprobs();
                let scores = options.sequence_scores;
                Box::new(Generate { engine, model, setting, logprobs, scores, best_of })
            }
        }
    }
}

/// The name of a setting, where it has one.
fn named(setting: &str) -> Option<&str> {
    (!setting.is_empty()).then_some(setting)
}

/// A line about a file: records, errors, speed.
fn summary(done: &Done) -> String {
    let seconds = done.took.as_secs_f64();
    let fresh = done.records - done.resumed;
    let mut text = format!("{} records", done.records);
    if done.errors > 0 {
        text.push_str(&format!(", {} of them with an error", done.errors));
    }
    if done.resumed > 0 {
        text.push_str(&format!(", {} of them from before", done.resumed));
    }
    if fresh > 0 {
        text.push_str(&format!(", in {seconds:.1} s: {:.1} records/s", fresh as f64 / seconds.max(1e-9)));
    }
    if done.spent.completion_tokens > 0 {
        let rate = done.spent.completion_tokens as f64 / seconds.max(1e-9);
        text.push_str(&format!(", {rate:.0} new tokens/s"));
    }
    text
}

/// The error that a recipe exits with.
fn usual(error: InferError) -> anyhow::Error {
    match error {
        InferError::Setting(error) => RecipeError::Setting(error).into(),
        other => other.into(),
    }
}
