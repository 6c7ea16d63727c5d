//! A folder in memory while it is sent: each name with its attributes takes about a hundred bytes, in blocks that are
//! paid for as they fill. Pure.
//!
//! The folder is read once, so that the pages are of one moment, and sorted here: what reads it need not hold it.

use lacuna_transport::attr::Attr;
use lacuna_transport::path::NodeName;
use lacuna_transport::wire::WireError;
use lacuna_transport::wire::message::{self, ListEntry};

/// Bytes of a block; its names with their places in the order are paid for with it.
const BLOCK_BYTES: usize = 64 << 10;
/// Memory of one block: its places may be in a table that is half empty and was copied from one half as large.
pub(super) const BLOCK_COST_BYTES: u64 = 96 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Listing {
    blocks: Vec<Vec<u8>>,
    /// Block and offset of each entry; after [`Self::sort`] the last name comes first.
    places: Vec<(u32, u32)>,
}

impl Listing {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// What it takes in memory.
    pub(super) fn cost_bytes(&self) -> u64 {
        u64::try_from(self.blocks.len()).unwrap_or(u64::MAX) * BLOCK_COST_BYTES
    }

    pub(super) fn push(&mut self, name: &NodeName, attr: &Attr) {
        let name = name.as_bytes();
        let attr = message::encode(attr);
        let entry_bytes = 2 + name.len() + attr.len();
        let full = |block: &Vec<u8>| block.len() + entry_bytes > BLOCK_BYTES;
        if self.blocks.last().is_none_or(full) {
            self.blocks.push(Vec::with_capacity(BLOCK_BYTES));
        }
        let number = u32::try_from(self.blocks.len() - 1).unwrap_or(u32::MAX);
        if let Some(block) = self.blocks.last_mut() {
            self.places
                .push((number, u32::try_from(block.len()).unwrap_or(u32::MAX)));
            // Both are shorter: bounds of names and of an attribute's fields.
            for part in [name, &attr] {
                block.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
                block.extend_from_slice(part);
            }
        }
    }

    /// Puts the names in order. A name that was removed and made again meanwhile can be here twice: one stays.
    pub(super) fn sort(&mut self) {
        let blocks = &self.blocks;
        self.places
            .sort_unstable_by(|a, b| name(blocks, *b).cmp(name(blocks, *a)));
        self.places.dedup_by(|a, b| name(blocks, *a) == name(blocks, *b));
    }

    /// Takes the next entries, `count` at most.
    pub(super) fn take(&mut self, count: usize) -> Result<Vec<ListEntry>, WireError> {
        let rest = self.places.len().saturating_sub(count);
        let places = self.places.drain(rest..).rev();
        let entries = places.map(|place| {
            let (name, rest) = split(from(&self.blocks, place));
            let (attr, _) = split(rest);
            Ok(ListEntry {
                name: NodeName::new(name).map_err(|_| WireError::OutOfBounds("name"))?,
                attr: message::decode(attr)?,
            })
        });
        entries.collect()
    }
}

fn name(blocks: &[Vec<u8>], place: (u32, u32)) -> &[u8] {
    split(from(blocks, place)).0
}

fn from(blocks: &[Vec<u8>], (block, offset): (u32, u32)) -> &[u8] {
    let block = usize::try_from(block).ok().and_then(|block| blocks.get(block));
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    block.and_then(|block| block.get(offset..)).unwrap_or_default()
}

/// A part behind its length, and what follows it.
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.split_first() {
        Some((len, rest)) => rest.split_at(usize::from(*len).min(rest.len())),
        None => (&[], &[]),
    }
}

#[cfg(test)]
mod tests {
    use lacuna_transport::attr::{NodeKind, Timestamp};
    use lacuna_transport::id::{Generation, NodeId};
    use lacuna_transport::limits::VOLUME_BYTES_MAX;

    use super::*;

    fn attr(number: u64) -> Attr {
        let time = Timestamp {
            seconds: i64::MIN,
            nanos: 999_999_999,
        };
        Attr {
            id: NodeId(u64::MAX - number),
            kind: NodeKind::Volume,
            size: VOLUME_BYTES_MAX,
            allocated_bytes: u64::MAX,
            mode: 0o7777,
            uid: u32::MAX,
            gid: u32::MAX,
            links: u32::MAX,
            accessed: time,
            modified: time,
            changed: time,
            birth_ns: u64::MAX,
            generation: Generation(u64::MAX),
            base: Generation(u64::MAX),
        }
    }

    #[test]
    fn entries_come_back_in_order_each_once() {
        let mut listing = Listing::default();
        let names: Vec<_> = (0..5000_u64)
            .map(|number| NodeName::new(format!("{:0>200}", number * 7919 % 5000).as_bytes()).unwrap())
            .collect();
        for (name, number) in names.iter().zip(0..).chain(names.iter().take(10).zip(0..)) {
            listing.push(name, &attr(number));
        }
        listing.sort();
        let mut taken = Vec::new();
        while listing.len() > 0 {
            let page = listing.take(123).unwrap();
            assert!(!page.is_empty() && page.len() <= 123);
            taken.extend(page);
        }
        assert_eq!(taken.len(), 5000);
        assert!(taken.is_sorted_by(|a, b| a.name < b.name));
        for entry in taken {
            let number = names.iter().position(|name| *name == entry.name).unwrap();
            assert_eq!(entry.attr, attr(u64::try_from(number).unwrap()));
        }
    }

    #[test]
    fn the_longest_name_and_attributes_fit_their_length() {
        assert!(message::encode(&attr(0)).len() <= usize::from(u8::MAX));
        let mut listing = Listing::default();
        let longest = NodeName::new(&[b'n'; 255]).unwrap();
        listing.push(&longest, &attr(0));
        listing.sort();
        assert_eq!(listing.take(9).unwrap()[0].name, longest);
    }

    /// What a listing says it costs is what it has.
    #[test]
    fn its_cost_covers_it() {
        let mut listing = Listing::default();
        for number in 0..100_000_u64 {
            let name = NodeName::new(format!("{number}").as_bytes()).unwrap();
            let small = Attr {
                accessed: Timestamp::default(),
                ..attr(number)
            };
            listing.push(&name, &small);
            let places = listing.places.capacity() * size_of::<(u32, u32)>();
            let has = listing.blocks.len() * BLOCK_BYTES + places + places / 2;
            assert!(
                listing.len() < 10_000 || u64::try_from(has).unwrap() <= listing.cost_bytes(),
                "{number}: {has}"
            );
        }
    }
}
