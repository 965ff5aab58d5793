//! Pictures of a few coloured shapes, drawn from four attributes and a seed.
//!
//! A picture shows one to four objects of one [`Shape`] and one [`Colour`], grouped at one [`Position`]. Size, place, tint,
//! background and noise vary from picture to picture, so that two pictures of the same [`Scene`] share no pixel values and
//! a model cannot get by on remembering them.

use rand::{Rng, RngExt, seq::SliceRandom};

/// Width and height of a picture, in pixels.
pub const SIDE: usize = 64;

/// Sub-samples per pixel and axis: a shape's edge takes one of 17 levels of cover.
const SUBSAMPLES: usize = 4;
/// Centre-to-centre distance of the four cells a group of objects is laid out in, in pixels.
const CELL: f32 = 16.0;
/// How far a group and each object in it may lie off their places, in pixels.
const JITTER: f32 = 0.8;
/// Half the extent of an object, in pixels.
const RADIUS: std::ops::RangeInclusive<f32> = 5.8..=6.8;

macro_rules! attribute {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident => $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $name {
            /// Every value, in a fixed order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value as questions and answers write it.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

attribute! {
    /// What every object of a picture is.
    Shape {
        /// A disc.
        Circle => "circle",
        /// An axis-aligned square.
        Square => "square",
        /// An isosceles triangle, apex up.
        Triangle => "triangle",
        /// An upright cross.
        Cross => "cross",
    }
}

attribute! {
    /// What colour every object of a picture has.
    Colour {
        /// About (214, 48, 49).
        Red => "red",
        /// About (46, 170, 80).
        Green => "green",
        /// About (52, 98, 219).
        Blue => "blue",
        /// About (240, 205, 50).
        Yellow => "yellow",
        /// About (160, 70, 200).
        Purple => "purple",
        /// About (240, 240, 240).
        White => "white",
    }
}

attribute! {
    /// How many objects a picture shows.
    Count {
        /// 1.
        One => "one",
        /// 2.
        Two => "two",
        /// 3.
        Three => "three",
        /// 4.
        Four => "four",
    }
}

attribute! {
    /// Where in the picture the group of objects lies.
    Position {
        /// The upper left quarter.
        TopLeft => "at the top left",
        /// The upper right quarter.
        TopRight => "at the top right",
        /// The lower left quarter.
        BottomLeft => "at the bottom left",
        /// The lower right quarter.
        BottomRight => "at the bottom right",
        /// Half the width and height, around the centre.
        Middle => "in the middle",
    }
}

impl Shape {
    /// The plural, as answers write it.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Circle => "circles",
            Self::Square => "squares",
            Self::Triangle => "triangles",
            Self::Cross => "crosses",
        }
    }

    /// Whether the point (`x`, `y`), in units of the radius from the centre and y downwards, lies inside the shape.
    fn contains(self, x: f32, y: f32) -> bool {
        match self {
            Self::Circle => x * x + y * y <= 1.0,
            Self::Square => x.abs() <= 0.8 && y.abs() <= 0.8,
            Self::Triangle => (-1.0..=0.85).contains(&y) && x.abs() <= (y + 1.0) / 1.85,
            Self::Cross => {
                let (long, short) = if x.abs() > y.abs() { (x, y) } else { (y, x) };
                long.abs() <= 1.0 && short.abs() <= 0.34
            }
        }
    }
}

impl Colour {
    /// The colour before its tint is varied, 8 bits a channel.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [214, 48, 49],
            Self::Green => [46, 170, 80],
            Self::Blue => [52, 98, 219],
            Self::Yellow => [240, 205, 50],
            Self::Purple => [160, 70, 200],
            Self::White => [240, 240, 240],
        }
    }
}

impl Position {
    /// The upper left corner of the half-by-half square the group lies in, in pixels.
    const fn origin(self) -> (f32, f32) {
        let half = SIDE as f32 / 2.0;
        match self {
            Self::TopLeft => (0.0, 0.0),
            Self::TopRight => (half, 0.0),
            Self::BottomLeft => (0.0, half),
            Self::BottomRight => (half, half),
            Self::Middle => (half / 2.0, half / 2.0),
        }
    }
}

/// What a picture shows: one value of each attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scene {
    /// What the objects are.
    pub shape: Shape,
    /// The objects' colour.
    pub colour: Colour,
    /// How many objects there are.
    pub count: Count,
    /// Where the group of them lies.
    pub position: Position,
}

