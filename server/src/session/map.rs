//! `Map`: the extents of a volume, in pages, each of one base: what the session itself changes meanwhile, it
//! knows better than any page.

use std::sync::Arc;

use lacuna_transport::extent::{Extent, ExtentKind};
use lacuna_transport::limits::MAP_PAGE_BYTES_MAX;
use lacuna_transport::quic::frames::FrameError;
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::frame::Code;
use lacuna_transport::wire::map_page::MapPage;
use lacuna_transport::wire::message::{Features, MapRequest};

use super::Session;
use super::lane::Reply;
use crate::catalog::OpenNode;
use crate::error::Result;

/// Runs asked of the backend for one page: what fits even if each needs its longest form.
const PAGE_RUNS: usize = 6500;
/// Memory while a page is made: its extents twice, and what it encodes to.
const PAGE_BYTES: u64 = 512 << 10;
/// A page is walked again if others changed the volume meanwhile; then it goes out as of the base before
/// the walk, which the client is about to learn is over.
const ATTEMPTS: usize = 3;

impl Session {
    /// The reply ends at `end`, at the volume's end, after `pages_max` pages, or when the volume
    /// changed: what follows would belong to another map.
    pub(super) async fn map(
        self: &Arc<Self>,
        request: MapRequest,
        features: Features,
        reply: &mut Reply<'_>,
    ) -> Result<(), FrameError> {
        let node = match self.node(request.handle) {
            Ok(node) => node,
            Err(error) => return reply.failed(&error).await,
        };
        let knows_holes = features.contains(Features::HOLES);
        let mut range = request.range();
        let mut pages_left = request.pages_max;
        let mut first = None;
        loop {
            reply.pay(PAGE_BYTES).await?;
            let walked = Arc::clone(&node);
            let page = match self.blocking(move || page_of(&walked, range, knows_holes)).await {
                Ok(page) => page,
                Err(error) => return reply.failed(&error).await,
            };
            pages_left = pages_left.saturating_sub(1);
            let same = *first.get_or_insert(page.generation) == page.generation;
            let got_on = page.range.end() > range.start();
            let more = same && got_on && pages_left > 0 && page.range.end() < range.end().min(page.size);
            let code = if more { Code::More } else { Code::Done };
            range = range.split_at(page.range.end()).1;
            let body = page.encode();
            drop(page);
            reply.shrink(2 * u64::from(MAP_PAGE_BYTES_MAX));
            reply.frame(code, body).await?;
            if !more {
                return Ok(());
            }
        }
    }
}

fn page_of(node: &OpenNode, range: ByteRange, knows_holes: bool) -> Result<MapPage> {
    let mut attempt = 1;
    loop {
        let attr = node.look()?;
        let inside = range.intersect(ByteRange::up_to(attr.size));
        let extents = if knows_holes {
            node.volume().extents(inside, PAGE_RUNS)?
        } else {
            // A client that knows no holes is told that all of it is data.
            vec![Extent::new(inside, ExtentKind::Data)]
        };
        if node.is_still(attr.base) || attempt == ATTEMPTS {
            return Ok(MapPage::fill(attr.base, attr.size, range.start(), extents));
        }
        attempt += 1;
    }
}
