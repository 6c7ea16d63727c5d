//! Random numbers from a seed: splitmix64, so that a sample is the same on every host.

/// See the module.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; the slight bias does not matter here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Bytes that no codec makes shorter.
    pub fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.number().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// Lines of words and numbers, as in a log: any codec makes them shorter by more than half.
    pub fn text(&mut self, length: usize) -> Vec<u8> {
        const WORDS: [&str; 8] = [
            "mounted", "volume", "extent", "hole", "server", "session", "written", "flushed",
        ];
        let mut bytes = Vec::with_capacity(length + 64);
        while bytes.len() < length {
            let number = self.below(10_000);
            let mut word = || WORDS[usize::try_from(self.below(8)).unwrap_or(0)];
            let line = format!("{number:06} {} {} {}\n", word(), word(), word());
            bytes.extend_from_slice(line.as_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// Bytes without a zero among them: a copy that loses one is noticed, and no tool takes a part for a hole.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend((self.number() | 0x0101_0101_0101_0101).to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
