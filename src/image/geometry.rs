//! Centre crop and padding to a square, on 8-bit pixels.

use std::ops::Range;

use super::Rgb8;

/// The centre `height`×`width` of an image; where the image is smaller, zeros around it.
///
/// The first kept row is `⌊(image height − height) / 2⌋`, also where that is negative, likewise the first column: this one
/// rule is what transformers' crop comes to after its padding branch.
///
/// # Shapes
/// Any image in, `height`×`width` out.
/// # Source
/// `center_crop` of transformers' `image_transforms.py`, 5.23.
pub fn center_crop(image: &Rgb8, height: usize, width: usize) -> Rgb8 {
    if (image.height, image.width) == (height, width) {
        return image.clone();
    }
    let top = (image.height as isize - height as isize).div_euclid(2);
    let left = (image.width as isize - width as isize).div_euclid(2);
    let mut out = Rgb8::filled(width, height, [0; 3]);
    // Where the overlap starts in the image and in the result, and how long it is.
    let overlap =
        |start: isize, have: usize, want: usize| (start.max(0) as usize, (-start).max(0) as usize, have.min(want));
    let (from_y, to_y, rows) = overlap(top, image.height, height);
    let (from_x, to_x, columns) = overlap(left, image.width, width);
    for y in 0..rows {
        let source = &image.row(from_y + y)[from_x * 3..(from_x + columns) * 3];
        let start = ((to_y + y) * width + to_x) * 3;
        out.data[start..start + columns * 3].copy_from_slice(source);
    }
    out
}

/// An image on a background that may be larger than it: what padding to a square makes, without storing the square,
/// which for a panorama would be many times the picture.
pub(crate) struct Canvas<'a> {
    image: &'a Rgb8,
    /// Rows, background included.
    pub(crate) height: usize,
    /// Columns, background included.
    pub(crate) width: usize,
    left: usize,
    top: usize,
    background: [u8; 3],
}

impl<'a> Canvas<'a> {
    /// The image alone.
    pub(crate) fn of(image: &'a Rgb8) -> Self {
        Self { image, height: image.height, width: image.width, left: 0, top: 0, background: [0; 3] }
    }

    /// The image in the middle of a square as long as its longer side.
    ///
    /// # Source
    /// LLaVA's `expand2square`: offsets are `(longer − shorter) / 2`, rounded down.
    pub(crate) fn square(image: &'a Rgb8, background: [u8; 3]) -> Self {
        let side = image.width.max(image.height);
        let (left, top) = ((side - image.width) / 2, (side - image.height) / 2);
        Self { image, height: side, width: side, left, top, background }
    }

    /// The colour around the image.
    pub(crate) fn background(&self) -> [u8; 3] {
        self.background
    }

    /// The image's pixels in row `y` and the column of the first; none where the row is all background.
    pub(crate) fn row(&self, y: usize) -> (usize, &'a [u8]) {
        let inside = y.checked_sub(self.top).filter(|&y| y < self.image.height);
        (self.left, inside.map_or(&[], |y| self.image.row(y)))
    }

    /// Weights of the columns from `start` on, split: the first column of the image itself that has one, those weights, and
    /// the sum of the weights that fall on background.
    pub(crate) fn split_columns<'w>(&self, start: usize, weights: &'w [i32]) -> (usize, &'w [i32], i32) {
        let first = self.left.saturating_sub(start).min(weights.len());
        let last = (self.left + self.image.width).saturating_sub(start).clamp(first, weights.len());
        let outside = weights[..first].iter().chain(&weights[last..]).sum();
        ((start + first).saturating_sub(self.left).min(self.image.width), &weights[first..last], outside)
    }

    /// The pixels of a part.
    pub(crate) fn window(&self, rows: Range<usize>, columns: Range<usize>) -> Rgb8 {
        let mut out = Rgb8::filled(columns.len(), rows.len(), self.background);
        for (target, y) in out.data.chunks_exact_mut(columns.len() * 3).zip(rows) {
            let (left, row) = self.row(y);
            let first = columns.start.max(left);
            let last = columns.end.min(left + row.len() / 3);
            if first < last {
                target[(first - columns.start) * 3..(last - columns.start) * 3]
                    .copy_from_slice(&row[(first - left) * 3..(last - left) * 3]);
            }
        }
        out
    }
}
