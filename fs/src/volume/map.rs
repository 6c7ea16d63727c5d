//! Fetching the map of a volume, and seeking in it.

use std::sync::Arc;

use lacuna_transport::digest::UnitHash;
use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::map_page::MapPage;

use super::Volume;
use crate::error::{Error, ErrorKind, Result};
use crate::extent_map::Known;
use crate::extent_map::Sought;
use crate::overlay::Content;
use crate::remote::{Remote, UnitRange};
use crate::run_map::RunMap;

/// What a volume may hold whatever the others do: the page that a seek waits for, and then some.
const MAP_RUNS_MIN: usize = 16 << 10;
/// How often a map is begun anew because the volume changed under it, before the error is passed on.
const RESTARTS_MAX: u32 = 8;

/// Which way to seek.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    Data,
    Hole,
}

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Applied,
    /// It is of another base than the map.
    Outdated,
    /// The map is at its bound.
    Full,
}

impl<R: Remote> Volume<R> {
    /// Seeks in what is known.
    pub fn seek_now(&self, from: u64, whence: Whence) -> Sought {
        let state = self.state.lock();
        match whence {
            Whence::Data => state.map.seek_data(from),
            Whence::Hole => state.map.seek_hole(from),
        }
    }

    /// Seeks, fetching what is not known yet.
    pub async fn seek(self: &Arc<Self>, from: u64, whence: Whence) -> Result<u64> {
        let none = || Error::new(ErrorKind::NoExtent, format!("nothing at or after {from}"));
        self.shared
            .within_deadline(("lseek", &self.path), async {
                loop {
                    match self.seek_now(from, whence) {
                        Sought::At(offset) => return Ok(offset),
                        Sought::None => return Err(none()),
                        Sought::Unknown(offset) => self.learn(offset).await?,
                    }
                }
            })
            .await
    }

    /// Hashes of units as the server has them, without what was not sent yet.
    pub async fn digest(&self, units: UnitRange) -> Result<Vec<UnitHash>> {
        let bound = self.bound()?;
        let (_, hashes) = self.shared.remote.digest(&bound, units).await?;
        Ok(hashes)
    }

    /// The extents of `range`, in order and without gaps, cut at the end of the volume; neighbours differ. At
    /// most `count_max` of them, and they end where the map is not known yet, but for the first.
    pub async fn extents(self: &Arc<Self>, range: ByteRange, count_max: usize) -> Result<Vec<Extent>> {
        self.shared
            .within_deadline(("map", &self.path), async {
                loop {
                    match self.extents_now(range, count_max) {
                        Ok(extents) => return Ok(extents),
                        Err(unknown) => self.learn(unknown).await?,
                    }
                }
            })
            .await
    }

    /// `Err` is where the map ends, if not even the first extent is known.
    fn extents_now(&self, range: ByteRange, count_max: usize) -> Result<Vec<Extent>, u64> {
        let state = self.state.lock();
        let range = range.intersect(ByteRange::up_to(state.attr.size));
        let mut extents: Vec<Extent> = Vec::new();
        for (piece, content) in state.back.overlay.pieces(range) {
            let written = content.map(|content| match content {
                Content::Data(_) => (piece, Known::Data),
                Content::Zero => (piece, Known::Zero),
                Content::Hole => (piece, Known::Hole),
            });
            let below = written.is_none().then(|| state.map.known(piece));
            for (run, known) in written.into_iter().chain(below.into_iter().flatten()) {
                let kind = match known {
                    Known::Data => ExtentKind::Data,
                    Known::Zero => ExtentKind::Zero,
                    Known::Hole => ExtentKind::Hole,
                    Known::Unknown if extents.is_empty() => return Err(run.start()),
                    Known::Unknown => return Ok(extents),
                };
                if let Some(last) = extents.last_mut().filter(|last| last.kind == kind) {
                    last.range = ByteRange::new(last.range.start(), run.end()).unwrap_or(last.range);
                    continue;
                }
                if extents.len() == count_max {
                    return Ok(extents);
                }
                extents.push(Extent::new(run, kind));
            }
        }
        Ok(extents)
    }

