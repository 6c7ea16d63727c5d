//! `List`: a folder in pages. The folder is read once, so that the pages are of one moment.

use std::sync::Arc;

use lacuna_transport::limits::LIST_PAGE_BYTES_MAX;
use lacuna_transport::path::NodePath;
use lacuna_transport::quic::frames::FrameError;
use lacuna_transport::wire::frame::Code;
use lacuna_transport::wire::message::{self, LIST_ENTRY_BYTES_MAX, ListEntry, ListPage};

use super::Session;
use super::lane::Reply;

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
        let listed = self.blocking(move || {
            let entries = server.backend.list(&path)?.into_iter();
            Ok(entries
                .map(|(name, attr)| ListEntry {
                    name,
                    attr: server.catalog.with_generation(attr, session),
                })
                .collect())
        });
        let mut entries: Vec<ListEntry> = match listed.await {
            Ok(entries) => entries,
            Err(error) => return reply.failed(&error).await,
        };
        // From the end, so that what was sent is freed.
        entries.reverse();
        loop {
            reply.pay(2 * u64::from(LIST_PAGE_BYTES_MAX)).await?;
            let rest = entries.len().saturating_sub(entries_a_page());
            let page: Vec<ListEntry> = entries.drain(rest..).rev().collect();
            let code = if entries.is_empty() {
                Code::Done
            } else {
                Code::More
            };
            reply
                .frame(code, message::encode(&ListPage { entries: page }))
                .await?;
            if entries.is_empty() {
                return Ok(());
            }
        }
    }
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
