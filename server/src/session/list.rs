//! `List`: a folder in pages. The folder is read once, so that the pages are of one moment.

use std::sync::Arc;

use lacuna_transport::limits::LIST_PAGE_BYTES_MAX;
use lacuna_transport::path::NodePath;
use lacuna_transport::quic::frames::FrameError;
use lacuna_transport::wire::frame::Code;
use lacuna_transport::wire::message::{self, LIST_ENTRY_BYTES_MAX, ListPage};

use super::Session;
use super::lane::Reply;
use super::listing::{BLOCK_COST_BYTES, Listing};
use crate::backend::room_for_another;
use crate::error::{Error, ErrorKind};

/// CBOR heads of the page and of its list.
const PAGE_HEAD_BYTES: usize = 16;

impl Session {
    pub(super) async fn list(
        self: &Arc<Self>,
        path: NodePath,
        reply: &mut Reply<'_>,
    ) -> Result<(), FrameError> {
        let _one_of_few = self
            .listings
            .acquire()
            .await
            .map_err(|error| FrameError::Lost(error.to_string()))?;
        let (server, session) = (Arc::clone(&self.server), self.number);
        let (memory, key) = (Arc::clone(&server.shared.listings), self.key);
        let listed = self.blocking(move || {
            let (mut listing, mut shares) = (Listing::default(), Vec::new());
            let mut paid = 0;
            server.backend.visit(&path, &mut |name, attr| {
                listing.push(&name, &server.catalog.with_generation(attr, session));
                while paid < listing.cost_bytes() {
                    let share = memory.try_take(key, BLOCK_COST_BYTES);
                    shares.push(share.ok_or_else(|| no_memory(&path))?);
                    paid += BLOCK_COST_BYTES;
                }
                room_for_another(&path, listing.len())
            })?;
            listing.sort();
            Ok((listing, shares))
        });
        let (mut listing, _shares) = match listed.await {
            Ok(listed) => listed,
            Err(error) => return reply.failed(&error).await,
        };
        loop {
            reply.pay(2 * u64::from(LIST_PAGE_BYTES_MAX)).await?;
            // What a client cannot take in, it is not sent.
            let entries = listing.take(entries_a_page())?;
            let code = if listing.len() == 0 {
                Code::Done
            } else {
                Code::More
            };
            reply.frame(code, message::encode(&ListPage { entries })).await?;
            if code == Code::Done {
                return Ok(());
            }
        }
    }
}

fn no_memory(path: &NodePath) -> Error {
    let why = format!(
        "the folder '{path}' is larger than the memory that is left for listings: list it again, split it, or give lacunad more --memory"
    );
    Error::new(ErrorKind::Exhausted, why)
}

fn entries_a_page() -> usize {
    let page_bytes = usize::try_from(LIST_PAGE_BYTES_MAX).unwrap_or(usize::MAX);
    (page_bytes - PAGE_HEAD_BYTES) / LIST_ENTRY_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use lacuna_transport::attr::{Attr, NodeKind, Timestamp};
    use lacuna_transport::id::{Generation, NodeId};
    use lacuna_transport::path::NodeName;
    use lacuna_transport::wire::message::ListEntry;

    use super::*;

    #[test]
    fn a_page_of_the_longest_entries_keeps_its_bound() {
        let time = Timestamp {
            seconds: i64::MIN,
            nanos: 999_999_999,
        };
        let attr = Attr {
            id: NodeId(u64::MAX),
            kind: NodeKind::Folder,
            size: u64::MAX,
            allocated_bytes: u64::MAX,
            mode: u32::MAX,
            uid: u32::MAX,
            gid: u32::MAX,
            links: u32::MAX,
            accessed: time,
            modified: time,
            changed: time,
            birth_ns: u64::MAX,
            generation: Generation(u64::MAX),
            base: Generation(u64::MAX),
        };
        let entry = ListEntry {
            name: NodeName::new(&[b'n'; 255]).unwrap(),
            attr,
        };
        let page = ListPage {
            entries: vec![entry; entries_a_page()],
        };
        let bytes = message::encode(&page).len();
        assert!(
            bytes <= usize::try_from(LIST_PAGE_BYTES_MAX).unwrap(),
            "{bytes} bytes"
        );
        assert!(entries_a_page() >= 100);
    }
}
