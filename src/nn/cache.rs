//! Keys and values of the tokens so far.

// b rows, t new tokens, n tokens held, w width of keys or values
use super::starts::Starts;
use super::virtual_tokens::put_in_front;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Tokens by which a full buffer grows at least.
const GROWTH: usize = 64;

/// Keys and values of one layer, rotated already, in memory that has room for more.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    held: Option<Held>,
    front: Option<VirtualKeys>,
    room: usize,
}

/// Buffers `[b, capacity, w]`, of which the first `length` tokens mean something.
#[derive(Clone, Debug)]
struct Held {
    k: Tensor<3>,
    v: Tensor<3>,
    length: usize,
}

/// Trained keys and values that every row begins with, until the first tokens come.
#[derive(Clone, Debug)]
struct VirtualKeys {
    k_nw: Tensor<2>,
    v_nw: Tensor<2>,
    starts: Starts,
}

impl LayerCache {
    /// Whether no token has come yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.held.is_none()
    }

    /// Takes out what every row begins with: keys and values, `[n, kv_heads·k]` each, or nothing; and where rows begin.
    pub(crate) fn take_front(&mut self) -> (Vec<Tensor<2>>, Starts) {
        match self.front.take() {
            Some(VirtualKeys { k_nw, v_nw, starts }) => (vec![k_nw, v_nw], starts),
            None => (Vec::new(), Starts::default()),
        }
    }

    /// A cache before its first tokens that begins with what [`take_front`](Self::take_front) gave.
    pub(crate) fn beginning_with(front: &[Tensor<2>], starts: &Starts) -> Self {
        let front = match front {
            [k_nw, v_nw] => Some(VirtualKeys { k_nw: k_nw.clone(), v_nw: v_nw.clone(), starts: starts.clone() }),
            _ => None,
        };
        Self { front, ..Self::default() }
    }

    /// Appends the keys and values of new tokens and returns everything held.
    ///
    /// What was held before is neither copied nor moved while there is room, as long as nobody keeps what was returned.
    ///
    /// # Shapes
    /// `[b, t, kv_heads·k]` each.
    pub fn append(&mut self, k: Tensor<3>, v: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        // Only now is it known which keys are padding, behind which the virtual ones go.
        let (k, v) = match self.front.take() {
            None => (k, v),
            Some(VirtualKeys { k_nw, v_nw, starts }) => {
                (put_in_front(k, k_nw, &starts), put_in_front(v, v_nw, &starts))
            }
        };
        let t = k.dims()[1];
        let held = match self.held.take() {
            // Nothing more will come, or not that anybody said.
            None if self.room <= t => Held { k, v, length: t },
            None => Held { k: lengthened(k, self.room), v: lengthened(v, self.room), length: t },
            Some(Held { k: past_k, v: past_v, length }) => {
                let needed = length + t;
                let capacity = match past_k.dims()[1] {
                    capacity if capacity >= needed => capacity,
                    capacity => (2 * capacity).max(needed + GROWTH).max(self.room),
                };
                Held {
                    k: written(past_k, k, length, capacity),
                    v: written(past_v, v, length, capacity),
                    length: needed,
                }
            }
        };
        let both = (held.keys(), held.values());
        self.held = Some(held);
        both
    }

    fn change(&mut self, change: impl Fn(Tensor<3>) -> Tensor<3>, forgotten: usize) {
        self.held = self.held.take().map(|Held { k, v, length }| Held {
            k: change(k),
            v: change(v),
            length: length - forgotten,
        });
    }
}

impl Held {
    fn keys(&self) -> Tensor<3> {
        self.k.clone().narrow(1, 0, self.length)
    }

    fn values(&self) -> Tensor<3> {
        self.v.clone().narrow(1, 0, self.length)
    }
}

/// With room behind it.
fn lengthened(x_btw: Tensor<3>, capacity: usize) -> Tensor<3> {
    let [b, t, w] = x_btw.dims();
    let buffer = Tensor::zeros([b, capacity, w], (&x_btw.device(), x_btw.dtype()));
    buffer.slice_assign([0..b, 0..t, 0..w], x_btw)
}

/// A buffer with new tokens at `length`; in place where it has no other owner and is large enough.
fn written(buffer: Tensor<3>, x_btw: Tensor<3>, length: usize, capacity: usize) -> Tensor<3> {
    let [b, t, w] = x_btw.dims();
    if buffer.is_autodiff() {
        return Tensor::cat(vec![buffer.narrow(1, 0, length), x_btw], 1);
    }
    let buffer = match buffer.dims()[1] < capacity {
        true => lengthened(buffer.narrow(1, 0, length), capacity),
        false => buffer,
    };
    buffer.slice_assign([0..b, length..length + t, 0..w], x_btw)
}

/// One [`LayerCache`] per layer of a decoder.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    /// The layers, first to last.
    pub layers: Vec<LayerCache>,
    /// Tokens held.
    pub length: usize,
}

