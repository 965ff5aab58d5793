//! The largest micro-batch that fits.

use serde::{Deserialize, Serialize};

/// How the examples of an optimizer step are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batching {
    /// Examples of a micro-batch.
    pub micro: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
}

impl Batching {
    /// Examples of a step.
    pub fn examples(self) -> usize {
        self.micro * self.accumulation
    }
}

/// The largest cut of `examples` whose peak is at most `room`, and that peak; where none is, the smallest cut's peak is the
/// error. Every step has exactly as many examples: only divisors are tried.
///
/// # Errors
/// The peak of single examples.
pub fn largest(examples: usize, room: usize, peak: impl Fn(Batching) -> usize) -> Result<(Batching, usize), usize> {
    let mut least = 0;
    for micro in (1..=examples).rev().filter(|micro| examples.is_multiple_of(*micro)) {
        let batching = Batching { micro, accumulation: examples / micro };
        least = peak(batching);
        if least <= room {
            return Ok((batching, least));
        }
    }
    Err(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_keeps_its_examples() {
        let peak = |batching: Batching| 100 + 10 * batching.micro + if batching.accumulation > 1 { 5 } else { 0 };
        for examples in 1..40 {
            for room in [115, 116, 125, 140, 300, 1000] {
                let (found, bytes) = largest(examples, room, peak).unwrap();
                assert_eq!((found.examples(), bytes), (examples, peak(found)));
                assert!(bytes <= room);
                let larger = (found.micro + 1..=examples).filter(|micro| examples.is_multiple_of(*micro));
                for micro in larger {
                    assert!(peak(Batching { micro, accumulation: examples / micro }) > room, "{micro} of {examples}");
                }
            }
        }
        assert_eq!(largest(12, 100, peak), Err(115));
        assert_eq!(largest(7, 140, peak), Ok((Batching { micro: 1, accumulation: 7 }, 115)), "a prime");
    }
}
