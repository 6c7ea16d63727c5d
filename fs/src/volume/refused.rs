//! Batches of which the server will never take some part: what is too late for a stream.
//!
//! A batch holds writes from all over a volume, and one of them that is refused must not hold up the others. So
//! each goes again alone, and of one that is refused whatever is still taken: what is too late of a range is its
//! front (see `ErrorCode::Refused`), and the page at which it ends is searched for. What is left is dropped, counted
//! as lost, and an error for each handle.

use lacuna_transport::attr::Attr;
use lacuna_transport::id::BootId;
use lacuna_transport::range::ByteRange;

use super::{State, Volume};
use crate::cache::PAGE_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::extent_map::BLOCK_BYTES;
use crate::overlay::{Batch, Work};
use crate::remote::Remote;

/// What the server will never take, and why.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) ranges: Vec<ByteRange>,
    pub(super) error: Error,
}

/// The writes, or the holes, of a batch: each to be sent alone.
fn parts(work: &Work) -> Vec<(ByteRange, Work)> {
    let (ranges, slices) = match work {
        Work::Write(ranges, slices) => (ranges, slices),
        Work::Zero(range) => return vec![(*range, work.clone())],
        Work::Punch(ranges) => {
            let alone = ranges.iter().map(|range| (*range, Work::Punch(vec![*range])));
            return alone.collect();
        }
    };
    let mut left = ranges.iter().copied();
    let mut rest = ByteRange::EMPTY;
    let mut parts = Vec::new();
    for slice in slices {
        if rest.is_empty() {
            rest = left.next().unwrap_or(ByteRange::EMPTY);
        }
        let bytes = u64::try_from(slice.as_ref().len()).unwrap_or(u64::MAX);
        let (range, after) = rest.split_at(rest.start().saturating_add(bytes));
        parts.push((range, Work::Write(vec![range], vec![slice.clone()])));
        rest = after;
    }
    parts
}

/// What of a part, which is all of `whole`, lies in `range`.
fn cut(part: &Work, whole: ByteRange, range: ByteRange) -> Work {
    match part {
        Work::Write(_, slices) => {
            let at = |offset: u64| offset - whole.start();
            let inside = ByteRange::new(at(range.start()), at(range.end())).unwrap_or(ByteRange::EMPTY);
            let slices = slices.iter().map(|slice| slice.part(inside));
            Work::Write(vec![range], slices.collect())
        }
        Work::Zero(_) => Work::Zero(range),
        Work::Punch(_) => Work::Punch(vec![range]),
    }
}

/// A page edge between, if there is one.
fn middle(lo: u64, hi: u64) -> Option<u64> {
    let page = lo.midpoint(hi) / PAGE_BYTES * PAGE_BYTES;
    let page = page.max((lo / PAGE_BYTES).saturating_add(1).saturating_mul(PAGE_BYTES));
    (page < hi).then_some(page)
}

impl<R: Remote> Volume<R> {
    /// Sends a batch that was refused with `error` again, part by part.
    pub(super) async fn send_parts(
        &self,
        bound: &R::Volume,
        boot: BootId,
        work: &Work,
        error: Error,
    ) -> Result<(Attr, Refused)> {
        let mut ranges = Vec::new();
        for (range, part) in parts(work) {
            match self.send_work(bound, boot, part.clone()).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Refused => {
                    ranges.push(self.send_rest(bound, boot, range, &part).await?);
                }
                Err(error) => return Err(error),
            }
        }
        let attr = self.shared.remote.stat_open(bound).await?;
        Ok((attr, Refused { ranges, error }))
    }

    /// Sends as much as is taken of the end of a part that was refused whole; returns what is not.
    async fn send_rest(
        &self,
        bound: &R::Volume,
        boot: BootId,
        range: ByteRange,
        part: &Work,
    ) -> Result<ByteRange> {
        // What begins at `lo` is refused; from `hi` on all was taken.
        let (mut lo, mut hi) = (range.start(), range.end());
        while let Some(page) = middle(lo, hi) {
            let back = ByteRange::new(page, hi).unwrap_or(ByteRange::EMPTY);
            match self.send_work(bound, boot, cut(part, range, back)).await {
                Ok(_) => hi = page,
                Err(error) if error.kind() == ErrorKind::Refused => lo = page,
                Err(error) => return Err(error),
            }
        }
        Ok(range.split_at(hi).0)
    }

    /// Drops what was refused of a batch that is on the wire, and tells of it.
    pub(super) fn drop_refused(&self, state: &mut State, batch: &Batch, refused: &Refused) {
        let mut bytes = 0;
        for range in &refused.ranges {
            bytes += state.back.overlay.refused(batch.id, *range);
            let blocks = range.align_out(BLOCK_BYTES);
            state.map.forget(blocks);
            state.overlay_on_map(blocks);
        }
        tracing::error!(volume = %self.path, bytes, error = %refused.error, "data that was written came too late and is lost");
        self.shared.counters.lost_bytes.add(bytes);
        if bytes > 0 {
            self.shared.note_lost(self.path());
        }
        state.back.note_loss(&refused.error);
        // The kernel has pages of it.
        self.shared.notices.post(state.attr.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::buffer::Slice;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).unwrap()
    }

    #[test]
    fn every_write_of_a_batch_is_a_part_with_its_bytes() {
        let slice = |byte: u8, len: usize| Slice::new(&vec![byte; len], 0, None);
        let ranges = vec![range(10, 15), range(20, 23)];
        let work = Work::Write(ranges, vec![slice(1, 2), slice(2, 3), slice(3, 3)]);
        let found: Vec<_> = parts(&work)
            .into_iter()
            .map(|(range, part)| match part {
                Work::Write(ranges, slices) => {
                    assert_eq!(ranges, [range]);
                    (range, slices[0].as_ref().to_vec())
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            (range(10, 12), vec![1; 2]),
            (range(12, 15), vec![2; 3]),
            (range(20, 23), vec![3; 3]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_middle_is_a_page_edge_strictly_between() {
        assert_eq!(middle(0, 4096), None);
        assert_eq!(middle(1, 4097), Some(4096));
        assert_eq!(middle(0, 8192), Some(4096));
        assert_eq!(middle(4096, 8193), Some(8192));
        assert_eq!(middle(5000, 8192), None);
        assert_eq!(middle(0, 1 << 20), Some(1 << 19));
    }
}
