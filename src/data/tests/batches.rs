//! Padding and the order of epochs.

use std::path::Path;

use proptest::prelude::*;

use crate::data::{
    Batch, Encoded, Example, ImageSlot, PadSide, Padding, Place, Sampler, collate, collate_examples, collate_lines,
};
use crate::example::Facts;

fn encoded(index: usize, input_ids: Vec<u32>, image: bool) -> Encoded {
    let tokens = input_ids.len();
    let image = image && tokens >= 2;
    Encoded {
        supervised: input_ids.iter().enumerate().map(|(i, id)| id % 2 == 0 && !(image && i < 2)).collect(),
        input_ids,
        image_positions: image.then_some(0..2).into_iter().collect(),
        pixel_values: if image { vec![index as f32; 12] } else { vec![] },
        image_size: if image { (2, 2) } else { (0, 0) },
        id: format!("r{index}"),
        index,
        place: Place::new(Path::new("d.jsonl"), index + 1),
    }
}

#[test]
fn padding_by_hand() {
    let rows = [encoded(0, vec![3, 3, 8, 7], true), encoded(1, vec![4, 6], false)];
    let right = collate(&rows, &Padding { token: 8, side: PadSide::Right, multiple_of: 5 });
    assert_eq!(right.input_ids, [3, 3, 8, 7, 8, 4, 6, 8, 8, 8]);
    // A real 8 is learned although 8 is also what fills.
    assert_eq!(right.labels(), [-100, -100, 8, -100, -100, 4, 6, -100, -100, -100]);
    assert_eq!((right.starts, right.ends), (vec![0, 0], vec![4, 2]));
    assert_eq!(right.images, [ImageSlot { row: 0, start: 0, length: 2, image: 0 }]);
    let left = collate(&rows, &Padding { token: 8, side: PadSide::Left, multiple_of: 1 });
    assert_eq!(left.input_ids, [3, 3, 8, 7, 8, 8, 4, 6]);
    assert_eq!((&left.starts[..], &left.ends[..]), (&[0, 2][..], &[4, 4][..]));
    // The 4 is its row's first token: nothing predicts it.
    assert_eq!((left.num_supervised(), left.num_tokens()), (2, 6));
    assert_eq!((left.image_size, left.pixel_values.len()), ((2, 2), 12));
    assert_eq!(collate(&[], &Padding { token: 0, side: PadSide::Left, multiple_of: 8 }).rows, 0);
}

fn packed(lines: &[&[Example]], side: PadSide) -> Batch {
    collate_lines(lines.iter().copied(), &Padding { token: 9, side, multiple_of: 4 })
}

#[test]
fn packing_by_hand() {
    let example =
        |index, ids: &[u32]| Example { rows: vec![encoded(index, ids.to_vec(), false)], facts: Facts::default() };
    let all = [example(0, &[1, 2, 3]), example(1, &[4, 6]), example(2, &[8])];
    let right = packed(&[&all[..2], &all[2..]], PadSide::Right);
    assert_eq!(right.input_ids, [1, 2, 3, 4, 6, 9, 9, 9, 8, 9, 9, 9, 9, 9, 9, 9]);
    assert_eq!((right.rows, right.lines(), right.examples(), right.length), (3, 2, 3, 8));
    assert_eq!(
        (&right.line_of[..], &right.starts[..], &right.ends[..]),
        (&[0, 0, 1][..], &[0, 3, 0][..], &[3, 5, 1][..])
    );
    // The padding is cut into pieces of the longest row's length.
    assert_eq!(right.segments(), [vec![0, 3, 5], vec![0, 1, 4, 7]]);
    // 2 and 6; the 4 begins its record, and nothing of another one predicts it.
    assert_eq!((right.num_supervised(), right.supervised_by_row()), (2, vec![1, 1, 0]));
    assert_eq!((right.num_tokens(), right.ids.len(), right.facts.len()), (6, 3, 3));
    let left = packed(&[&all[..2], &all[2..]], PadSide::Left);
    assert_eq!(left.input_ids, [9, 9, 9, 1, 2, 3, 4, 6, 9, 9, 9, 9, 9, 9, 9, 8]);
    assert_eq!(left.segments(), [vec![3, 6], vec![7]]);
    let pair = |i: usize| Example {
        rows: [2 * i, 2 * i + 1].map(|n: usize| encoded(n, vec![n as u32; n + 1], false)).into(),
        facts: Facts::default(),
    };
    let pairs = [pair(0), pair(1)];
    let both = packed(&[&pairs[..]], PadSide::Right);
    assert_eq!((both.lines(), &both.line_of[..], both.examples()), (2, &[0, 1, 0, 1][..], 2));
    assert_eq!(both.input_ids, [0, 2, 2, 2, 9, 9, 9, 9, 1, 1, 3, 3, 3, 3, 9, 9]);
    let alone = packed(&[&all[..1], &all[1..2]], PadSide::Right);
    assert_eq!(alone, collate_examples(&all[..2], &Padding { token: 9, side: PadSide::Right, multiple_of: 4 }));
    assert!(alone.line_of.is_empty(), "a line each is no packing");
}