impl Scene {
    /// Every combination of the four attributes, in a fixed order.
    pub fn all() -> Vec<Self> {
        let mut scenes = Vec::new();
        for &shape in Shape::ALL {
            for &colour in Colour::ALL {
                for &count in Count::ALL {
                    for &position in Position::ALL {
                        scenes.push(Self { shape, colour, count, position });
                    }
                }
            }
        }
        scenes
    }

    /// Whether this combination is kept out of training: one in five, spread so that every value of every attribute, every
    /// pair and every triple of values without the position is still seen in training.
    pub const fn held_out(self) -> bool {
        let sum = self.shape as usize + self.colour as usize + self.count as usize + self.position as usize;
        sum.is_multiple_of(5)
    }

    /// The cells, as (column, row), that the objects may take: of each corner's four one lies where the middle has its own,
    /// so a single object there could be called either and is only ever in the middle.
    fn cells(self) -> Vec<(f32, f32)> {
        let (left, top) = self.position.origin();
        let central = |from: f32, cell: f32| (from + CELL * (cell + 0.5) - SIDE as f32 / 2.0).abs() < CELL;
        let unclear = |column: f32, row: f32| {
            self.count == Count::One && self.position != Position::Middle && central(left, column) && central(top, row)
        };
        let all = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)];
        all.into_iter().filter(|&(column, row)| !unclear(column, row)).collect()
    }

    /// Draws the scene; what the scene leaves open is taken from `rng`.
    ///
    /// # Shapes
    /// `[SIDE, SIDE, 3]`, row-major, RGB, 8 bits a channel.
    pub fn draw(self, rng: &mut impl Rng) -> Vec<u8> {
        let mut canvas = background(rng);
        let (left, top) = self.position.origin();
        let (dx, dy) = (jitter(rng), jitter(rng));
        let mut cells = self.cells();
        cells.shuffle(rng);
        for &(column, row) in &cells[..=self.count as usize] {
            let object = Object {
                x: left + CELL * (column + 0.5) + dx + jitter(rng),
                y: top + CELL * (row + 0.5) + dy + jitter(rng),
                radius: rng.random_range(RADIUS),
                rgb: self.colour.rgb().map(|channel| f32::from(channel) + rng.random_range(-12.0..=12.0)),
            };
            object.paint(self.shape, &mut canvas);
        }
        with_noise(&canvas, rng)
    }
}

/// One object of a scene: its centre and radius in pixels, its colour in 8-bit levels.
struct Object {
    x: f32,
    y: f32,
    radius: f32,
    rgb: [f32; 3],
}

impl Object {
    /// Blends the object into `canvas`, each pixel by the share of it that the object covers.
    fn paint(&self, shape: Shape, canvas: &mut [f32]) {
        for row in pixels(self.y, self.radius) {
            for column in pixels(self.x, self.radius) {
                let cover = self.cover(shape, column, row);
                let pixel = &mut canvas[(row * SIDE + column) * 3..][..3];
                for (value, target) in pixel.iter_mut().zip(self.rgb) {
                    *value += (target - *value) * cover;
                }
            }
        }
    }

    fn cover(&self, shape: Shape, column: usize, row: usize) -> f32 {
        let place = |pixel: usize, sub: usize| pixel as f32 + (sub as f32 + 0.5) / SUBSAMPLES as f32;
        let hits = (0..SUBSAMPLES * SUBSAMPLES)
            .filter(|sub| {
                let x = (place(column, sub % SUBSAMPLES) - self.x) / self.radius;
                let y = (place(row, sub / SUBSAMPLES) - self.y) / self.radius;
                shape.contains(x, y)
            })
            .count();
        hits as f32 / (SUBSAMPLES * SUBSAMPLES) as f32
    }
}

/// The pixels along one axis that an object around `centre` can touch, cut to the picture.
fn pixels(centre: f32, radius: f32) -> std::ops::Range<usize> {
    let first = (centre - radius).floor().max(0.0) as usize;
    let last = (centre + radius).ceil().clamp(0.0, SIDE as f32) as usize;
    first..last.max(first)
}