    /// Makes `offset` known: fetches one page of the map from there on.
    pub(super) async fn learn(self: &Arc<Self>, offset: u64) -> Result<()> {
        let fetching = self.map_fetch.lock().await;
        for _ in 0..RESTARTS_MAX {
            if self.state.lock().map.first_unknown(offset) != Some(offset) {
                return Ok(());
            }
            let from = ByteRange::new(offset, u64::MAX).unwrap_or(ByteRange::EMPTY);
            let mut taken = None;
            let fetching_map = self.fetching_map();
            self.shared
                .remote
                .map(&*self.bound()?, from, 1, |page| {
                    taken = Some(self.take(&page));
                    false
                })
                .await?;
            drop(fetching_map);
            match taken {
                Some(Taken::Applied) if self.state.lock().map.first_unknown(offset) != Some(offset) => {
                    return Ok(());
                }
                Some(Taken::Full) => self.make_room(),
                // The volume changed, or ends before the offset now: look again with fresh attributes.
                Some(Taken::Applied | Taken::Outdated) | None => self.resync().await?,
            }
        }
        drop(fetching);
        Err(Error::new(
            ErrorKind::Io,
            format!("{} keeps changing while its map is read", self.path()),
        ))
    }

    /// Streams the whole map in the background.
    pub(super) fn start_loading_map(self: &Arc<Self>) {
        let volume = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = volume.load_map().await {
                tracing::debug!(volume = %volume.path(), %error, "the map is not loaded in advance");
            }
        });
    }

    async fn load_map(self: &Arc<Self>) -> Result<()> {
        for _ in 0..RESTARTS_MAX {
            let Some(first) = self.state.lock().map.first_unknown(0) else {
                return Ok(());
            };
            let from = ByteRange::new(first, u64::MAX).unwrap_or(ByteRange::EMPTY);
            let mut last = Taken::Applied;
            let bound = self.bound()?;
            let fetching_map = self.fetching_map();
            self.shared
                .remote
                .map(&bound, from, u32::MAX, |page| {
                    last = self.take(&page);
                    last == Taken::Applied
                })
                .await?;
            drop(fetching_map);
            match last {
                Taken::Applied | Taken::Full => return Ok(()),
                Taken::Outdated => self.resync().await?,
            }
        }
        Ok(())
    }

    /// Takes over a page that was asked for, but for what this client changed since.
    fn take(&self, page: &MapPage) -> Taken {
        let mut state = self.state.lock();
        if page.generation != state.base {
            return Taken::Outdated;
        }
        let runs = page.extents().len();
        if self.shared.map_runs.are_full(runs) && state.map.runs_held() + runs > MAP_RUNS_MIN {
            return Taken::Full;
        }
        let state = &mut *state;
        let size = ByteRange::up_to(state.attr.size);
        for extent in page.extents() {
            let range = extent.range.intersect(size);
            if state.changed_meanwhile.is_uniform() {
                state.map.set(range, extent.kind);
                continue;
            }
            for (part, changed) in state.changed_meanwhile.runs(range) {
                if !changed {
                    state.map.set(part, extent.kind);
                }
            }
        }
        if page.range.end() >= page.size {
            state.map.fill_beyond(page.size);
        }
        state.overlay_on_map(page.range);
        state.count_map(&self.shared.map_runs);
        Taken::Applied
    }

    /// Forgets the map but for what this client wrote: what is asked for next finds room in it.
    fn make_room(&self) {
        let mut state = self.state.lock();
        state.map.forget(ByteRange::ALL);
        state.overlay_on_map(ByteRange::ALL);
        state.count_map(&self.shared.map_runs);
    }

    fn fetching_map(&self) -> MapFetch<'_, R> {
        let mut state = self.state.lock();
        state.map_fetches += 1;
        if state.map_fetches == 1 {
            state.changed_meanwhile = RunMap::new(false);
        }
        drop(state);
        MapFetch(self)
    }
}

/// A request for pages of the map under way.
struct MapFetch<'a, R: Remote>(&'a Volume<R>);

impl<R: Remote> Drop for MapFetch<'_, R> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.map_fetches -= 1;
        if state.map_fetches == 0 {
            state.changed_meanwhile = RunMap::new(false);
        }
    }
}
