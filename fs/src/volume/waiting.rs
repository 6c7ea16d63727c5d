//! What waits, and for how long: for `lacuna status`.
//!
//! An operation is noted once it has waited for a second, so that one that is answered at once pays nothing for it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// From when on an operation counts as one that waits.
pub const NOTED_AFTER: Duration = Duration::from_secs(1);
/// Operations that are named; all are counted.
const NAMED_MAX: usize = 64;

/// What is being done, and to what: for a person.
#[derive(Clone, Copy)]
pub struct Operation<'a> {
    name: &'a str,
    path: Option<&'a (dyn fmt::Display + Sync)>,
}

impl<'a> From<&'a str> for Operation<'a> {
    fn from(name: &'a str) -> Self {
        Self { name, path: None }
    }
}

impl<'a, P: fmt::Display + Sync> From<(&'a str, &'a P)> for Operation<'a> {
    fn from((name, path): (&'a str, &'a P)) -> Self {
        Self {
            name,
            path: Some(path),
        }
    }
}

impl fmt::Display for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path {
            Some(path) => write!(f, "{} {path}", self.name),
            None => f.write_str(self.name),
        }
    }
}

impl fmt::Debug for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An operation that waits.
#[derive(Clone, Debug)]
pub struct Waiter {
    pub operation: String,
    /// Of the volume or folder, if it is about one.
    pub path: Option<String>,
    pub since: Instant,
}

#[derive(Debug, Default)]
pub struct Waiting {
    count: AtomicU64,
    next: AtomicU64,
    named: Mutex<BTreeMap<u64, Waiter>>,
}

/// An operation is noted for as long as this lives.
#[derive(Debug)]
pub struct Noted<'a> {
    waiting: &'a Waiting,
    number: u64,
}

impl Waiting {
    /// An operation has waited since `since`.
    pub fn note(&self, operation: &Operation<'_>, since: Instant) -> Noted<'_> {
        self.count.fetch_add(1, Ordering::Relaxed);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut named = self.named.lock();
        if named.len() < NAMED_MAX {
            let waiter = Waiter {
                operation: operation.name.to_owned(),
                path: operation.path.map(ToString::to_string),
                since,
            };
            named.insert(number, waiter);
        }
        drop(named);
        Noted {
            waiting: self,
            number,
        }
    }

    /// How many operations wait.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Some of them, in the order in which they were noted.
    pub fn named(&self) -> Vec<Waiter> {
        self.named.lock().values().cloned().collect()
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.waiting.count.fetch_sub(1, Ordering::Relaxed);
        self.waiting.named.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_are_counted_and_the_first_ones_named() {
        let waiting = Waiting::default();
        let since = Instant::now();
        let noted: Vec<Noted<'_>> = (0..200)
            .map(|number| waiting.note(&("read", &number).into(), since))
            .collect();
        assert_eq!(waiting.count(), 200);
        let named = waiting.named();
        assert_eq!(named.len(), NAMED_MAX);
        assert_eq!(
            (named[0].operation.as_str(), named[0].path.as_deref()),
            ("read", Some("0"))
        );
        drop(noted);
        assert_eq!(waiting.count(), 0);
        assert!(waiting.named().is_empty());
    }
}
