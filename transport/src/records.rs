//! A volume as a stream of records, for a pipe or a file: data, holes and zeros in order, and an end that
//! tells a whole stream from one that was cut. Described in docs/PROTOCOL.md.
//!
//! ```text
//! head:  "lacuna\r\n" | version u16 | flags u16 | size u64
//! data:  1 u8 | length u32 | payload
//! hole:  2 u8 | length u64
//! zero:  3 u8 | length u64
//! end:   4 u8 | total u64 | digest kind u8 | digest 32 bytes
//! ```
//!
//! All numbers are little-endian. The size is the logical size of the volume, or [`SIZE_UNKNOWN`] if it is
//! told only by the end. Records follow each other from offset 0 without gaps; their lengths add up to the
//! total of the end, which is the size where that is known. Nothing follows the end.
//!
//! Both sides here are without IO. The [`Decoder`] takes bytes as they come, in pieces of any length; it keeps
//! no more than the fixed part of one record, since the payload of data is handed on as it arrives.

use thiserror::Error;

use crate::limits::{RECORD_BYTES_MAX, VOLUME_BYTES_MAX};

/// The first bytes. The line end shows a transfer that rewrote line ends.
pub const MAGIC: [u8; 8] = *b"lacuna\r\n";
/// The version that is written, and the only one that is read.
pub const VERSION: u16 = 1;
/// Size of a stream whose end alone tells how long it is.
pub const SIZE_UNKNOWN: u64 = u64::MAX;
/// Bytes of the head.
pub const HEAD_BYTES: usize = 8 + 2 + 2 + 8;
/// Bytes of a data record before its payload.
pub const DATA_HEAD_BYTES: usize = 1 + 4;
/// Bytes of a hole or zero record.
pub const SPAN_BYTES: usize = 1 + 8;
/// Bytes of the end.
pub const END_BYTES: usize = 1 + 8 + 1 + DIGEST_BYTES;
/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;

const DATA: u8 = 1;
const HOLE: u8 = 2;
const ZERO: u8 = 3;
const END: u8 = 4;

/// Why bytes are not a stream of records, or may not become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    #[error("this is not a stream of lacuna records: it begins with other bytes")]
    Magic,
    #[error("records of version {0}; this program reads version {VERSION}: use a newer one")]
    Version(u16),
    #[error("records with flags {0:#x}, which this program does not know: use a newer one")]
    Flags(u16),
    #[error("the head names a size of {0} bytes; no volume is that large")]
    Size(u64),
    #[error("a record of kind {0} at byte {1} of the volume: the stream is damaged")]
    Kind(u8, u64),
    #[error("a record of {length} bytes at byte {at} of the volume: a length is 1 to {most} there")]
    Length { at: u64, length: u64, most: u64 },
    #[error("a digest of unknown kind {0}: the stream is damaged, or its program is newer")]
    Digest(u8),
    #[error("the end says {told} bytes, but the records before it are {counted}: something is missing")]
    Total { told: u64, counted: u64 },
    #[error("the head says {told} bytes, but the stream ends after {counted}")]
    Short { told: u64, counted: u64 },
    #[error("the stream was cut: it stops at byte {0} of the volume, before its end record")]
    Truncated(u64),
    #[error("more bytes follow the end record")]
    Trailing,
}

/// What the logical bytes of a whole stream must hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    /// None was made; its 32 bytes are zero.
    None,
    /// BLAKE3 of all logical bytes, holes and zeros as zeros.
    Blake3([u8; DIGEST_BYTES]),
    /// The tree digest of a volume (docs/PROTOCOL.md).
    Tree([u8; DIGEST_BYTES]),
}

impl Digest {
    const fn parts(self) -> (u8, [u8; DIGEST_BYTES]) {
        match self {
            Self::None => (0, [0; DIGEST_BYTES]),
            Self::Blake3(bytes) => (1, bytes),
            Self::Tree(bytes) => (2, bytes),
        }
    }

    fn of_parts(kind: u8, bytes: [u8; DIGEST_BYTES]) -> Result<Self, RecordError> {
        match kind {
            0 if bytes == [0; DIGEST_BYTES] => Ok(Self::None),
            1 => Ok(Self::Blake3(bytes)),
            2 => Ok(Self::Tree(bytes)),
            _ => Err(RecordError::Digest(kind)),
        }
    }
}

/// The logical bytes so far, and how many there may be: what both sides hold records against.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// `None` while only the end will tell.
    size: Option<u64>,
    at: u64,
}

