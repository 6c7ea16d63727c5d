//! Which bytes a transfer moves, decided before anything moves. Pure.

use lacuna_transport::limits::VOLUME_BYTES_MAX;
use lacuna_transport::range::ByteRange;

use crate::error::{Error, ErrorKind, Result};

/// `--offset` and `--length`: a part of a volume, all of it if nothing is said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    pub offset: u64,
    pub length: Option<u64>,
}

fn beyond(part: ByteRange, size: u64, hint: &str) -> Error {
    let text = format!(
        "the range ends at byte {}, beyond the end of the volume at {size}{hint}; nothing was changed",
        part.end()
    );
    Error::new(ErrorKind::Invalid, text)
}

fn range_of(offset: u64, length: u64) -> Result<ByteRange> {
    ByteRange::at(offset, length)
        .filter(|range| range.end() <= VOLUME_BYTES_MAX)
        .ok_or_else(|| {
            let text = format!("{length} bytes at {offset} end beyond any volume");
            Error::new(ErrorKind::TooLarge, text)
        })
}

impl Part {
    /// What to read of a volume of `size` bytes.
    pub fn of_volume(self, size: u64) -> Result<ByteRange> {
        let length = self.length.unwrap_or(size.saturating_sub(self.offset));
        let range = range_of(self.offset, length)?;
        if range.end() > size {
            return Err(beyond(range, size, ""));
        }
        Ok(range)
    }
}

/// Where to write, and what becomes of the volume's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushPlan {
    /// What the source must not go beyond.
    pub range: ByteRange,
    /// True if the source must fill the range, false if it may end earlier: nobody knows how long it is.
    pub exact: bool,
    /// The volume ends with the source.
    pub fit_size: bool,
}

impl Part {
    /// Where a source of `source_bytes` goes, into a volume of `size` bytes; `None` for a source of unknown
    /// length, and for a volume that is to be made.
    pub fn of_source(self, source_bytes: Option<u64>, size: Option<u64>, resize: bool) -> Result<PushPlan> {
        if let (Some(length), Some(source)) = (self.length, source_bytes)
            && source < length
        {
            let text = format!(
                "the source has {source} bytes, fewer than the {length} of --length; nothing was changed"
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let fit_size = resize || size.is_none();
        let wanted = self.length.or(source_bytes);
        let range = match (wanted, size) {
            (Some(length), _) => range_of(self.offset, length)?,
            (None, Some(size)) if !fit_size => range_of(self.offset, size.saturating_sub(self.offset))?,
            (None, _) => range_of(self.offset, VOLUME_BYTES_MAX.saturating_sub(self.offset))?,
        };
        if let Some(size) = size.filter(|_| !fit_size)
            && range.end() > size
        {
            return Err(beyond(range, size, " (--resize makes it larger)"));
        }
        Ok(PushPlan {
            range,
            exact: wanted.is_some(),
            fit_size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u64, length: Option<u64>) -> Part {
        Part { offset, length }
    }

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).unwrap()
    }

    #[test]
    fn a_length_left_out_is_the_rest() {
        assert_eq!(part(0, None).of_volume(100).unwrap(), range(0, 100));
        assert_eq!(part(40, None).of_volume(100).unwrap(), range(40, 100));
        assert_eq!(part(100, None).of_volume(100).unwrap(), range(100, 100));
        assert_eq!(part(40, Some(60)).of_volume(100).unwrap(), range(40, 100));
    }

    #[test]
    fn a_range_beyond_the_end_names_both_numbers() {
        for bad in [part(0, Some(101)), part(101, None), part(90, Some(11))] {
            let text = bad.of_volume(100).unwrap_err().to_string();
            assert!(text.contains("101") && text.contains("100"), "{text}");
        }
        assert!(part(1, Some(u64::MAX)).of_volume(100).is_err());
        let text = part(10, None)
            .of_source(Some(91), Some(100), false)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("101") && text.contains("100") && text.contains("--resize"),
            "{text}"
        );
        assert!(part(101, None).of_source(None, Some(100), false).is_err());
    }

    #[test]
    fn the_size_changes_only_if_that_is_wanted() {
        let plan = |part: Part, source, size, resize| part.of_source(source, size, resize).unwrap();
        let kept = plan(part(10, None), Some(20), Some(100), false);
        assert_eq!(
            (kept.range, kept.exact, kept.fit_size),
            (range(10, 30), true, false)
        );
        let fit = plan(part(10, None), Some(200), Some(100), true);
        assert_eq!((fit.range, fit.fit_size), (range(10, 210), true));
        let new = plan(part(0, None), None, None, false);
        assert_eq!(
            (new.range, new.exact, new.fit_size),
            (range(0, VOLUME_BYTES_MAX), false, true)
        );
        let pipe = plan(part(10, None), None, Some(100), false);
        assert_eq!(
            (pipe.range, pipe.exact, pipe.fit_size),
            (range(10, 100), false, false)
        );
        let cut = plan(part(0, Some(50)), Some(80), Some(100), false);
        assert_eq!((cut.range, cut.exact), (range(0, 50), true));
        assert!(part(0, Some(50)).of_source(Some(49), Some(100), false).is_err());
    }
}
