//! The last listing of each folder: what a folder is known to hold while the server cannot be asked.
//!
//! Plain data: no IO, no lock of its own. A listing stays until this client changes the folder, or the server says
//! something about a name that contradicts it. One that was on its way during a change of this client is not
//! kept: nobody knows which came first.
//! Only a whole listing says that a name is not there.

use std::sync::Arc;

use lacuna_transport::attr::Attr;
use lacuna_transport::id::NodeId;
use lacuna_transport::path::NodeName;
use lru::LruCache;
use tokio::time::Instant;

/// Folders whose listings are kept.
const FOLDERS_MAX: usize = 4096;
/// Memory for all of them; one that is larger is not kept.
const BYTES_MAX: usize = 16 << 20;
/// What an entry takes beside the bytes of its name, which are an allocation of their own.
const ENTRY_BYTES: usize = size_of::<(NodeName, Attr)>() + 16;

/// The names of a folder, in byte order.
pub type Names = Arc<Vec<(NodeName, Attr)>>;

#[derive(Clone, Debug)]
pub struct Listed {
    pub names: Names,
    /// When it was asked for.
    pub asked: Instant,
}

#[derive(Debug)]
pub struct Listings {
    by_age: LruCache<NodeId, Listed>,
    bytes: usize,
    /// Changes of names by this client so far.
    changes: u64,
}

impl Default for Listings {
    fn default() -> Self {
        Self {
            by_age: LruCache::unbounded(),
            bytes: 0,
            changes: 0,
        }
    }
}

impl Listings {
    /// To be remembered while a listing is asked for, and given to [`Self::put`].
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// A listing was asked for when `changes` had been made, and came.
    pub fn put(&mut self, folder: NodeId, listed: Listed, changes: u64) {
        self.remove(folder);
        let bytes = bytes_of(&listed.names);
        if self.changes != changes || bytes > BYTES_MAX {
            return;
        }
        self.bytes += bytes;
        self.by_age.put(folder, listed);
        while self.bytes > BYTES_MAX || self.by_age.len() > FOLDERS_MAX {
            let Some((_, oldest)) = self.by_age.pop_lru() else {
                break;
            };
            self.bytes -= bytes_of(&oldest.names);
        }
    }

    /// The last listing of a folder.
    pub fn of(&mut self, folder: NodeId) -> Option<Listed> {
        self.by_age.get(&folder).cloned()
    }

    /// What is known of a name: its attributes, or that it is not there; `None` if nothing is.
    pub fn find(&mut self, folder: NodeId, name: &NodeName) -> Option<Option<Attr>> {
        let names = &self.by_age.get(&folder)?.names;
        let found = names.binary_search_by(|(listed, _)| listed.cmp(name)).ok();
        Some(found.and_then(|index| names.get(index)).map(|(_, attr)| *attr))
    }

    /// This client changed the names of a folder, or tried to.
    pub fn changed(&mut self, folder: NodeId) {
        self.changes += 1;
        self.remove(folder);
    }

    /// The server says what a name is, or that it is not there. Newer attributes are taken in; a listing that says
    /// something else goes.
    pub fn told(&mut self, folder: NodeId, name: &NodeName, attr: Option<&Attr>) {
        let Some(listed) = self.by_age.peek_mut(&folder) else {
            return;
        };
        let found = listed.names.binary_search_by(|(listed, _)| listed.cmp(name));
        match (found, attr) {
            (Ok(index), Some(attr)) if same_node(listed.names.get(index), attr) => {
                // A copy if somebody walks it just now: at most one for each walk.
                if let Some((_, listed)) = Arc::make_mut(&mut listed.names).get_mut(index) {
                    *listed = *attr;
                }
            }
            (Err(_), None) => {}
            (Ok(_), _) | (Err(_), Some(_)) => self.remove(folder),
        }
    }

    /// What this client knows of a name may be newer than the listing.
    pub fn newer(&mut self, folder: NodeId, name: &NodeName, attr: &Attr) {
        let listed = self.find(folder, name).flatten();
        if listed.is_some_and(|listed| listed.id == attr.id && listed != *attr) {
            self.told(folder, name, Some(attr));
        }
    }

    fn remove(&mut self, folder: NodeId) {
        if let Some(listed) = self.by_age.pop(&folder) {
            self.bytes -= bytes_of(&listed.names);
        }
    }
}