impl Progress {
    fn new(size: Option<u64>) -> Result<Self, RecordError> {
        match size {
            Some(size) if size > VOLUME_BYTES_MAX => Err(RecordError::Size(size)),
            size => Ok(Self { size, at: 0 }),
        }
    }

    /// A record of `length` bytes begins, at most `most` for its kind.
    fn advance(&mut self, length: u64, most: u64) -> Result<(), RecordError> {
        let most = (self.size.unwrap_or(VOLUME_BYTES_MAX) - self.at).min(most);
        if !(1..=most).contains(&length) {
            let at = self.at;
            return Err(RecordError::Length { at, length, most });
        }
        self.at += length;
        Ok(())
    }

    fn end(&self) -> Result<u64, RecordError> {
        match self.size {
            Some(told) if told != self.at => {
                let counted = self.at;
                Err(RecordError::Short { told, counted })
            }
            _ => Ok(self.at),
        }
    }
}

/// Makes the fixed parts of records; the payload of data goes right behind its own.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    progress: Progress,
}

impl Encoder {
    /// A stream of `size` logical bytes, or of as many as there will be.
    pub fn new(size: Option<u64>) -> Result<Self, RecordError> {
        let progress = Progress::new(size)?;
        Ok(Self { progress })
    }

    /// What a stream begins with.
    pub fn head(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&MAGIC);
        head[8..10].copy_from_slice(&VERSION.to_le_bytes());
        let size = self.progress.size.unwrap_or(SIZE_UNKNOWN);
        head[12..].copy_from_slice(&size.to_le_bytes());
        head
    }

    /// Logical bytes so far.
    pub const fn position(&self) -> u64 {
        self.progress.at
    }

    /// The front of a data record: `length` bytes of payload, 1 to [`RECORD_BYTES_MAX`], must follow it.
    pub fn data(&mut self, length: u32) -> Result<[u8; DATA_HEAD_BYTES], RecordError> {
        self.progress
            .advance(u64::from(length), u64::from(RECORD_BYTES_MAX))?;
        let mut record = [DATA; DATA_HEAD_BYTES];
        record[1..].copy_from_slice(&length.to_le_bytes());
        Ok(record)
    }

    /// `length` bytes that are not allocated, at least 1.
    pub fn hole(&mut self, length: u64) -> Result<[u8; SPAN_BYTES], RecordError> {
        self.span(HOLE, length)
    }

    /// `length` bytes that are allocated and read zero, at least 1.
    pub fn zero(&mut self, length: u64) -> Result<[u8; SPAN_BYTES], RecordError> {
        self.span(ZERO, length)
    }

    fn span(&mut self, kind: u8, length: u64) -> Result<[u8; SPAN_BYTES], RecordError> {
        self.progress.advance(length, VOLUME_BYTES_MAX)?;
        let mut record = [kind; SPAN_BYTES];
        record[1..].copy_from_slice(&length.to_le_bytes());
        Ok(record)
    }

    /// The last record. Fails if the size was told and is not reached.
    pub fn end(self, digest: Digest) -> Result<[u8; END_BYTES], RecordError> {
        let total = self.progress.end()?;
        let (kind, bytes) = digest.parts();
        let mut record = [END; END_BYTES];
        record[1..9].copy_from_slice(&total.to_le_bytes());
        record[9] = kind;
        record[10..].copy_from_slice(&bytes);
        Ok(record)
    }
}

/// What a [`Decoder`] found. Offsets follow from the lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The first: the size, if it was known when the stream began.
    Head { size: Option<u64> },
    /// Some bytes of data, not empty: one record may come in several pieces.
    Data(&'a [u8]),
    /// So many bytes that are not allocated.
    Hole(u64),
    /// So many bytes that are allocated and read zero.
    Zero(u64),
    /// The last: all of the volume was there.
    End { total: u64, digest: Digest },
}

/// Where a [`Decoder`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Head,
    Record,
    /// Within data: so many bytes of its payload are still to come.
    Payload(usize),
    Ended,
}

/// Reads records from bytes as they come. After an error it must not be used further.
#[derive(Clone, Debug)]
pub struct Decoder {
    at: At,
    progress: Progress,
    /// The front of a head or record whose rest has not come yet.
    kept: [u8; END_BYTES],
    kept_bytes: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            at: At::Head,
            progress: Progress { size: None, at: 0 },
            kept: [0; END_BYTES],
            kept_bytes: 0,
        }
    }
}

