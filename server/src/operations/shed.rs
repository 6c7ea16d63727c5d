//! What is forgotten of changes of names when there is no room for more. Pure, but for the set of who is connected.
//!
//! What is kept is counted in units of [`UNIT_BYTES`]: one for each change, and [`INSTANCE_UNITS`] for each instance.
//!
//! | when there is no room | what goes |
//! |---|---|
//! | a client has more than its share | of the one that has most: what was used longest ago |
//! | none has | of all: what was used longest ago |
//!
//! In both, an instance that is connected gives something only where no other can, and then its oldest change alone:
//! it may still send that again, but it has sent others since.

use std::collections::HashMap;

use lacuna_transport::limits::INSTANCES_KEPT_MAX;

use super::{ClientTag, Instance, InstanceKey, State};

/// Memory for a change that is remembered: its place in a table that doubles, and its record while the journal is
/// written anew.
pub const UNIT_BYTES: u64 = 256;
/// What an instance counts as, so that not only changes are bounded but also the instances among which one is sought.
pub const INSTANCE_UNITS: usize = 32;
/// Most units, however much memory there is.
pub const UNITS_MAX: usize = INSTANCES_KEPT_MAX * INSTANCE_UNITS;
/// A client may keep this part of all units from others.
const CLIENT_SHARE: usize = 8;

impl Instance {
    pub(super) fn units(&self) -> usize {
        INSTANCE_UNITS + self.slots.len()
    }

    /// It has something that may be forgotten: what runs is not.
    fn can_give(&self) -> bool {
        self.running == 0 || !self.kept.is_empty()
    }
}

impl State {
    /// Forgets until there is room.
    pub(super) fn shed(&mut self, connected: &HashMap<InstanceKey, usize>) {
        while self.units > self.units_max {
            let Some(key) = self.who_gives(connected) else {
                return;
            };
            self.forget_of(key, connected.contains_key(&key));
        }
    }

    fn who_gives(&self, connected: &HashMap<InstanceKey, usize>) -> Option<InstanceKey> {
        let mut units: HashMap<ClientTag, usize> = HashMap::new();
        for kept in self.instances.values() {
            *units.entry(kept.client).or_default() += kept.units();
        }
        let share = self.units_max / CLIENT_SHARE;
        let most = units.into_iter().filter(|(_, units)| *units > share);
        let most = most.max_by_key(|(_, units)| *units).map(|(client, _)| client);
        let able = self.instances.iter().filter(|(_, kept)| kept.can_give());
        let able = able.filter(|(_, kept)| most.is_none_or(|most| kept.client == most));
        let first = able.min_by_key(|(key, kept)| (connected.contains_key(key), kept.last_use));
        first.map(|(key, _)| *key)
    }

    fn forget_of(&mut self, key: InstanceKey, is_connected: bool) {
        let Some(kept) = self.instances.get_mut(&key) else {
            return;
        };
        let before = kept.units();
        let oldest = kept.kept.pop_front();
        if let Some(oldest) = oldest {
            kept.slots.remove(&oldest);
        }
        let is_over = kept.running == 0 && (!is_connected || oldest.is_none());
        let after = if is_over { 0 } else { kept.units() };
        if is_over {
            self.instances.remove(&key);
        }
        self.units = self.units - before + after;
    }
}
