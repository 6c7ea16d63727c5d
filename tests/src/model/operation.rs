//! One operation on a volume, drawn at random so that edges are hit often.

use super::{BLOCK, HOLE, Model, SIZE_MAX, Size};
use crate::random::Random;

/// Bytes of a write are made from `seed`: an operation prints short and can be made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Write {
        at: u64,
        length: u64,
        seed: u64,
    },
    Punch {
        start: u64,
        length: u64,
    },
    Zero {
        start: u64,
        length: u64,
        size: Size,
    },
    Allocate {
        start: u64,
        length: u64,
        size: Size,
    },
    Resize {
        size: u64,
    },
    Copy {
        from: u64,
        to: u64,
        length: u64,
    },
    /// Through a shared mapping, not synced.
    Store {
        at: u64,
        length: u64,
        seed: u64,
    },
    Seek {
        position: u64,
    },
    Flush,
    Reopen,
    /// Closed, changed by another program at the server, and opened again.
    Behind(Box<Operation>),
    /// The server is killed and started again.
    Crash,
}

/// How often the rarer operations come, each out of 100.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub reopen: u64,
    pub behind: u64,
    pub crash: u64,
    pub store: u64,
}

impl Operation {
    /// An operation that `model` allows.
    pub fn random(random: &mut Random, model: &Model, weights: &Weights) -> Self {
        let mut drawn = random.below(100);
        let mut falls_in = |weight: u64| {
            let falls = drawn < weight;
            drawn = if falls {
                u64::MAX
            } else {
                drawn.saturating_sub(weight)
            };
            falls
        };
        if falls_in(weights.crash) {
            return Self::Crash;
        }
        if falls_in(weights.reopen) {
            return Self::Reopen;
        }
        if falls_in(weights.behind) {
            return Self::Behind(Box::new(match random.below(3) {
                0 => Self::write(random),
                1 => Self::punch(random),
                _ => Self::Resize { size: size(random) },
            }));
        }
        if falls_in(weights.store) && model.size() > 0 {
            let at = random.below(model.size());
            return Self::Store {
                at,
                length: length(random).min(model.size() - at),
                seed: random.number(),
            };
        }
        Self::change(random, model)
    }

    fn change(random: &mut Random, model: &Model) -> Self {
        match random.below(20) {
            0..8 => Self::write(random),
            8..11 => Self::punch(random),
            11..13 => {
                let (start, length) = range(random);
                let size = keep_or_grow(random);
                Self::Zero { start, length, size }
            }
            13 => {
                let (start, length) = range(random);
                let size = keep_or_grow(random);
                Self::Allocate { start, length, size }
            }
            14..16 => Self::Resize { size: size(random) },
            16 => Self::copy(random, model).unwrap_or(Self::Flush),
            17 => Self::Flush,
            _ => Self::Seek {
                position: random.below(model.size() + BLOCK),
            },
        }
    }

    fn write(random: &mut Random) -> Self {
        let (at, length) = range(random);
        let seed = random.number();
        Self::Write { at, length, seed }
    }

    fn punch(random: &mut Random) -> Self {
        let (start, length) = range(random);
        Self::Punch { start, length }
    }

    /// Two ranges that do not overlap.
    fn copy(random: &mut Random, model: &Model) -> Option<Self> {
        let (from, length) = range(random);
        let length = length.min(model.size().checked_sub(from)?);
        let to = place(random, SIZE_MAX - length);
        (length > 0 && (to + length <= from || from + length <= to)).then_some(Self::Copy {
            from,
            to,
            length,
        })
    }
}

fn keep_or_grow(random: &mut Random) -> Size {
    if random.below(2) == 0 {
        Size::Keep
    } else {
        Size::Grow
    }
}

fn size(random: &mut Random) -> u64 {
    place(random, SIZE_MAX)
}

fn range(random: &mut Random) -> (u64, u64) {
    let length = length(random);
    (place(random, SIZE_MAX - length), length)
}

/// Anywhere, at a block, at a 64 KiB, or beside one of those.
fn place(random: &mut Random, max: u64) -> u64 {
    let place = random.below(max + 1);
    let place = match random.below(6) {
        0 | 1 => place,
        2 | 3 => place / BLOCK * BLOCK,
        4 => place / HOLE * HOLE,
        _ => (place / BLOCK * BLOCK + 1).saturating_sub(2 * random.below(2)),
    };
    place.min(max)
}

fn length(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.between(1, 16),
        1 => BLOCK,
        2 => random.between(1, 4) * HOLE,
        3 => random.between(BLOCK - 1, BLOCK + 1),
        4..7 => random.between(1, 64 << 10),
        _ => random.between(1, 1 << 20),
    }
}