impl Decoder {
    /// The next piece. What it took is cut off the front of `input`; `None` once all of it is taken and more
    /// must come.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, RecordError> {
        while !input.is_empty() {
            let piece = match self.at {
                At::Head => self.head(input)?,
                At::Record => self.record(input)?,
                At::Payload(left) => {
                    let (data, rest) = input.split_at(left.min(input.len()));
                    *input = rest;
                    self.at = match left - data.len() {
                        0 => At::Record,
                        left => At::Payload(left),
                    };
                    Some(Piece::Data(data))
                }
                At::Ended => return Err(RecordError::Trailing),
            };
            if piece.is_some() {
                return Ok(piece);
            }
        }
        Ok(None)
    }

    /// Logical bytes of the records that have begun.
    pub const fn position(&self) -> u64 {
        self.progress.at
    }

    /// No more bytes will come: an error unless the end was there.
    pub fn finish(&self) -> Result<(), RecordError> {
        match self.at {
            At::Ended => Ok(()),
            At::Payload(left) => {
                let left = u64::try_from(left).unwrap_or(u64::MAX);
                Err(RecordError::Truncated(self.progress.at.saturating_sub(left)))
            }
            At::Head | At::Record => Err(RecordError::Truncated(self.progress.at)),
        }
    }

    /// The first `wanted` bytes of a head or record, once they are there.
    fn gather(&mut self, input: &mut &[u8], wanted: usize) -> bool {
        let missing = wanted.saturating_sub(self.kept_bytes).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.kept[self.kept_bytes..self.kept_bytes + missing].copy_from_slice(taken);
        self.kept_bytes += missing;
        *input = rest;
        self.kept_bytes >= wanted
    }

    fn head(&mut self, input: &mut &[u8]) -> Result<Option<Piece<'static>>, RecordError> {
        let whole = self.gather(input, HEAD_BYTES);
        let magic = self.kept_bytes.min(MAGIC.len());
        if self.kept[..magic] != MAGIC[..magic] {
            return Err(RecordError::Magic);
        }
        if !whole {
            return Ok(None);
        }
        let [_, _, _, _, _, _, _, _, v0, v1, f0, f1, size @ ..] = self.front::<HEAD_BYTES>();
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let flags = u16::from_le_bytes([f0, f1]);
        if flags != 0 {
            return Err(RecordError::Flags(flags));
        }
        let size = Some(u64::from_le_bytes(size)).filter(|size| *size != SIZE_UNKNOWN);
        self.progress = Progress::new(size)?;
        (self.at, self.kept_bytes) = (At::Record, 0);
        Ok(Some(Piece::Head { size }))
    }

    fn record(&mut self, input: &mut &[u8]) -> Result<Option<Piece<'static>>, RecordError> {
        self.gather(input, 1);
        let wanted = match self.kept[0] {
            DATA => DATA_HEAD_BYTES,
            HOLE | ZERO => SPAN_BYTES,
            END => END_BYTES,
            other => return Err(RecordError::Kind(other, self.progress.at)),
        };
        if !self.gather(input, wanted) {
            return Ok(None);
        }
        self.kept_bytes = 0;
        if self.kept[0] == DATA {
            let [_, length @ ..] = self.front::<DATA_HEAD_BYTES>();
            let length = u32::from_le_bytes(length);
            self.progress
                .advance(u64::from(length), u64::from(RECORD_BYTES_MAX))?;
            // A length within its bound fits: see RECORD_BYTES_MAX.
            self.at = At::Payload(usize::try_from(length).unwrap_or(usize::MAX));
            return Ok(None);
        }
        let [kind, length @ ..] = self.front::<SPAN_BYTES>();
        let length = u64::from_le_bytes(length);
        if kind == END {
            return self.end(length).map(Some);
        }
        self.progress.advance(length, VOLUME_BYTES_MAX)?;
        Ok(Some(if kind == HOLE {
            Piece::Hole(length)
        } else {
            Piece::Zero(length)
        }))
    }

    fn end(&mut self, told: u64) -> Result<Piece<'static>, RecordError> {
        let counted = self.progress.at;
        if told != counted {
            return Err(RecordError::Total { told, counted });
        }
        let total = self.progress.end()?;
        let [_, _, _, _, _, _, _, _, _, kind, bytes @ ..] = self.kept;
        let digest = Digest::of_parts(kind, bytes)?;
        self.at = At::Ended;
        Ok(Piece::End { total, digest })
    }

    fn front<const N: usize>(&self) -> [u8; N] {
        *self
            .kept
            .first_chunk()
            .expect("no fixed part is longer than the end")
    }
}

#[cfg(test)]
mod tests;