impl KvCache {
    /// An empty cache for `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![LayerCache::default(); layers], length: 0 }
    }

    /// With memory for `tokens` in each row, virtual ones among them, so that it grows in place up to that length.
    pub fn with_room(mut self, tokens: usize) -> Self {
        self.layers.iter_mut().for_each(|layer| layer.room = tokens);
        self
    }

    /// Begins every row with `n` virtual tokens. The first tokens that come after are given the layout
    /// `SequenceLayout { starts, past: n }`, those after them `past: n + t`.
    ///
    /// # Shapes
    /// `table_nw`: `[n, 2·layers·kv_heads·k]`, a layer's keys before its values; not rotated. `starts`: where the rows of
    /// the first tokens begin.
    pub fn prefill(&mut self, table_nw: Tensor<2>, starts: &Starts) {
        let [n, width] = table_nw.dims();
        let w = width / (2 * self.layers.len()).max(1);
        for (layer, cache) in self.layers.iter_mut().enumerate() {
            let part = |index: usize| table_nw.clone().narrow(1, (2 * layer + index) * w, w);
            cache.front = Some(VirtualKeys { k_nw: part(0), v_nw: part(1), starts: starts.clone() });
        }
        self.length += n;
    }

    /// Keeps these rows, in this order; a row may come several times.
    pub fn keep(&mut self, rows: &[usize], device: &Device) {
        let index: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [rows.len()]), device);
        // With the room behind them: one copy, after which tokens are again written in place.
        self.layers.iter_mut().for_each(|layer| layer.change(|x| x.select(0, index.clone()), 0));
    }

    /// Forgets all but the first `length` tokens of every row: a prompt whose beginning is known goes on from there.
    pub fn truncate(&mut self, length: usize) {
        for layer in &mut self.layers {
            if let Some(held) = &mut layer.held {
                held.length = held.length.min(length);
            }
        }
        self.length = self.length.min(length);
    }

    /// A copy of one row without the padding in front of it, in as much memory as it needs.
    pub fn row(&self, row: usize, padding: usize) -> Self {
        let own = |x: &Tensor<3>, length: usize| {
            lengthened(x.clone().narrow(0, row, 1).narrow(1, padding, length - padding), length - padding)
        };
        let layer = |layer: &LayerCache| LayerCache {
            held: layer.held.as_ref().map(|Held { k, v, length }| Held {
                k: own(k, *length),
                v: own(v, *length),
                length: length - padding,
            }),
            ..LayerCache::default()
        };
        Self { layers: self.layers.iter().map(layer).collect(), length: self.length - padding }
    }

    /// A copy of the first `length` tokens of every row, with memory for `room`: other rows go on from there, while these
    /// stay what they are.
    pub fn beginning(&self, length: usize, room: usize) -> Self {
        let own = |x: &Tensor<3>| lengthened(x.clone().narrow(1, 0, length), room.max(length));
        let layer = |layer: &LayerCache| LayerCache {
            held: layer.held.as_ref().map(|Held { k, v, .. }| Held { k: own(k), v: own(v), length }),
            room,
            ..LayerCache::default()
        };
        Self { layers: self.layers.iter().map(layer).collect(), length }
    }

    /// Forgets the first `tokens` of every row, which must be padding in all of them.
    pub fn forget_front(&mut self, tokens: usize) {
        let without = |buffer: Tensor<3>| {
            let capacity = buffer.dims()[1];
            lengthened(buffer.narrow(1, tokens, capacity - tokens), capacity)
        };
        self.layers.iter_mut().for_each(|layer| layer.change(without, tokens));
        self.length -= tokens;
    }

    /// Puts the rows of `other` below these; the shorter ones get padding in front. Returns by how many tokens these rows and
    /// the others have moved.
    ///
    /// # Panics
    /// Where the caches have different numbers of layers, or one is empty.
    pub fn join(&mut self, other: Self) -> [usize; 2] {
        let longest = self.length.max(other.length);
        let moved = [longest - self.length, longest - other.length];
        assert_eq!(self.layers.len(), other.layers.len(), "layers of caches that are joined");
        for (layer, mut below) in self.layers.iter_mut().zip(other.layers) {
            let (Some(these), Some(those)) = (layer.held.take(), below.held.take()) else {
                unreachable!("a cache without tokens is not joined")
            };
            let room = layer.room.max(longest + GROWTH);
            let both = |these: Tensor<3>, those: Tensor<3>| {
                let ([b, n, w], [c, m, _]) = (these.dims(), those.dims());
                let buffer = Tensor::zeros([b + c, room, w], (&these.device(), these.dtype()));
                let buffer = buffer.slice_assign([0..b, moved[0]..moved[0] + n, 0..w], these);
                buffer.slice_assign([b..b + c, moved[1]..moved[1] + m, 0..w], those)
            };
            let (k, v) = (both(these.keys(), those.keys()), both(these.values(), those.values()));
            layer.held = Some(Held { k, v, length: longest });
        }
        self.length = longest;
        moved
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    fn values(rows: usize, tokens: usize, seed: usize) -> Tensor<3> {
        let data: Vec<f32> = (0..rows * tokens * 4).map(|i| ((i * 31 + seed * 17) % 101) as f32).collect();
        Tensor::from_data(TensorData::new(data, [rows, tokens, 4]), &Device::flex())
    }

    fn host(x: Tensor<3>) -> Vec<f32> {
        x.into_data().try_to_vec().unwrap()
    }

    /// Appends parts of these lengths; the result and what stands in the cache.
    fn filled(cache: &mut KvCache, rows: usize, lengths: &[usize]) -> Vec<Tensor<3>> {
        let parts: Vec<_> = lengths.iter().enumerate().map(|(seed, t)| values(rows, *t, seed)).collect();
        for part in &parts {
            let (k, v) = cache.layers[0].append(part.clone(), part.clone() * 2.0);
            cache.length += part.dims()[1];
            assert_eq!((k.dims()[1], v.dims()[1]), (cache.length, cache.length));
            assert_eq!(host(k * 2.0), host(v));
        }
        parts
    }

    fn keys(cache: &KvCache) -> Tensor<3> {
        cache.layers[0].held.as_ref().unwrap().keys()
    }

    #[test]
    fn it_holds_what_came_with_and_without_room() {
        for room in [0, 5, 40, 200] {
            let mut cache = KvCache::new(1).with_room(room);
            let parts = filled(&mut cache, 3, &[5, 1, 1, 70, 1, 2]);
            assert_eq!(host(keys(&cache)), host(Tensor::cat(parts, 1)), "{room}");
        }
    }

    #[test]
    fn a_step_moves_nothing_while_there_is_room() {
        let mut cache = KvCache::new(1).with_room(20);
        filled(&mut cache, 2, &[5]);
        let at = |cache: &KvCache| {
            let buffer = cache.layers[0].held.as_ref().unwrap().k.clone();
            crate::nn::flex::Memory::of(buffer).as_ref().as_ptr()
        };
        let before = at(&cache);
        filled(&mut cache, 2, &[1, 1, 13]);
        assert_eq!(at(&cache), before);
        filled(&mut cache, 2, &[1]);
        assert_ne!(at(&cache), before, "full: it moves once");
        let moved = at(&cache);
        filled(&mut cache, 2, &[1; 19]);
        assert_eq!(at(&cache), moved);
    }

    #[test]
    fn what_goes_on_from_a_row_does_not_change_it() {
        let mut cache = KvCache::new(1).with_room(30);
        let all = Tensor::cat(filled(&mut cache, 2, &[4, 2]), 1);
        let row = cache.row(1, 2);
        let expected = all.clone().slice([1..2, 2..6]);
        assert_eq!((host(keys(&row)), row.length), (host(expected.clone()), 4));
        assert_eq!(row.layers[0].held.as_ref().unwrap().k.dims(), [1, 4, 4], "no room is kept");
        let mut next = row.beginning(3, 10);
        let more = Tensor::cat(filled(&mut next, 1, &[2]), 1);
        let whole = Tensor::cat(vec![expected.clone().narrow(1, 0, 3), more], 1);
        assert_eq!((host(keys(&next)), next.length), (host(whole), 5));
        assert_eq!(next.layers[0].held.as_ref().unwrap().k.dims()[1], 10);
        assert_eq!((host(keys(&row)), host(keys(&cache))), (host(expected), host(all)));
    }

    #[test]
    fn rows_are_kept_joined_and_cut() {
        let device = Device::flex();
        let mut cache = KvCache::new(1).with_room(30);
        let all = Tensor::cat(filled(&mut cache, 3, &[4, 2]), 1);
        cache.keep(&[2, 0, 2], &device);
        let index = Tensor::<1, Int>::from_data([2, 0, 2], &device);
        let kept = all.select(0, index);
        assert_eq!(host(keys(&cache)), host(kept.clone()));
        cache.truncate(5);
        assert_eq!(host(keys(&cache)), host(kept.clone().narrow(1, 0, 5)));
        let mut other = KvCache::new(1);
        let short = Tensor::cat(filled(&mut other, 1, &[3]), 1);
        assert_eq!(cache.join(other), [0, 2]);
        let joined = keys(&cache);
        assert_eq!(joined.dims(), [4, 5, 4]);
        assert_eq!(host(joined.clone().narrow(0, 0, 3)), host(kept.narrow(1, 0, 5)));
        assert_eq!(host(joined.slice([3..4, 2..5])), host(short.clone()));
        cache.keep(&[3], &device);
        cache.forget_front(2);
        assert_eq!(host(keys(&cache)), host(short));
        assert_eq!(cache.length, 3);
    }
}
