//! Reading: first a plan (what is zero, cached, on its way, to be fetched), then gathering.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use lacuna_transport::id::Generation;
use lacuna_transport::range::ByteRange;
use parking_lot::Mutex;

use super::flight::{Flight, Landed, plan_flights, room_for};
use super::{State, Volume};
use crate::cache::budget::Reservation;
use crate::cache::{Fragment, PAGE_BYTES};
use crate::error::{ErrorKind, Result};
use crate::extent_map::{Known, Sought};
use crate::overlay::Content;
use crate::overlay::buffer::Slice;
use crate::readahead::Readahead;
use crate::remote::Remote;
use crate::zeros;

/// How often a read that met a change of the volume is made again, so that it is not half old.
const RETRIES_MAX: u32 = 3;
/// Most runs of the map that one prefetch looks at: bounds the time under the lock.
const PREFETCH_RUNS_MAX: usize = 2048;

/// Bytes ready to be handed out.
#[derive(Clone, Debug)]
pub enum Piece {
    Zeros(u64),
    Bytes(Arc<Fragment>, ByteRange),
    /// Written here and not flushed at the server.
    Dirty(Slice),
}

/// A finished read: its pieces in order.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    pieces: Vec<Piece>,
    /// How many of its bytes were in the cache when it began.
    cached_bytes: u64,
}

/// A part of a fragment, which keeps its share of the budget.
#[derive(Debug)]
struct Part(Arc<Fragment>, ByteRange);

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.0.slice(self.1)
    }
}

impl Gathered {
    /// Passes the bytes on as one slice: without a copy where they are in one place already.
    pub fn with_slice<T>(&self, give: impl FnOnce(&[u8]) -> T) -> T {
        match &self.pieces[..] {
            [] => give(&[]),
            [Piece::Zeros(len)] if zeros::are_at_hand(*len) => give(zeros::at_hand(*len)),
            [Piece::Bytes(fragment, range)] => give(fragment.slice(*range)),
            [Piece::Dirty(slice)] => give(slice.as_ref()),
            pieces => JOINED.with_borrow_mut(|joined| {
                join(pieces, joined);
                give(joined)
            }),
        }
    }

    /// Its pieces in order, without a copy.
    pub fn into_pieces(self) -> Vec<zeros::Piece> {
        let piece = |piece| match piece {
            Piece::Zeros(len) => zeros::Piece::Hole(len),
            Piece::Bytes(fragment, range) => zeros::Piece::Data(Bytes::from_owner(Part(fragment, range))),
            Piece::Dirty(slice) => zeros::Piece::Data(Bytes::from_owner(slice)),
        };
        self.pieces.into_iter().map(piece).collect()
    }

    /// Its bytes as one buffer: without a copy where they are in one place already.
    pub fn into_bytes(self) -> Bytes {
        if self.pieces.len() > 1 || matches!(self.pieces[..], [Piece::Zeros(_)]) {
            let mut joined = Vec::new();
            join(&self.pieces, &mut joined);
            return joined.into();
        }
        match self.into_pieces().pop() {
            Some(zeros::Piece::Data(bytes)) => bytes,
            Some(zeros::Piece::Hole(_)) | None => Bytes::new(),
        }
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(Piece::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn push_zeros(&mut self, len: u64) {
        match self.pieces.last_mut() {
            Some(Piece::Zeros(last)) => *last += len,
            _ => self.pieces.push(Piece::Zeros(len)),
        }
    }

    fn push_cached(&mut self, fragment: Arc<Fragment>, range: ByteRange) {
        self.cached_bytes += range.len();
        self.pieces.push(Piece::Bytes(fragment, range));
    }

    fn push_dirty(&mut self, slice: Slice) {
        self.cached_bytes += u64::try_from(slice.as_ref().len()).unwrap_or(0);
        self.pieces.push(Piece::Dirty(slice));
    }

    fn push_landed(&mut self, landed: &Landed, wanted: ByteRange) {
        for fragment in &landed.fragments {
            let part = fragment.range().intersect(wanted);
            if !part.is_empty() {
                self.pieces.push(Piece::Bytes(Arc::clone(fragment), part));
            }
        }
    }
}

thread_local! {
    /// Where pieces are joined, so that no read takes memory for that; as large as the largest read.
    static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Puts all pieces into `bytes`, and nothing else.
fn join(pieces: &[Piece], bytes: &mut Vec<u8>) {
    bytes.clear();
    let len: u64 = pieces.iter().map(Piece::len).sum();
    bytes.reserve_exact(usize::try_from(len).expect("a read fits memory"));
    for piece in pieces {
        match piece {
            Piece::Zeros(len) => bytes.resize(
                bytes.len() + usize::try_from(*len).expect("a read fits memory"),
                0,
            ),
            Piece::Bytes(fragment, range) => bytes.extend_from_slice(fragment.slice(*range)),
            Piece::Dirty(slice) => bytes.extend_from_slice(slice.as_ref()),
        }
    }
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Zeros(len) => *len,
            Self::Bytes(_, range) => range.len(),
            Self::Dirty(slice) => u64::try_from(slice.as_ref().len()).unwrap_or(0),
        }
    }
}

/// What is known of one part of a read before anything is fetched.
#[derive(Debug)]
enum Found {
    Zeros(ByteRange),
    Dirty(Slice),
    /// The server has it, the cache perhaps too.
    Data(ByteRange),
    Unknown(u64),
}

impl State {
    /// `wanted` in order: what this client changed, then what the map says.
    fn parts(&self, wanted: ByteRange) -> Vec<Found> {
        let mut parts = Vec::new();
        for (piece, content) in self.back.overlay.pieces(wanted) {
            match content {
                Some(Content::Data(slice)) => {
                    parts.push(Found::Dirty(slice.part(ByteRange::up_to(piece.len()))))
                }
                Some(Content::Zero | Content::Hole) => parts.push(Found::Zeros(piece)),
                None => parts.extend(self.map.known(piece).map(|(run, known)| match known {
                    Known::Unknown => Found::Unknown(run.start()),
                    Known::Zero | Known::Hole => Found::Zeros(run),
                    Known::Data => Found::Data(run),
                })),
            }
        }
        parts
    }

