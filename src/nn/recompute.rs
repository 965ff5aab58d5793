//! Blocks that are run again in the backward pass, so that of each only its input is kept.
//!
//! A model's loop over its blocks goes through a [`Chain`]. Outside of [`record`] that is a plain call of each block.
//! Inside, chosen blocks run on tensors without a tape, and [`Recorded::backward`] walks back through them: each runs
//! once more, with a tape, on the input that was kept, takes the gradient of its output and hands on that of its input.
//! On the CPU the gradients have the same bits as without: the same kernels run on the same values in the same order,
//! and what is added between the blocks is a factor of one.

// b batch, t tokens, d width
use super::dropout::{at_mask, masks_drawn};
use super::params::{self, NamedVisitor};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

thread_local! {
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
    static UNTAPED_TRAINING: Cell<bool> = const { Cell::new(false) };
}

/// Which blocks of every stack are run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Every how many blocks one is run again, the first one included; 1 for all.
    pub every: usize,
    /// Only among this many first blocks, which are those whose memory is held longest.
    pub first: usize,
    /// Where the inputs wait.
    pub keep: Keep,
}

/// Where the kept inputs of blocks wait for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// On the device that computes.
    #[default]
    Device,
    /// In host memory: read back in the forward pass, uploaded in the backward pass.
    Host,
}

impl Selection {
    /// Every block of every stack.
    pub const ALL: Self = Self { every: 1, first: usize::MAX, keep: Keep::Device };

    /// Whether it takes the block at this place in its stack.
    pub fn takes(&self, block: usize) -> bool {
        block < self.first && block.is_multiple_of(self.every.max(1))
    }
}

struct Session {
    selection: Selection,
    stacks: Vec<Stack>,
}

/// Ends the recording, also where the forward pass panics.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        SESSION.with_borrow_mut(|session| *session = None);
    }
}

/// Runs a forward pass whose chosen blocks will be run again; without a choice it is recorded like any other.
///
/// Records on this thread alone; a pass inside the pass must not record.
pub fn record<R>(selection: Option<Selection>, forward: impl FnOnce() -> R) -> (R, Recorded) {
    let Some(selection) = selection else { return (forward(), Recorded { stacks: Vec::new() }) };
    SESSION.with_borrow_mut(|session| {
        assert!(session.is_none(), "a forward pass is being recorded already");
        *session = Some(Session { selection, stacks: Vec::new() });
    });
    let guard = Guard;
    let result = forward();
    let stacks = SESSION.with_borrow_mut(|session| session.take().map(|session| session.stacks));
    drop(guard);
    (result, Recorded { stacks: stacks.unwrap_or_default() })
}

/// Whether a block is being run without a tape although its adapter is trained.
pub(super) fn runs_untaped_training() -> bool {
    UNTAPED_TRAINING.get()
}

/// The way of one tensor through a stack of blocks.
pub struct Chain {
    x: Flow,
    building: Option<Building>,
}

/// What comes out of the blocks so far.
enum Flow {
    /// On the tape, or on a device that has none.
    Taped(Tensor<3>),
    /// A value without a tape, and whether a gradient is to come back to it.
    Value { plain: Tensor<3>, tracked: bool },
}

struct Building {
    selection: Selection,
    source: Option<Tensor<3>>,
    outside: Vec<Outside>,
    links: Vec<Link>,
    /// Where the current run of blocks on the tape began.
    taped_from: Option<Tensor<3>>,
    taped_params: Vec<ParamId>,
    blocks: usize,
}

/// A tensor that comes into a block from beside the chain, and the leaf that stands for it inside.
struct Outside {
    source: Tensor<2>,
    leaf: Tensor<2>,
    gradient: Option<Tensor<2>>,
}

type Rerun = Box<dyn FnOnce(Tensor<3>, &[Tensor<2>]) -> Tensor<3>>;

enum Link {
    /// Run again in the backward pass.
    Again { input: Kept, tracked: bool, outside: Vec<Tensor<2>>, run: Rerun, params: Vec<ParamId>, masks: u64 },
    /// Recorded on a tape of its own.
    Taped { input: Tensor<3>, output: Tensor<3>, params: Vec<ParamId> },
}

