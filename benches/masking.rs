//! Records read, rendered, tokenized and masked per second, as the preflight and the loader do it, on all threads.
//!
//! `cargo bench --bench masking -- --kind messages --records FILE.jsonl --tokenizer DIR`
//!
//! Prints one JSON object per pass: records, seconds, tokens and supervised tokens. With `--serve` it waits for commands
//! on standard input instead (`pass`, `write FILE`, `quit`), so that `masking.py` can take turns with another program.

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use firebrick::data::{
    DataError, DataKind, Dataset, Encoder, MessagesData, Outcome, Overlong, PreferenceData, Reading, TextRow,
};
use firebrick::text::{ChatTemplate, Tokenizer};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Conversations whose answers are learned.
    Messages,
    /// A prompt and two answers, all in messages.
    Preference,
}

#[derive(Debug, Parser)]
struct Options {
    #[arg(long, value_enum)]
    kind: Kind,
    /// One record a line
    #[arg(long, value_name = "FILE")]
    records: PathBuf,
    /// Folder with tokenizer.json and a chat template
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    #[arg(long, default_value_t = 5)]
    passes: usize,
    /// Obeys `pass`, `write FILE` and `quit` on standard input
    #[arg(long)]
    serve: bool,
    /// Handed over by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    match options.kind {
        Kind::Messages => run(&options, || MessagesData::builder().build().map_err(Into::into)),
        Kind::Preference => run(&options, || PreferenceData::builder().build().map_err(Into::into)),
    }
}

fn run<K: DataKind>(options: &Options, kind: impl Fn() -> anyhow::Result<K>) -> anyhow::Result<()> {
    let pass = || -> anyhow::Result<(Vec<Vec<TextRow>>, f64)> {
        // Each pass reads the tokenizer anew: it remembers words, and a run meets its records for the first time.
        let (kind, encoder) = (kind()?, encoder(options)?);
        let started = Instant::now();
        let rows = encode(kind, options, &encoder)?;
        Ok((rows, started.elapsed().as_secs_f64()))
    };
    if !options.serve {
        for _ in 0..options.passes {
            let (rows, seconds) = pass()?;
            say(&counts(&rows, seconds))?;
        }
        return Ok(());
    }
    say(&json!({"ready": {"threads": rayon::current_num_threads()}}))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((line.as_str(), "")) {
            ("pass", _) => {
                let (rows, seconds) = pass()?;
                say(&counts(&rows, seconds))?;
            }
            ("write", path) => {
                let rows = pass()?.0;
                write(&rows, path).with_context(|| path.to_owned())?;
                say(&json!({"written": rows.len()}))?;
            }
            ("quit", _) => break,
            (other, _) => bail!("unknown command `{other}`"),
        }
    }
    Ok(())
}

fn encoder(options: &Options) -> anyhow::Result<Encoder> {
    let tokenizer = Tokenizer::from_dir(&options.tokenizer)?;
    let template =
        ChatTemplate::from_dir(&options.tokenizer, &tokenizer)?.context("the folder has no chat template")?;
    Ok(Encoder {
        tokenizer,
        template,
        image: None,
        // Truncation is not what is measured.
        max_length: usize::MAX,
        overlong: Overlong::Error,
        options: (&Reading::default()).into(),
    })
}

/// The whole way of the records, from the file on; everything that comes out is kept.
fn encode<K: DataKind>(kind: K, options: &Options, encoder: &Encoder) -> Result<Vec<Vec<TextRow>>, DataError> {
    let dataset = Dataset::open(kind, std::slice::from_ref(&options.records), &[])?;
    let rows = (0..dataset.len()).into_par_iter().map(|index| match encoder.encode_text(&dataset.sample(index)?)? {
        Outcome::Whole(rows) | Outcome::Truncated { kept: rows, .. } => Ok(rows),
        Outcome::Skipped { .. } => Ok(Vec::new()),
    });
    rows.collect()
}

fn counts(records: &[Vec<TextRow>], seconds: f64) -> Value {
    let rows = || records.iter().flatten();
    json!({
        "records": records.len(),
        "seconds": seconds,
        "tokens": rows().map(|row| row.text.input_ids.len()).sum::<usize>(),
        "supervised": rows().map(|row| row.text.num_supervised()).sum::<usize>(),
    })
}

/// Per line a record: the ids of each of its rows, and the same with -100 for what is not learned.
fn write(records: &[Vec<TextRow>], path: &str) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for record in records {
        let rows: Vec<Value> = record
            .iter()
            .map(|row| {
                let text = &row.text;
                let tokens = text.input_ids.iter().zip(&text.supervised);
                let labels: Vec<i64> =
                    tokens.map(|(&id, &learned)| if learned { i64::from(id) } else { -100 }).collect();
                json!({"input_ids": text.input_ids, "labels": labels})
            })
            .collect();
        serde_json::to_writer(&mut file, &rows)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

fn say(value: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}
