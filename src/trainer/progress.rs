//! What a run shows on standard error while it works: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Least time between two plain lines: a log file should stay readable.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Redraws that keep the elapsed time moving between steps.
const TICK: Duration = Duration::from_millis(250);

/// Progress of a run or of other long work. Dropping it leaves the terminal clean.
///
/// ```no_run
/// # use firebrick::trainer::progress::Progress;
/// let progress = Progress::new(1000, 0, "train");
/// progress.update(1, 2.31, 1e-4, 5200.0);
/// progress.message("checkpoint-500 written");
/// progress.finish();
/// ```
pub struct Progress {
    view: View,
    label: String,
    total: u64,
    start: u64,
    begun: Instant,
}

enum View {
    Bar(ProgressBar),
    /// Plain lines, with what the last one said.
    Lines(Mutex<Lines>),
}

struct Lines {
    /// When the last line was printed.
    printed: Option<Instant>,
    done: u64,
}

impl Progress {
    /// Progress of training: `start_step` of `total_steps` are done.
    pub fn new(total_steps: u64, start_step: u64, label: &str) -> Self {
        // `{eta}` of the bar counts from `start_step`, so that a resumed run does not look faster than it is.
        Self::with(
            total_steps,
            start_step,
            label,
            "{prefix} {bar:28} {pos}/{len}  {msg}  {elapsed}<{eta}",
            std::io::stderr().is_terminal(),
        )
    }

    /// Progress of other work with `total` parts.
    pub fn work(total: u64, label: &str) -> Self {
        Self::with(total, 0, label, "{prefix} {bar:28} {pos}/{len}  {per_sec}  {eta}", std::io::stderr().is_terminal())
    }

    /// Progress of reading or writing `total` bytes.
    pub fn bytes(total: u64, label: &str) -> Self {
        Self::with(
            total,
            0,
            label,
            "{prefix} {bar:28} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}",
            std::io::stderr().is_terminal(),
        )
    }

    /// Progress of work whose size is not known: a spinner.
    pub fn spinner(label: &str) -> Self {
        Self::with(0, 0, label, "{spinner} {prefix}  {pos}  {elapsed}", std::io::stderr().is_terminal())
    }

    fn with(total: u64, start: u64, label: &str, template: &str, terminal: bool) -> Self {
        let view = if terminal {
            let bar = if total > 0 { ProgressBar::new(total) } else { ProgressBar::new_spinner() };
            // The templates are constants of this file; a test parses each.
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("━╸ "));
            bar.set_prefix(label.to_owned());
            bar.set_position(start);
            bar.reset_eta();
            bar.enable_steady_tick(TICK);
            View::Bar(bar)
        } else {
            View::Lines(Mutex::new(Lines { printed: None, done: start }))
        };
        Self { view, label: label.to_owned(), total, start, begun: Instant::now() }
    }

    /// After `step` steps in all. On a terminal the bar follows; elsewhere a line is printed, at most one every few seconds but
    /// always for the first and the last step.
    pub fn update(&self, step: u64, loss: f64, learning_rate: f64, tokens_per_second: f64) {
        let figures = format!("loss {loss:.4}  lr {learning_rate:.2e}  {tokens_per_second:.0} tok/s");
        match &self.view {
            View::Bar(bar) => {
                bar.set_position(step);
                bar.set_message(figures);
            }
            View::Lines(lines) => self.line(lines, step, &figures),
        }
    }

    /// `count` more parts are done.
    pub fn inc(&self, count: u64) {
        match &self.view {
            View::Bar(bar) => bar.inc(count),
            View::Lines(lines) => {
                let done = lock(lines).done + count;
                self.line(lines, done, "");
            }
        }
    }

    /// Prints a line of its own, above the bar where there is one.
    pub fn message(&self, text: &str) {
        match &self.view {
            View::Bar(bar) => bar.println(text),
            View::Lines(_) => eprintln!("{text}"),
        }
    }

    /// Ends the display; the bar disappears, what matters was printed as lines.
    pub fn finish(&self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }

    fn line(&self, lines: &Mutex<Lines>, done: u64, figures: &str) {
        let mut lines = lock(lines);
        lines.done = done;
        let last = self.total > 0 && done >= self.total;
        if !last && lines.printed.is_some_and(|printed| printed.elapsed() < LINE_INTERVAL) {
            return;
        }
        lines.printed = Some(Instant::now());
        eprintln!("{}", self.plain(done, figures, self.begun.elapsed()));
    }

    /// One plain line.
    fn plain(&self, done: u64, figures: &str, elapsed: Duration) -> String {
        let mut line = match self.total {
            0 => format!("{} {done}", self.label),
            total => format!("{} {done}/{total}", self.label),
        };
        if !figures.is_empty() {
            line = format!("{line}  {figures}");
        }
        let (fresh, left) = (done.saturating_sub(self.start), self.total.saturating_sub(done));
        // The first part also waits for everything that is done once.
        if fresh > 1 && left > 0 {
            let seconds = elapsed.as_secs_f64() / fresh as f64 * left as f64;
            line = format!("{line}  {} left", duration(seconds));
        }
        line
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A poisoned lock only means that another thread panicked while printing.
fn lock(lines: &Mutex<Lines>) -> std::sync::MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `75 s` as `1m 15s`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s:02}s"),
        (h, m, _) => format!("{h}h {m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_what_the_bar_says() {
        let progress = Progress::with(100, 20, "train", "", false);
        let line = progress.plain(30, "loss 1.2500", Duration::from_secs(10));
        assert_eq!(line, "train 30/100  loss 1.2500  1m 10s left");
        assert_eq!(progress.plain(100, "", Duration::from_secs(10)), "train 100/100");
        assert_eq!(progress.plain(21, "", Duration::from_secs(10)), "train 21/100");
    }

    #[test]
    fn durations_are_short() {
        let check = |seconds: f64, text: &str| assert_eq!(duration(seconds), text);
        check(4.4, "4s");
        check(65.0, "1m 05s");
        check(7320.0, "2h 02m");
    }

    #[test]
    fn every_template_parses() {
        for template in
            include_str!("progress.rs").split('"').filter(|part| part.contains("{prefix}") && part.contains("{bar"))
        {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
        let bar = Progress::with(3, 0, "train", "{prefix} {bar:28} {pos}/{len}  {msg}", true);
        bar.update(2, 0.5, 1e-3, 100.0);
        bar.message("a line");
        bar.inc(1);
    }

    #[test]
    fn counts_add_up_without_a_terminal() {
        let progress = Progress::with(10, 0, "load", "", false);
        (0..10).for_each(|_| progress.inc(1));
        let View::Lines(lines) = &progress.view else { panic!("not a terminal") };
        assert_eq!(lock(lines).done, 10);
    }
}