enum Kept {
    Device(Tensor<3>),
    Host { data: TensorData, device: Device, dtype: DType },
}

impl Kept {
    fn new(plain: Tensor<3>, keep: Keep) -> Self {
        match keep {
            Keep::Device => Self::Device(plain),
            Keep::Host => {
                let (device, dtype) = (plain.device(), plain.dtype());
                Self::Host { data: plain.into_data(), device, dtype }
            }
        }
    }

    fn back(self) -> Tensor<3> {
        match self {
            Self::Device(plain) => plain,
            Self::Host { data, device, dtype } => Tensor::from_data(data, (&device, dtype)),
        }
    }
}

impl Chain {
    /// Begins with the stack's input, `[b, t, d]`.
    pub fn new(x_btd: Tensor<3>) -> Self {
        let selection = SESSION.with_borrow(|session| session.as_ref().map(|session| session.selection));
        let Some(selection) = selection.filter(|_| x_btd.is_autodiff()) else {
            return Self { x: Flow::Taped(x_btd), building: None };
        };
        let tracked = x_btd.is_tracked();
        let plain = x_btd.clone().inner();
        let building = Building {
            selection,
            source: tracked.then_some(x_btd),
            outside: Vec::new(),
            links: Vec::new(),
            taped_from: None,
            taped_params: Vec::new(),
            blocks: 0,
        };
        Self { x: Flow::Value { plain, tracked }, building: Some(building) }
    }

    /// Whether blocks may be run again, which must then not depend on anything that the pass changes, such as a cache.
    pub fn records(&self) -> bool {
        self.building.is_some()
    }

    /// The device of the blocks' constants, which have no gradient: `x`'s, without one.
    pub fn constants(&self) -> Device {
        let device = match &self.x {
            Flow::Taped(x) => x.device(),
            Flow::Value { plain, .. } => plain.device(),
        };
        if device.is_autodiff() { device.inner() } else { device }
    }

    /// Calls a block now and never again, because it changes something, such as a cache.
    pub fn call(mut self, run: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Self {
        let x = match (self.x, &mut self.building) {
            (Flow::Taped(x), _) => x,
            (x @ Flow::Value { .. }, Some(building)) => building.taped(x),
            (Flow::Value { plain, .. }, None) => plain,
        };
        if let Some(building) = &mut self.building {
            building.blocks += 1;
        }
        Self { x: Flow::Taped(run(x)), building: self.building }
    }

    /// Calls a block that may be run again: `run(block, x, outside)`. `outside` are the tensors that come in from beside
    /// the chain and may want a gradient; everything else that `run` holds is constant.
    pub fn block<M: Module + 'static>(
        self,
        block: &M,
        outside: Vec<Tensor<2>>,
        run: impl Fn(&M, Tensor<3>, &[Tensor<2>]) -> Tensor<3> + 'static,
    ) -> Self {
        let Some(mut building) = self.building else {
            let Flow::Taped(x) = self.x else { unreachable!("a chain that does not record is on the tape") };
            return Self { x: Flow::Taped(run(block, x, &outside)), building: None };
        };
        let again = building.selection.takes(building.blocks);
        building.blocks += 1;
        let trained = Trained::of(block);
        let needs = !trained.ids.is_empty() || outside.iter().any(|tensor| tensor.is_tracked());
        let tracked = match &self.x {
            Flow::Taped(x) => x.is_tracked(),
            Flow::Value { tracked, .. } => *tracked,
        };
        let x = if !needs && !tracked {
            let outside: Vec<_> = outside.into_iter().map(Tensor::inner).collect();
            let plain = building.value(self.x).0;
            Flow::Value { plain: run(&block.valid(), plain, &outside), tracked: false }
        } else if again {
            let (plain, tracked) = building.value(self.x);
            Flow::Value { plain: building.run_untaped(block, plain, tracked, outside, trained, run), tracked: true }
        } else {
            let x = building.taped(self.x);
            building.taped_params.extend(trained.ids);
            let outside = building.cut(outside);
            Flow::Taped(run(block, x, &outside))
        };
        Self { x, building: Some(building) }
    }

