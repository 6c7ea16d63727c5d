//! How a payload is packed, and how the sender of one may pack it.
//!
//! | number | codec | a packed payload is |
//! |---|---|---|
//! | 0 | none | the bytes themselves |
//! | 1 | zstd | frames of RFC 8878, without a dictionary |
//! | 2 | lz4 | one block of the LZ4 block format, without its length |
//!
//! How many bytes a payload has when it is unpacked is known before: a read asks for them, the ranges of a write
//! name them. A packed payload is shorter than that, so no bound of a frame grows, and whoever unpacks one has the
//! memory for it already.

use super::WireError;
use super::message::Features;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Zstd,
    Lz4,
}

impl Codec {
    pub const ALL: [Self; 2] = [Self::Zstd, Self::Lz4];

    /// A bit, so that a set of codecs is the sum of their numbers.
    pub const fn number(self) -> u8 {
        match self {
            Self::Zstd => 1,
            Self::Lz4 => 2,
        }
    }

    pub const fn word(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// What both sides name when they know it.
    pub const fn feature(self) -> Features {
        match self {
            Self::Zstd => Features::ZSTD,
            Self::Lz4 => Features::LZ4,
        }
    }
}

impl TryFrom<u8> for Codec {
    type Error = WireError;

    fn try_from(number: u8) -> Result<Self, WireError> {
        let known = Self::ALL.into_iter().find(|codec| codec.number() == number);
        known.ok_or(WireError::OutOfBounds("codec"))
    }
}

/// Codecs that the receiver of a payload can unpack, at least one, and when the sender is to use one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    codecs: u8,
    when: When,
}

/// When a payload is to be packed. In any case only if that makes it shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    /// Where packing is faster than what it saves on the path.
    ByPath,
}

impl Offer {
    /// Bit of [`When::ByPath`].
    const BY_PATH: u8 = 0x80;

    /// `None` without a codec.
    pub fn new(codecs: &[Codec], when: When) -> Option<Self> {
        let codecs = codecs.iter().fold(0, |set, codec| set | codec.number());
        (codecs != 0).then_some(Self { codecs, when })
    }

    pub const fn contains(self, codec: Codec) -> bool {
        self.codecs & codec.number() != 0
    }

    pub const fn when(self) -> When {
        self.when
    }

    /// The codecs that `features` has too; `None` if that is none.
    #[must_use]
    pub fn within(self, features: Features) -> Option<Self> {
        let both = |codec: &Codec| self.contains(*codec) && features.contains(codec.feature());
        let codecs: Vec<_> = Codec::ALL.into_iter().filter(both).collect();
        Self::new(&codecs, self.when)
    }

    /// What a side that makes this offer names in the hello.
    pub fn features(self) -> Features {
        let offered = Codec::ALL.into_iter().filter(|codec| self.contains(*codec));
        offered.fold(Features::default(), |all, codec| all.and(codec.feature()))
    }

    pub const fn encode(self) -> u8 {
        match self.when {
            When::Always => self.codecs,
            When::ByPath => self.codecs | Self::BY_PATH,
        }
    }

    pub fn decode(byte: u8) -> Result<Self, WireError> {
        let codecs = byte & !Self::BY_PATH;
        let known = Codec::ALL.into_iter().fold(0, |set, codec| set | codec.number());
        if codecs == 0 || codecs & !known != 0 {
            return Err(WireError::OutOfBounds("codecs of an offer"));
        }
        let when = if byte & Self::BY_PATH == 0 {
            When::Always
        } else {
            When::ByPath
        };
        Ok(Self { codecs, when })
    }
}

/// True if a payload that has `bytes` when it is unpacked may come as `payload_bytes`.
pub(super) const fn is_length(codec: Option<Codec>, bytes: u32, payload_bytes: u32) -> bool {
    match codec {
        None => payload_bytes == bytes,
        Some(_) => payload_bytes > 0 && payload_bytes < bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_decodes_to_what_encodes_to_it() {
        let mut decoded = 0;
        for byte in 0..=u8::MAX {
            if let Ok(offer) = Offer::decode(byte) {
                assert_eq!(offer.encode(), byte);
                decoded += 1;
            }
            if let Ok(codec) = Codec::try_from(byte) {
                assert_eq!(codec.number(), byte);
            }
        }
        assert_eq!(decoded, 6, "three sets of codecs, by path or always");
        assert!(Codec::try_from(0).is_err() && Codec::try_from(3).is_err());
    }

    #[test]
    fn an_offer_shrinks_to_what_both_know() {
        let both = Offer::new(&Codec::ALL, When::ByPath).unwrap();
        assert_eq!(both.features(), Features::ZSTD.and(Features::LZ4));
        assert_eq!(both.within(both.features()), Some(both));
        let lz4 = both.within(Features::LZ4.and(Features::HOLES)).unwrap();
        assert!(lz4.contains(Codec::Lz4) && !lz4.contains(Codec::Zstd));
        assert_eq!(lz4.when(), When::ByPath);
        assert_eq!(both.within(Features::CHANGES), None);
        assert_eq!(Offer::new(&[], When::Always), None);
    }
}
