//! What the metrics say beside what their reference implementations say, and what must hold of any text.

mod numbers;
mod properties;
mod questions;
mod references;
mod registry;
mod tools;
mod variety;

use serde_json::Value;
use std::path::Path;

/// Sums of the same numbers in another order, in f64, relative to values of up to 100.
const TOLERANCE: f64 = 1e-10;

/// A file of `tests/fixtures/metrics`; `tests/parity/gen/text_metrics.py` writes them.
fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metrics").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    rows(value).iter().map(text).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    rows(value).iter().map(number).collect()
}

/// Collects differences, so that a failure shows them all and a pass the largest.
#[derive(Default)]
struct Check {
    largest: f64,
    compared: usize,
    wrong: Vec<String>,
}

impl Check {
    fn close(&mut self, what: &str, found: f64, expected: f64) {
        let difference = (found - expected).abs();
        self.compared += 1;
        self.largest = self.largest.max(difference);
        if difference.is_nan() || difference > TOLERANCE * expected.abs().max(1.0) {
            self.wrong.push(format!("{what}: {found} instead of {expected}"));
        }
    }

    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: T, expected: T) {
        self.compared += 1;
        if found != expected {
            self.wrong.push(format!("{what}: {found:?} instead of {expected:?}"));
        }
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.compared > 0, "nothing was compared");
            assert!(self.wrong.is_empty(), "{} of {}:\n{}", self.wrong.len(), self.compared, self.wrong.join("\n"));
            println!("{} values, largest difference {:.1e}", self.compared, self.largest);
        }
    }
}