    /// `wanted`, cut at the end of the volume.
    fn within_size(&self, wanted: ByteRange) -> ByteRange {
        wanted.intersect(ByteRange::up_to(self.attr.size))
    }
}

/// How to get one part of a read.
#[derive(Debug)]
enum Step {
    Zeros(u64),
    Dirty(Slice),
    Cached(Arc<Fragment>, ByteRange),
    Await(Arc<Flight>, ByteRange),
    /// Only while planning: becomes `Await` once its flights are registered.
    Missing(ByteRange),
}

/// Prefetches that are registered and not started yet.
type Ahead = Vec<(Arc<Flight>, Reservation)>;

/// A plan and the base it was made at.
#[derive(Debug)]
struct Plan {
    steps: Vec<Step>,
    base: Generation,
}

/// Answer to an attempt to read without waiting.
#[derive(Debug)]
pub enum ReadNow {
    Ready(Gathered),
    /// Something must come from the server first: go on with [`Volume::read`].
    Wait,
}

impl<R: Remote> Volume<R> {
    /// Reads what is there: holes, zeros and cached data. Starts prefetching; needs a tokio context.
    pub fn read_now(self: &Arc<Self>, readahead: &Mutex<Readahead>, wanted: ByteRange) -> ReadNow {
        let mut state = self.state.lock();
        if self.is_due_in(&state) {
            return ReadNow::Wait;
        }
        let wanted = state.within_size(wanted);
        let mut gathered = Gathered::default();
        for part in state.parts(wanted) {
            match part {
                Found::Unknown(_) => return ReadNow::Wait,
                Found::Zeros(run) => gathered.push_zeros(run.len()),
                Found::Dirty(slice) => gathered.push_dirty(slice),
                Found::Data(run) => {
                    for (part, found) in self.shared.cache.find(self.key, run) {
                        let Some(fragment) = found else {
                            return ReadNow::Wait;
                        };
                        gathered.push_cached(fragment, part);
                    }
                }
            }
        }
        let ahead = self.prefetch(&mut state, readahead, wanted);
        drop(state);
        self.start_ahead(ahead);
        self.count(&gathered);
        ReadNow::Ready(gathered)
    }

    /// Reads, fetching what is missing. Cut at the end of the volume, otherwise always in full.
    pub async fn read(self: &Arc<Self>, readahead: &Mutex<Readahead>, wanted: ByteRange) -> Result<Gathered> {
        self.shared
            .within_deadline(("read", &self.path), self.read_in_time(Some(readahead), wanted))
            .await
    }

    /// Reads past the cache (O_DIRECT); holes still need no request.
    pub async fn read_direct(self: &Arc<Self>, wanted: ByteRange) -> Result<Gathered> {
        self.shared
            .within_deadline(("read", &self.path), self.read_in_time(None, wanted))
            .await
    }