proptest! {
    #[test]
    fn collation_keeps_every_token_and_mask(
        rows in prop::collection::vec((prop::collection::vec(0u32..50, 1..20), any::<bool>()), 1..6),
        left in any::<bool>(),
        multiple_of in 0usize..9,
        token in 0u32..50,
    ) {
        let rows: Vec<Encoded> =
            rows.into_iter().enumerate().map(|(i, (ids, image))| encoded(i, ids, image)).collect();
        let side = if left { PadSide::Left } else { PadSide::Right };
        let batch = collate(&rows, &Padding { token, side, multiple_of });
        let longest = rows.iter().map(|row| row.input_ids.len()).max().unwrap_or(0);
        prop_assert!(batch.length >= longest && batch.length < longest + multiple_of.max(1));
        prop_assert_eq!(batch.length % multiple_of.max(1), 0);
        prop_assert_eq!(batch.input_ids.len(), batch.rows * batch.length);
        let mut slots = batch.images.iter();
        for (i, row) in rows.iter().enumerate() {
            let valid = i * batch.length + batch.starts[i]..i * batch.length + batch.ends[i];
            let ids: Vec<u32> = batch.input_ids[valid.clone()].iter().map(|&id| id as u32).collect();
            prop_assert_eq!(&ids, &row.input_ids);
            prop_assert_eq!(&batch.supervised[valid], &row.supervised[..]);
            let whole = i * batch.length..(i + 1) * batch.length;
            let learned = batch.supervised[whole].iter().filter(|&&s| s).count();
            prop_assert_eq!(learned, row.supervised.iter().filter(|&&s| s).count());
            for at in &row.image_positions {
                let image = batch.images.iter().filter(|slot| slot.row < i).count();
                let expected = ImageSlot { row: i, start: batch.starts[i] + at.start, length: at.len(), image };
                prop_assert_eq!(slots.next(), Some(&expected));
            }
        }
        prop_assert_eq!(slots.next(), None);
        let tokens: usize = rows.iter().map(|row| row.input_ids.len()).sum();
        prop_assert_eq!(batch.num_tokens(), tokens);
        let targets: usize = rows.iter().map(|row| row.supervised.iter().skip(1).filter(|&&s| s).count()).sum();
        prop_assert_eq!(batch.num_supervised(), targets);
    }

    #[test]
    fn every_sampler_yields_each_record_once(
        lengths in prop::collection::vec(-40i64..40, 0..80),
        (batch, accumulation) in (1usize..6, 1usize..4),
        (seed, epoch) in (any::<u64>(), 0usize..5),
    ) {
        for sampler in
            [Sampler::Sequential, Sampler::Shuffled, Sampler::Length, Sampler::Modality, Sampler::Bucketed]
        {
            let batches = sampler.epoch(seed, epoch, &lengths, batch, accumulation);
            let mut seen: Vec<usize> = batches.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert_eq!(&batches, &sampler.epoch(seed, epoch, &lengths, batch, accumulation));
            prop_assert!(batches.iter().all(|b| !b.is_empty() && b.len() <= batch));
            let short = batches.iter().filter(|b| b.len() < batch).count();
            let allowed = if sampler == Sampler::Modality { 2 } else { 1 };
            prop_assert!(short <= allowed);
            if sampler == Sampler::Modality {
                for micro in &batches {
                    let images = micro.iter().filter(|&&i| lengths[i] > 0).count();
                    prop_assert!(images == 0 || images == micro.len());
                }
            }
        }
    }
}