    /// The output of the stack.
    pub fn finish(self) -> Tensor<3> {
        let Some(mut building) = self.building else {
            let Flow::Taped(x) = self.x else { unreachable!("a chain that does not record is on the tape") };
            return x;
        };
        let (plain, tracked) = building.value(self.x);
        let output = plain.autodiff();
        if !tracked {
            return output;
        }
        let output = output.require_grad();
        let Building { source, outside, links, .. } = building;
        let stack = Stack { output: output.clone(), source, outside, links, upstream: None };
        SESSION.with_borrow_mut(|session| match session {
            Some(session) => session.stacks.push(stack),
            None => unreachable!("a chain that records ends before the recording does"),
        });
        output
    }
}

impl Building {
    /// The value that has come so far, off the tape, and whether a gradient is to come back to it.
    fn value(&mut self, x: Flow) -> (Tensor<3>, bool) {
        match x {
            Flow::Value { plain, tracked } => (plain, tracked),
            Flow::Taped(output) => {
                let (plain, tracked) = (output.clone().inner(), output.is_tracked());
                let params = std::mem::take(&mut self.taped_params);
                if let Some(input) = self.taped_from.take().filter(|_| tracked) {
                    self.links.push(Link::Taped { input, output, params });
                }
                (plain, tracked)
            }
        }
    }

    /// The value that has come so far, on the tape.
    fn taped(&mut self, x: Flow) -> Tensor<3> {
        match x {
            Flow::Taped(x) => x,
            Flow::Value { plain, tracked } => {
                let leaf = plain.autodiff();
                let leaf = if tracked { leaf.require_grad() } else { leaf };
                self.taped_from = Some(leaf.clone());
                leaf
            }
        }
    }

    /// Leaves in the place of those tensors that want a gradient.
    fn cut(&mut self, outside: Vec<Tensor<2>>) -> Vec<Tensor<2>> {
        let cut = |source: Tensor<2>| {
            if !source.is_tracked() {
                return source;
            }
            let leaf = source.clone().inner().autodiff().require_grad();
            self.outside.push(Outside { source, leaf: leaf.clone(), gradient: None });
            leaf
        };
        outside.into_iter().map(cut).collect()
    }

    fn run_untaped<M: Module + 'static>(
        &mut self,
        block: &M,
        plain: Tensor<3>,
        tracked: bool,
        outside: Vec<Tensor<2>>,
        trained: Trained,
        run: impl Fn(&M, Tensor<3>, &[Tensor<2>]) -> Tensor<3> + 'static,
    ) -> Tensor<3> {
        let masks = masks_drawn();
        let values: Vec<_> = outside.iter().cloned().map(Tensor::inner).collect();
        UNTAPED_TRAINING.set(trained.adapter);
        let y = run(&block.valid(), plain.clone(), &values);
        UNTAPED_TRAINING.set(false);
        let (block, outside) = (block.clone(), self.cut(outside));
        let run: Rerun = Box::new(move |x, outside| run(&block, x, outside));
        let input = Kept::new(plain, self.selection.keep);
        self.links.push(Link::Again { input, tracked, outside, run, params: trained.ids, masks });
        y
    }
}

/// The trained parameters of a block.
#[derive(Default)]
struct Trained {
    ids: Vec<ParamId>,
    /// Whether an adapter's are among them.
    adapter: bool,
}

impl NamedVisitor for Trained {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.ids.push(param.id);
            self.adapter |= name.contains(".adapter.");
        }
    }
}

impl Trained {
    fn of<M: Module>(block: &M) -> Self {
        let mut trained = Self::default();
        params::visit(block, &mut trained);
        trained
    }
}

/// A chain that was recorded.
struct Stack {
    /// What its output is on the tape of what follows.
    output: Tensor<3>,
    /// What its input is on the tape of what came before; none where no gradient goes there.
    source: Option<Tensor<3>>,
    outside: Vec<Outside>,
    links: Vec<Link>,
    /// The gradient of its output, as far as it has come.
    upstream: Option<Tensor<3>>,
}

/// A forward pass whose chosen blocks have yet to be run again.
pub struct Recorded {
    stacks: Vec<Stack>,
}

/// The gradients that one part of a walk yields.
pub struct Stride {
    /// Of the parameters that the part has.
    pub gradients: Gradients,
    /// The parameters of which nothing more will come.
    pub complete: Vec<ParamId>,
}