    async fn read_in_time(
        self: &Arc<Self>,
        readahead: Option<&Mutex<Readahead>>,
        wanted: ByteRange,
    ) -> Result<Gathered> {
        let _admitted = self.shared.admit(wanted.len()).await?;
        let mut retries = 0;
        loop {
            let (gathered, before) = match readahead {
                Some(readahead) => match self.plan(readahead, wanted) {
                    Ok(plan) => match self.gather(&plan).await {
                        // With `-o hard` a read outlives its fetches.
                        Err(error)
                            if error.kind() == ErrorKind::TimedOut && self.shared.deadline.is_none() =>
                        {
                            continue;
                        }
                        gathered => (gathered?, plan.base),
                    },
                    Err(unknown) => {
                        self.learn(unknown).await?;
                        continue;
                    }
                },
                None => match self.plan_direct(wanted) {
                    Ok((parts, base)) => (self.gather_direct(parts, base).await?, base),
                    Err(unknown) => {
                        self.learn(unknown).await?;
                        continue;
                    }
                },
            };
            retries += 1;
            let (gathered, consistent) = gathered;
            if consistent && self.state.lock().base == before || retries > RETRIES_MAX {
                self.count(&gathered);
                return Ok(gathered);
            }
            self.resync().await?;
        }
    }

    /// Plans a read, registers and starts what must be fetched. `Err` is the offset where the map ends.
    fn plan(self: &Arc<Self>, readahead: &Mutex<Readahead>, wanted: ByteRange) -> Result<Plan, u64> {
        let mut state = self.state.lock();
        let size = ByteRange::up_to(state.attr.size);
        let wanted = wanted.intersect(size);
        let base = state.base;
        let mut steps = Vec::new();
        let mut missing = Missing::default();
        for part in state.parts(wanted) {
            match part {
                Found::Unknown(offset) => return Err(offset),
                Found::Zeros(run) => steps.push(Step::Zeros(run.len())),
                Found::Dirty(slice) => steps.push(Step::Dirty(slice)),
                Found::Data(run) => {
                    for (part, found) in self.shared.cache.find(self.key, run) {
                        steps.push(match found {
                            Some(fragment) => Step::Cached(fragment, part),
                            None => {
                                missing.add(part.align_out(PAGE_BYTES).intersect(size));
                                Step::Missing(part)
                            }
                        });
                    }
                }
            }
        }
        let new = plan_flights(missing.without(&state.flights));
        state.flights.extend(new.iter().cloned());
        let steps = steps
            .into_iter()
            .flat_map(|step| match step {
                Step::Missing(part) => awaited(&state.flights, part),
                other => vec![other],
            })
            .collect();
        let ahead = self.prefetch(&mut state, readahead, wanted);
        drop(state);
        for flight in new {
            self.start(flight, None);
        }
        self.start_ahead(ahead);
        Ok(Plan { steps, base })
    }

    /// Waits for what is on its way. False: not all of it is of the plan's generation.
    async fn gather(self: &Arc<Self>, plan: &Plan) -> Result<(Gathered, bool)> {
        let mut gathered = Gathered::default();
        let mut consistent = true;
        for step in &plan.steps {
            match step {
                Step::Zeros(len) => gathered.push_zeros(*len),
                Step::Dirty(slice) => gathered.push_dirty(slice.clone()),
                Step::Cached(fragment, range) => gathered.push_cached(Arc::clone(fragment), *range),
                Step::Await(flight, range) => {
                    let landed = flight.landed().await?;
                    consistent &= landed.base == plan.base;
                    gathered.push_landed(&landed, *range);
                }
                Step::Missing(_) => unreachable!("planning replaced it"),
            }
        }
        Ok((gathered, consistent))
    }

    fn plan_direct(&self, wanted: ByteRange) -> Result<(Vec<Found>, Generation), u64> {
        let state = self.state.lock();
        let parts = state.parts(state.within_size(wanted));
        let unknown = parts.iter().find_map(|part| match part {
            Found::Unknown(offset) => Some(*offset),
            Found::Zeros(_) | Found::Dirty(_) | Found::Data(_) => None,
        });
        unknown.map_or(Ok((parts, state.base)), Err)
    }

    async fn gather_direct(
        self: &Arc<Self>,
        parts: Vec<Found>,
        base: Generation,
    ) -> Result<(Gathered, bool)> {
        let data = parts.iter().filter_map(|part| match part {
            Found::Data(run) => Some(*run),
            Found::Zeros(_) | Found::Dirty(_) | Found::Unknown(_) => None,
        });
        let landed = self.fetch_uncached(data.collect()).await?;
        let mut gathered = Gathered::default();
        for part in parts {
            match part {
                Found::Data(run) => landed.iter().for_each(|landed| gathered.push_landed(landed, run)),
                Found::Zeros(run) => gathered.push_zeros(run.len()),
                Found::Dirty(slice) => gathered.push_dirty(slice),
                Found::Unknown(_) => unreachable!("planning refused it"),
            }
        }
        Ok((gathered, landed.iter().all(|landed| landed.base == base)))
    }

