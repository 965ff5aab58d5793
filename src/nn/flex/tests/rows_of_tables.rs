//! Rows of a table.

use super::*;

#[test]
fn rows_of_a_table_match_the_composed_form() {
    for (v, d, n) in [(1, 1, 3), (9, 5, 40), (3000, 33, 100), (4, 8, 1)] {
        let ids: Vec<i32> = (0..n).map(|i| ((i * i * 7 + 3) % v) as i32).collect();
        let ids = |device: &Device| Tensor::<1, Int>::from_data(TensorData::new(ids.clone(), [n]), device);
        check(
            &format!("{n} rows of {v}x{d}"),
            &[values([v, d], 1)],
            |x| rows(x[0].clone(), ids(&x[0].device())),
            |x| x[0].clone().select(0, ids(&x[0].device())),
        );
    }
}
