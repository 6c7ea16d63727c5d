//! `-o compress=` of a mount, `--compress` of a command: how payloads are packed on the wire, both ways.

use std::fmt;
use std::str::FromStr;

use lacuna_transport::wire::codec::{Codec, Offer, When};
use lacuna_transport::wire::message::Features;

/// What the user asks for. Whatever it is, a payload that does not shrink goes as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compress {
    /// Where it is faster, by what each side sees of the path; nothing on a fast network.
    #[default]
    Auto,
    None,
    Zstd,
    Lz4,
}

impl Compress {
    pub const ALL: [Self; 4] = [Self::Auto, Self::None, Self::Zstd, Self::Lz4];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// What this asks of a server that knows all codecs.
    pub fn offer(self) -> Option<Offer> {
        match self {
            Self::Auto => Offer::new(&Codec::ALL, When::ByPath),
            Self::None => None,
            Self::Zstd => Offer::new(&[Codec::Zstd], When::Always),
            Self::Lz4 => Offer::new(&[Codec::Lz4], When::Always),
        }
    }

    /// What a client that asks for this says in its hello: of the codecs, those that it may use.
    pub fn features(self) -> Features {
        let known = Codec::ALL
            .into_iter()
            .fold(Features::default(), |all, codec| all.and(codec.feature()));
        let wanted = self.offer().map(Offer::features).unwrap_or_default();
        Features::KNOWN.without(known).and(wanted)
    }
}

impl FromStr for Compress {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|choice| choice.word() == word);
        found.ok_or_else(|| format!("'{word}' is none of auto, none, zstd and lz4"))
    }
}

impl fmt::Display for Compress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_and_others_named() {
        for choice in Compress::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for bad in ["", "gzip", "Auto", "zstd:3"] {
            let error = bad.parse::<Compress>().unwrap_err();
            assert!(error.contains("lz4") && error.contains(bad), "{error}");
        }
    }

    #[test]
    fn only_what_is_wanted_is_named_in_the_hello() {
        let both = Features::ZSTD.and(Features::LZ4);
        let codecs = |choice: Compress| choice.features().common(both);
        assert_eq!(codecs(Compress::Auto), both);
        assert_eq!(codecs(Compress::None), Features::default());
        assert_eq!(codecs(Compress::Zstd), Features::ZSTD);
        assert_eq!(codecs(Compress::Lz4), Features::LZ4);
        for choice in Compress::ALL {
            let others = choice.features().without(both);
            assert_eq!(others, Features::KNOWN.without(both), "{choice}");
        }
    }
}
