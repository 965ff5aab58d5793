//! Several LoRA adapters become one.

use super::super::{combine, fetch};
use crate::adapters::lora::{CombinationType, Combine as How, MajoritySign};
use crate::checkpoint::hub::Wanted;
use clap::Parser;
use std::path::{Path, PathBuf};

/// Combines LoRA adapters of one base by a weighted sum and writes the adapter, which PEFT loads.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true)]
pub struct Combine {
    /// PEFT LoRA adapter; once for each
    #[arg(long, value_name = "DIR|OWNER/NAME[@REVISION]", required = true)]
    pub adapter: Vec<PathBuf>,
    /// A weight for each adapter, in their order
    #[arg(long, value_name = "W,W…", value_delimiter = ',', allow_hyphen_values = true, required = true)]
    pub weights: Vec<f64>,
    /// cat (exact, ranks add up), svd (the best of one rank), linear, ties, magnitude_prune, dare_linear, dare_ties, and the last
    /// four with _svd behind them
    #[arg(long, value_name = "NAME", default_value = "svd")]
    pub combination_type: CombinationType,
    /// Share of the entries that pruning leaves, above 0 and at most 1
    #[arg(long, value_name = "D")]
    pub density: Option<f64>,
    /// How ties elects a sign: total or frequency
    #[arg(long, value_name = "NAME", default_value = "total")]
    pub majority_sign_method: MajoritySign,
    /// Rank of a decomposition; the largest of the adapters' where it is left out
    #[arg(long, value_name = "R")]
    pub svd_rank: Option<usize>,
    /// Seeds what dare drops
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// The folder that is written; it must not hold anything yet
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
}

impl Combine {
    /// Runs the tool.
    ///
    /// # Errors
    /// Whatever stops it; nothing half-written is left.
    pub fn main(self) -> anyhow::Result<()> {
        super::refuse_occupied(&self.output)?;
        let folders =
            self.adapter.iter().map(|dir| fetch::folder(dir, Wanted::Adapter)).collect::<Result<Vec<_>, _>>()?;
        let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
        let how = How {
            kind: self.combination_type,
            density: self.density,
            majority_sign: self.majority_sign_method,
            svd_rank: self.svd_rank,
            seed: self.seed,
        };
        combine(&folders, &self.weights, &how, &self.output)?;
        say!("{}", self.output.display());
        Ok(())
    }
}
