//! The command line that every recipe has.

use crate::device::DeviceRequest;
use clap::Parser;
use std::path::PathBuf;

/// Options of a training recipe.
#[derive(Clone, Debug, Default, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct Arguments {
    /// Checkpoint: a folder, or a Hugging Face id with an optional revision; left out, the recipe makes a small random model
    #[arg(long, value_name = "DIR|OWNER/NAME[@REVISION]")]
    pub model: Option<PathBuf>,
    /// PEFT adapter to continue from, or a LoRA folder of LLaVA's original code
    #[arg(long, value_name = "DIR|OWNER/NAME[@REVISION]")]
    pub adapter: Option<PathBuf>,
    /// Training data, .json, .jsonl (both also with .gz) or .parquet, or a .json list of sources; left out, the recipe makes a small data set
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Held-out data
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub eval_data: Vec<PathBuf>,
    /// Folders in which relative image paths are sought, before the folder of the file that names them
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub images: Vec<PathBuf>,
    /// Run folder; left out, the first free one of runs/RECIPE-1, runs/RECIPE-2, …
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// auto, cpu, wgpu, wgpu:1, cuda or cuda:1
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = parse_device)]
    pub device: DeviceRequest,
    /// Settings from a file: {"train": {"learning_rate": 1e-4}}, or a run's own config.json
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Optimizer steps; overrides the epochs (train.max_steps)
    #[arg(long, value_name = "N")]
    pub max_steps: Option<usize>,
    /// Seeds data order, dropout and fresh weights (train.seed)
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Continue the newest whole checkpoint of --output
    #[arg(long)]
    pub resume: bool,
    /// Check settings, tokenizer, template, records and image headers, show one sample, and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Decode every image before training, not only its header
    #[arg(long)]
    pub decode: bool,
    /// Choose the largest micro-batch that fits the memory; examples per step, train.per_device_train_batch_size ×
    /// train.gradient_accumulation_steps, stay as they are
    #[arg(long)]
    pub auto_batch: bool,
    /// Memory that the run may take, as 12GiB or 900MiB; left out, what is available when it starts
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory_limit: Option<usize>,
    /// Print every setting with its origin, and stop
    #[arg(long)]
    pub print_config: bool,
}

pub(super) fn parse_device(text: &str) -> Result<DeviceRequest, String> {
    text.parse().map_err(|error: crate::device::DeviceError| error.to_string())
}

/// A number of bytes with its unit.
pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: f64 = match &text[digits.len()..] {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return Err("a size needs a unit: write 12GiB, 900MiB or 12GB".to_owned()),
    };
    match digits.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok((number * unit) as usize),
        _ => Err(format!("`{digits}` is no number above 0")),
    }
}

impl Arguments {
    /// `--set` and the options that stand for a setting, in the order of their precedence.
    pub fn assignments(&self) -> Vec<String> {
        let mut all = self.set.clone();
        all.extend(self.max_steps.map(|n| format!("train.max_steps={n}")));
        all.extend(self.seed.map(|n| format!("train.seed={n}")));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("0.5MiB"), Ok(1 << 19));
        assert_eq!(parse_size("3GB"), Ok(3_000_000_000));
        for bad in ["", "12", "GiB", "-1GiB", "0MB", "1 GiB", "1gib", "nanGB", "infGB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
