//! What is done, on the disk, so that a run that is killed can go on.
//!
//! The first line says of which run it is, and in which order that works on its records. Then come the lines of the records of
//! one chunk after another, each behind its record's number, and after each chunk a line that makes it count; only then the
//! file is forced onto the disk, and what follows the last such line is done again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::InferError;
use crate::checkpoint::DurableFile;

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: DurableFile,
    /// Where each record's line lies.
    lines: HashMap<usize, (u64, usize)>,
    chunks: usize,
}

const KIND: &str = "firebrick-journal-1";

impl Journal {
    /// Begins a journal, or goes on with the one that is there. `run` says of which run it is, and `plan` in which order that
    /// works on its records: one word each.
    ///
    /// # Errors
    /// [`InferError::Journal`] for one of another run or order, and what the disk says.
    pub fn open(path: &Path, run: &str, plan: &str) -> Result<Self, InferError> {
        let head = [format!("{KIND} {run} "), format!("{plan}\n")];
        let (mut end, mut lines, mut chunks) = (0, HashMap::new(), 0);
        if path.exists() {
            (end, chunks) = read(path, &head, &mut lines)?;
        }
        let mut journal = Self { path: path.to_owned(), file: DurableFile::open_at(path, end)?, lines, chunks };
        if end == 0 {
            journal.put(head.concat().as_bytes())?;
            journal.file.sync()?;
        }
        Ok(journal)
    }

    /// Chunks that are done.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Adds the next chunk: records' numbers and lines.
    ///
    /// # Errors
    /// What the disk says; the chunk does not count then.
    pub fn add(&mut self, chunk: &[(usize, String)]) -> Result<(), InferError> {
        for (index, line) in chunk {
            let number = format!("{index}\t");
            let start = self.file.len() + number.len() as u64;
            self.put(format!("{number}{line}\n").as_bytes())?;
            self.lines.insert(*index, (start, line.len()));
        }
        self.put(format!("done {}\n", self.chunks).as_bytes())?;
        self.file.sync()?;
        self.chunks += 1;
        Ok(())
    }

    /// Hands every record's line to `each`, in the order of `indices`; `None` for one that is not here.
    ///
    /// # Errors
    /// What the disk says, and what `each` does.
    pub fn read(
        &self,
        indices: impl Iterator<Item = usize>,
        mut each: impl FnMut(usize, Option<&[u8]>) -> Result<(), InferError>,
    ) -> Result<(), InferError> {
        let mut file = File::open(&self.path).map_err(InferError::io(&self.path))?;
        let mut line = Vec::new();
        for index in indices {
            let Some(&(start, length)) = self.lines.get(&index) else {
                each(index, None)?;
                continue;
            };
            line.resize(length, 0);
            let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut line));
            read.map_err(InferError::io(&self.path))?;
            each(index, Some(&line))?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), InferError> {
        self.file.write_all(bytes).map_err(InferError::io(&self.path))
    }
}

/// Finds the lines that count; returns where the next chunk goes, and how many there are.
fn read(path: &Path, head: &[String; 2], lines: &mut HashMap<usize, (u64, usize)>) -> Result<(u64, usize), InferError> {
    let wrong = |reason: String| InferError::Journal { path: path.to_owned(), reason };
    let mut file = BufReader::new(File::open(path).map_err(InferError::io(path))?);
    let (mut at, mut end, mut chunks) = (0_u64, 0_u64, 0_usize);
    let mut open = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = file.read_until(b'\n', &mut line).map_err(InferError::io(path))?;
        if line.last() != Some(&b'\n') {
            // Its writer died here, or there is no more.
            break;
        }
        if at == 0 {
            let of_run = line.strip_prefix(head[0].as_bytes());
            if of_run.is_some_and(|plan| plan != head[1].as_bytes()) {
                let reason = "when it was begun, other records could be read than now: pictures or data files have come, gone \
                              or changed since; put them back as they were, or take another --output";
                return Err(wrong(reason.to_owned()));
            }
            if of_run.is_none() {
                let advice = "take the former settings, or another --output";
                return Err(wrong(format!("it is the journal of another run; {advice}")));
            }
            end = length as u64;
        } else if line == format!("done {chunks}\n").as_bytes() {
            lines.extend(open.drain(..));
            chunks += 1;
            end = at + length as u64;
        } else {
            let tab = line.iter().position(|&byte| byte == b'\t');
            let index = tab.and_then(|tab| std::str::from_utf8(&line[..tab]).ok()?.parse::<usize>().ok());
            let (Some(tab), Some(index)) = (tab, index) else {
                break;
            };
            open.push((index, (at + tab as u64 + 1, length - tab - 2)));
        }
        at += length as u64;
    }
    Ok((end, chunks))
}