    /// Takes note of a read; registers what readahead wants, as far as there is room without waiting.
    #[must_use]
    fn prefetch(&self, state: &mut State, readahead: &Mutex<Readahead>, read: ByteRange) -> Ahead {
        let mut readahead = readahead.lock();
        let map = &state.map;
        let data_between = |gap: ByteRange| has_data_before(map.seek_data(gap.start()), gap.end());
        let data_runs = map.known(read).filter(|(_, known)| *known == Known::Data);
        let data_bytes = data_runs.map(|(run, _)| run.len()).sum();
        let wanted = readahead.on_read(read, data_bytes, data_between);
        let passed = readahead.passed().filter(|_| self.shared.kernel_caches);
        if let Some(passed) = passed {
            self.shared.cache.pass(self.key, passed);
        }
        let Some(prefetch) = wanted else {
            return Vec::new();
        };
        let Some(rest) = ByteRange::new(prefetch.from, state.attr.size) else {
            return Vec::new();
        };
        let size = ByteRange::up_to(state.attr.size);
        let mut missing = Missing::default();
        let mut left = prefetch.data_bytes;
        let mut end = prefetch.from;
        for (run, known) in map.known(rest).take(PREFETCH_RUNS_MAX) {
            if left == 0 || known == Known::Unknown {
                break;
            }
            if known == Known::Data {
                let part = run.split_at(run.start().saturating_add(left)).0;
                left -= part.len();
                end = part.end();
                for (part, found) in self.shared.cache.find(self.key, part) {
                    if found.is_none() {
                        missing.add(part.align_out(PAGE_BYTES).intersect(size));
                    }
                }
            } else {
                end = run.end();
            }
        }
        readahead.issued(end, prefetch.data_bytes - left);
        drop(readahead);
        let mut ahead = Vec::new();
        for flight in plan_flights(missing.without(&state.flights)) {
            let Some(share) = self.shared.cache.try_reserve_gently(room_for(flight.ranges())) else {
                break;
            };
            state.flights.push(Arc::clone(&flight));
            ahead.push((flight, share));
        }
        ahead
    }

    fn start_ahead(self: &Arc<Self>, ahead: Ahead) {
        for (flight, share) in ahead {
            self.start(flight, Some(share));
        }
    }

    fn count(&self, gathered: &Gathered) {
        let zeros = gathered
            .pieces
            .iter()
            .filter(|piece| matches!(piece, Piece::Zeros(_)))
            .map(Piece::len)
            .sum();
        self.shared.counters.hole_bytes_read.add(zeros);
        self.shared.counters.cache_bytes_read.add(gathered.cached_bytes);
    }
}

fn has_data_before(sought: Sought, end: u64) -> bool {
    match sought {
        Sought::At(offset) | Sought::Unknown(offset) => offset < end,
        Sought::None => false,
    }
}

/// Ranges to fetch, in order, joined where they touch.
#[derive(Debug, Default)]
struct Missing {
    ranges: Vec<ByteRange>,
}

impl Missing {
    fn add(&mut self, range: ByteRange) {
        match self.ranges.last_mut() {
            Some(last) if last.end() >= range.start() => {
                *last = ByteRange::new(last.start(), last.end().max(range.end())).unwrap_or(*last);
            }
            _ => self.ranges.push(range),
        }
    }

    /// Less what is on its way already.
    fn without(&self, flights: &[Arc<Flight>]) -> Vec<ByteRange> {
        let mut rest = self.ranges.clone();
        for flying in flights.iter().flat_map(|flight| flight.ranges()) {
            if rest.iter().all(|range| !range.overlaps(*flying)) {
                continue;
            }
            rest = rest
                .iter()
                .flat_map(|range| {
                    [range.split_at(flying.start()).0, range.split_at(flying.end()).1]
                        .map(|part| part.intersect(*range))
                })
                .filter(|range| !range.is_empty())
                .collect();
        }
        rest
    }
}

/// Which flights bring `wanted`, in the order of its bytes.
fn awaited(flights: &[Arc<Flight>], wanted: ByteRange) -> Vec<Step> {
    let mut parts: Vec<(ByteRange, &Arc<Flight>)> = Vec::new();
    for flight in flights {
        for range in flight.ranges() {
            let part = range.intersect(wanted);
            if !part.is_empty() {
                parts.push((part, flight));
            }
        }
    }
    parts.sort_by_key(|(part, _)| part.start());
    debug_assert_eq!(
        parts.iter().map(|(part, _)| part.len()).sum::<u64>(),
        wanted.len(),
        "all of it is on its way"
    );
    parts
        .into_iter()
        .map(|(part, flight)| Step::Await(Arc::clone(flight), part))
        .collect()
}