/// Rounds to 8 bits after adding −3, −1, 1 or 3 levels to each value. Two random bits a value, because drawing thousands of
/// pictures must not take longer than starting to train, and because PNG cannot compress noise.
fn with_noise(canvas: &[f32], rng: &mut impl Rng) -> Vec<u8> {
    let mut noise = vec![0u8; canvas.len()];
    rng.fill_bytes(&mut noise);
    let level = |byte: u8| f32::from(byte & 3) * 2.0 - 3.0;
    canvas.iter().zip(noise).map(|(value, byte)| (value + level(byte)).round().clamp(0.0, 255.0) as u8).collect()
}

fn jitter(rng: &mut impl Rng) -> f32 {
    rng.random_range(-JITTER..=JITTER)
}

/// A dark ground, nearly grey, that grows lighter or darker across the picture.
fn background(rng: &mut impl Rng) -> Vec<f32> {
    let level = rng.random_range(25.0..=70.0f32);
    let rgb: [f32; 3] = std::array::from_fn(|_| level + rng.random_range(-10.0..=10.0));
    let (slope_x, slope_y) = (rng.random_range(-12.0..=12.0f32), rng.random_range(-12.0..=12.0f32));
    let along = |pixel: usize| pixel as f32 / SIDE as f32 - 0.5;
    (0..SIDE * SIDE)
        .flat_map(|at| {
            let shade = slope_x * along(at % SIDE) + slope_y * along(at / SIDE);
            rgb.map(|channel| channel + shade)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn draw(scene: Scene, seed: u64) -> Vec<u8> {
        scene.draw(&mut ChaCha8Rng::seed_from_u64(seed))
    }

    /// Pixels clearly lighter than any background, as (column, row).
    fn bright(picture: &[u8]) -> Vec<(usize, usize)> {
        (0..SIDE * SIDE)
            .filter(|at| picture[at * 3..at * 3 + 3].iter().max().is_some_and(|&top| top > 120))
            .map(|at| (at % SIDE, at / SIDE))
            .collect()
    }

    #[test]
    fn a_group_lies_where_its_scene_says() {
        for scene in Scene::all() {
            let lit = bright(&draw(scene, 7));
            assert!(lit.len() >= 25, "{scene:?} shows only {} bright pixels", lit.len());
            let (left, top) = scene.position.origin();
            let slack = 2.0 * JITTER + 1.0;
            for (x, y) in lit {
                let (x, y) = (x as f32, y as f32);
                assert!(x + slack >= left && x <= left + 2.0 * CELL + slack, "{scene:?}: column {x}");
                assert!(y + slack >= top && y <= top + 2.0 * CELL + slack, "{scene:?}: row {y}");
            }
        }
    }

    #[test]
    fn a_single_object_in_a_corner_is_never_where_the_middle_has_one() {
        for scene in Scene::all() {
            let alone = scene.count == Count::One && scene.position != Position::Middle;
            assert_eq!(scene.cells().len(), if alone { 3 } else { 4 }, "{scene:?}");
        }
        let scene =
            Scene { shape: Shape::Circle, colour: Colour::Red, count: Count::One, position: Position::TopRight };
        assert_eq!(scene.cells(), [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)]);
    }

    #[test]
    fn more_objects_cover_more_pixels() {
        for &shape in Shape::ALL {
            let areas: Vec<usize> = Count::ALL
                .iter()
                .map(|&count| {
                    let scene = Scene { shape, colour: Colour::White, count, position: Position::Middle };
                    (0..20).map(|seed| bright(&draw(scene, seed)).len()).sum()
                })
                .collect();
            assert!(areas.windows(2).all(|pair| pair[0] < pair[1]), "{shape:?}: {areas:?}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_picture_and_another_seed_another() {
        let scene = Scene::all()[100];
        assert_eq!(draw(scene, 1), draw(scene, 1));
        assert_ne!(draw(scene, 1), draw(scene, 2));
    }

    #[test]
    fn every_pair_of_values_is_seen_in_training() {
        let all = Scene::all();
        let seen = |wanted: &dyn Fn(&Scene) -> bool| all.iter().any(|scene| !scene.held_out() && wanted(scene));
        for a in &all {
            assert!(seen(&|b| b.shape == a.shape && b.position == a.position && b.colour == a.colour));
            assert!(seen(&|b| b.count == a.count && b.position == a.position && b.colour == a.colour));
            assert!(seen(&|b| b.shape == a.shape && b.count == a.count && b.colour == a.colour));
        }
        assert_eq!(all.iter().filter(|scene| scene.held_out()).count() * 5, all.len());
    }
}