impl Recorded {
    /// Walks back from `loss`; each step yields the gradients of one part, the last part first.
    ///
    /// Without recorded blocks there is one part.
    pub fn backward(self, loss: Tensor<1>) -> Walk {
        let mut uses = HashMap::<ParamId, usize>::new();
        let mut held = HashSet::new();
        for link in self.stacks.iter().flat_map(|stack| &stack.links) {
            match link {
                Link::Again { params, .. } => params.iter().for_each(|id| *uses.entry(*id).or_default() += 1),
                Link::Taped { params, .. } => held.extend(params.iter().copied()),
            }
        }
        uses.retain(|id, _| !held.contains(id));
        Walk { stacks: self.stacks, loss: Some(loss), uses, _not_send: std::marker::PhantomData }
    }
}

/// The way back through a recorded forward pass.
pub struct Walk {
    stacks: Vec<Stack>,
    loss: Option<Tensor<1>>,
    /// How often the parameters of blocks that are run again have yet to come.
    uses: HashMap<ParamId, usize>,
    /// The blocks' dropout is this thread's.
    _not_send: std::marker::PhantomData<Rc<()>>,
}

impl Iterator for Walk {
    type Item = Stride;

    fn next(&mut self) -> Option<Stride> {
        if let Some(loss) = self.loss.take() {
            return Some(self.stride(loss.backward(), Vec::new()));
        }
        loop {
            let stack = self.stacks.last_mut()?;
            let upstream = match (stack.links.pop(), stack.upstream.take()) {
                (Some(link), Some(upstream)) => {
                    let (gradients, params) = stack.through(link, upstream);
                    return Some(self.stride(gradients, params));
                }
                (_, upstream) => upstream,
            };
            // At its beginning, or where nothing was learned from its output.
            let Some(Stack { source, outside, .. }) = self.stacks.pop() else { unreachable!("it was looked at") };
            let outside = outside.into_iter().filter_map(|one| Some(weighted(one.source, one.gradient?)));
            let ends = source.zip(upstream).map(|(source, upstream)| weighted(source, upstream));
            let ends = ends.into_iter().chain(outside);
            // All at once: they may share a part of the tape, which can be walked once.
            if let Some(sum) = ends.reduce(|sum, end| sum + end) {
                return Some(self.stride(sum.backward(), Vec::new()));
            }
        }
    }
}

impl Walk {
    fn stride(&mut self, mut gradients: Gradients, params: Vec<ParamId>) -> Stride {
        for stack in &mut self.stacks {
            if let Some(gradient) = stack.output.grad_remove(&mut gradients) {
                add(&mut stack.upstream, gradient);
            }
        }
        let complete = |id: &ParamId| match self.uses.get_mut(id) {
            Some(uses) => {
                *uses -= 1;
                *uses == 0
            }
            None => false,
        };
        Stride { gradients, complete: params.into_iter().filter(complete).collect() }
    }
}

impl Stack {
    /// Walks back through one link: its gradients and its parameters. What comes out at its input goes upstream.
    fn through(&mut self, link: Link, upstream: Tensor<3>) -> (Gradients, Vec<ParamId>) {
        let (mut gradients, input, params) = match link {
            Link::Taped { input, output, params } => (weighted(output, upstream).backward(), input, params),
            Link::Again { input, tracked, outside, run, params, masks } => {
                let input = input.back().autodiff();
                let input = if tracked { input.require_grad() } else { input };
                let output = at_mask(masks, || run(input.clone(), &outside));
                (weighted(output, upstream).backward(), input, params)
            }
        };
        for one in &mut self.outside {
            if let Some(gradient) = one.leaf.grad_remove(&mut gradients) {
                add(&mut one.gradient, gradient);
            }
        }
        // Where the input wants no gradient, it is the first link.
        self.upstream = input.grad_remove(&mut gradients);
        (gradients, params)
    }
}

fn add<const D: usize>(sum: &mut Option<Tensor<D>>, gradient: Tensor<D>) {
    *sum = Some(match sum.take() {
        Some(sum) => gradient + sum,
        None => gradient,
    });
}

/// A number whose gradient with respect to `y` is `gradient` to the bit: times one.
fn weighted<const D: usize>(y: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    (y * gradient.autodiff()).sum()
}