#[test]
fn epochs_and_seeds_differ() {
    let lengths = [5; 64];
    for sampler in [Sampler::Shuffled, Sampler::Length, Sampler::Modality, Sampler::Bucketed] {
        let first = sampler.epoch(7, 0, &lengths, 4, 2);
        assert_ne!(first, sampler.epoch(7, 1, &lengths, 4, 2));
        assert_ne!(first, sampler.epoch(8, 0, &lengths, 4, 2));
    }
    assert_eq!(Sampler::Sequential.epoch(7, 3, &lengths[..5], 2, 2), [vec![0, 1], vec![2, 3], vec![4]]);
    assert_eq!(serde_json::to_string(&Sampler::Modality).expect("JSON"), "\"modality\"");
}

#[test]
fn full_steps_are_of_one_modality_and_even() {
    let lengths: Vec<i64> = (1..=40).map(|i| if i % 2 == 0 { i } else { -i }).collect();
    let batches = Sampler::Modality.epoch(3, 0, &lengths, 2, 3);
    // 20 records of each kind: 3 full steps of 6 each, and a batch of 2 left over of each.
    assert_eq!(batches.len(), 20);
    for step in batches[..18].chunks(3) {
        let image = lengths[step[0][0]] > 0;
        assert!(step.iter().flatten().all(|&i| (lengths[i] > 0) == image));
        // The longest three open the three micro-batches.
        let mut all: Vec<u64> = step.iter().flatten().map(|&i| lengths[i].unsigned_abs()).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let firsts: Vec<u64> = step.iter().map(|micro| lengths[micro[0]].unsigned_abs()).collect();
        assert_eq!(firsts, all[..3]);
    }
    let kinds: Vec<bool> = batches[..18].chunks(3).map(|step| lengths[step[0][0]] > 0).collect();
    let other: Vec<bool> =
        Sampler::Modality.epoch(4, 0, &lengths, 2, 3)[..18].chunks(3).map(|step| lengths[step[0][0]] > 0).collect();
    assert_ne!(kinds, other, "the steps of both kinds are shuffled");
}

#[test]
fn buckets_are_of_like_length_and_the_longest_comes_first() {
    let lengths: Vec<i64> = (0..402).map(|i| -(1 + i * 37 % 401)).collect();
    let length = |i: &usize| lengths[*i].unsigned_abs();
    let padding = |batches: &[Vec<usize>]| -> u64 {
        let of = |batch: &Vec<usize>| batch.iter().map(length).max().unwrap_or(0) * batch.len() as u64;
        batches.iter().map(of).sum::<u64>() - lengths.iter().map(|length| length.unsigned_abs()).sum::<u64>()
    };
    for epoch in 0..4 {
        let batches = Sampler::Bucketed.epoch(3, epoch, &lengths, 4, 2);
        assert_eq!(batches[0].iter().map(length).max(), Some(401));
        assert_eq!(batches.last().map(Vec::len), Some(2), "what fills no batch comes last");
        assert!(padding(&batches) * 5 < padding(&Sampler::Shuffled.epoch(3, epoch, &lengths, 4, 2)));
        // Long and short batches alternate: the halves of an epoch are about as long.
        let tokens = |half: &[Vec<usize>]| half.iter().flatten().map(length).sum::<u64>();
        let (first, second) = batches.split_at(batches.len() / 2);
        assert!(tokens(first).abs_diff(tokens(second)) < 401 * 402 / 2 / 3);
    }
}