fn same_node(listed: Option<&(NodeName, Attr)>, attr: &Attr) -> bool {
    listed.is_some_and(|(_, listed)| listed.id == attr.id && listed.birth_ns == attr.birth_ns)
}

fn bytes_of(names: &[(NodeName, Attr)]) -> usize {
    let text: usize = names.iter().map(|(name, _)| name.as_bytes().len()).sum();
    text + names.len() * ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use lacuna_transport::attr::{NodeKind, Timestamp};
    use lacuna_transport::id::Generation;

    use super::*;

    const FOLDER: NodeId = NodeId(9);

    fn name(text: &str) -> NodeName {
        NodeName::new(text.as_bytes()).unwrap()
    }

    fn attr(id: u64, size: u64) -> Attr {
        Attr {
            id: NodeId(id),
            kind: NodeKind::Volume,
            size,
            allocated_bytes: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            links: 1,
            accessed: Timestamp::default(),
            modified: Timestamp::default(),
            changed: Timestamp::default(),
            birth_ns: 1,
            generation: Generation(1),
            base: Generation(1),
        }
    }

    fn listed(names: &[&str]) -> Listed {
        let entries = (1..).zip(names).map(|(id, text)| (name(text), attr(id, 0)));
        Listed {
            names: Arc::new(entries.collect()),
            asked: Instant::now(),
        }
    }

    fn holding(names: &[&str]) -> Listings {
        let mut listings = Listings::default();
        listings.put(FOLDER, listed(names), 0);
        listings
    }

    #[tokio::test]
    async fn only_a_whole_listing_says_that_a_name_is_not_there() {
        let mut listings = holding(&["a", "c"]);
        assert_eq!(listings.find(FOLDER, &name("c")), Some(Some(attr(2, 0))));
        assert_eq!(listings.find(FOLDER, &name("b")), Some(None));
        assert_eq!(listings.find(NodeId(1), &name("b")), None);
    }

    #[tokio::test]
    async fn what_the_server_says_of_a_name_counts() {
        let mut listings = holding(&["a", "c"]);
        let held = listings.of(FOLDER).unwrap();
        listings.told(FOLDER, &name("c"), Some(&attr(2, 77)));
        listings.told(FOLDER, &name("b"), None);
        assert_eq!(listings.find(FOLDER, &name("c")), Some(Some(attr(2, 77))));
        assert_eq!(held.names[1].1.size, 0, "who walks a listing sees one moment");
        for (text, said) in [("a", None), ("b", Some(attr(3, 0))), ("c", Some(attr(4, 0)))] {
            let mut listings = holding(&["a", "c"]);
            listings.told(FOLDER, &name(text), said.as_ref());
            assert_eq!(listings.find(FOLDER, &name(text)), None, "{text}");
            assert_eq!(listings.bytes, 0);
        }
    }

    #[tokio::test]
    async fn a_listing_does_not_outlive_a_change_also_one_on_its_way() {
        let mut listings = holding(&["a"]);
        let asked = listings.changes();
        listings.changed(FOLDER);
        assert_eq!(listings.find(FOLDER, &name("a")), None);
        listings.put(FOLDER, listed(&["a"]), asked);
        assert!(listings.of(FOLDER).is_none(), "it may be older than the change");
        listings.put(FOLDER, listed(&["b"]), listings.changes());
        assert!(listings.of(FOLDER).is_some());
    }

    #[tokio::test]
    async fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut listings = Listings::default();
        let entries = (1..=40_000_u64).map(|id| (name(&format!("{id:020}")), attr(id, 0)));
        let many = Listed {
            names: Arc::new(entries.collect()),
            asked: Instant::now(),
        };
        for folder in 1..=4 {
            listings.put(NodeId(folder), many.clone(), 0);
            assert!(listings.bytes <= BYTES_MAX);
        }
        assert!(listings.of(NodeId(1)).is_none() && listings.of(NodeId(4)).is_some());
        for folder in 0..=5000 {
            listings.put(NodeId(folder), listed(&["a"]), 0);
        }
        assert_eq!(listings.by_age.len(), FOLDERS_MAX);
        listings.changed(NodeId(5000));
        while let Some((_, oldest)) = listings.by_age.pop_lru() {
            listings.bytes -= bytes_of(&oldest.names);
        }
        assert_eq!(listings.bytes, 0, "bytes were not counted right");
    }
}
