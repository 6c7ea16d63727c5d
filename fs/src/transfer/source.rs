//! What is pushed into a volume. Blocking, in order; no byte is read twice.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::local::{Kind, Local};
use crate::zeros::{self, Piece};

/// Longest piece of data: one write on the wire.
pub const PIECE_BYTES_MAX: usize = 1 << 20;

/// Gives pieces in order; data in pieces of [`PIECE_BYTES_MAX`] at most, cut at multiples of it.
pub trait Source: Send {
    /// `None` at the end.
    fn next(&mut self) -> io::Result<Option<Piece>>;
}

/// How to read an open local file: where zeros are looked for, and how much of it at most.
pub fn raw(local: Local, detect: Detect, bytes_max: u64) -> Box<dyn Source> {
    let mapped = local.kind == Kind::Regular && detect != Detect::Everywhere;
    let reader = Reader {
        positioned: local.kind != Kind::Stream,
        file: local.file,
        at: 0,
        end: bytes_max,
        spare: BytesMut::new(),
    };
    match detect {
        _ if mapped => Box::new(Mapped {
            reader,
            data_end: 0,
            zeros: detect == Detect::InData,
            pieces: Vec::new(),
        }),
        Detect::Nowhere => Box::new(reader),
        _ => Box::new(Detecting {
            reader,
            pieces: Vec::new(),
        }),
    }
}

/// Where zeros are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detect {
    /// Where the source has no map.
    Unmapped,
    /// Also in what the map calls data.
    InData,
    /// Everywhere; the map is not asked.
    Everywhere,
    /// In sources without a map neither.
    Nowhere,
}

/// All of a source as data.
#[derive(Debug)]
struct Reader {
    file: File,
    /// Read at offsets, not where the file stands.
    positioned: bool,
    at: u64,
    end: u64,
    /// Taken again once nobody has its bytes any more.
    spare: BytesMut,
}

impl Reader {
    /// The next bytes, up to `end`, to a multiple of [`PIECE_BYTES_MAX`] and to the end of the file. Empty at
    /// the end.
    fn read_to(&mut self, end: u64) -> io::Result<Bytes> {
        let piece = u64::try_from(PIECE_BYTES_MAX).unwrap_or(u64::MAX);
        let end = end.min(self.end).min((self.at / piece + 1).saturating_mul(piece));
        let wanted = usize::try_from(end.saturating_sub(self.at)).unwrap_or(PIECE_BYTES_MAX);
        self.spare.reserve(wanted);
        self.spare.resize(wanted, 0);
        let mut filled = 0;
        while filled < wanted {
            let rest = &mut self.spare[filled..];
            let count = if self.positioned {
                self.file.read_at(rest, self.at)
            } else {
                self.file.read(rest)
            };
            match count {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    self.at += u64::try_from(count).unwrap_or(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.spare.truncate(filled);
        Ok(self.spare.split().freeze())
    }
}

impl Source for Reader {
    fn next(&mut self) -> io::Result<Option<Piece>> {
        let bytes = self.read_to(u64::MAX)?;
        Ok((!bytes.is_empty()).then_some(Piece::Data(bytes)))
    }
}

/// A source without a map.
#[derive(Debug)]
struct Detecting {
    reader: Reader,
    /// Split already, the next one last.
    pieces: Vec<Piece>,
}

impl Source for Detecting {
    fn next(&mut self) -> io::Result<Option<Piece>> {
        if self.pieces.is_empty() {
            let at = self.reader.at;
            let bytes = self.reader.read_to(u64::MAX)?;
            self.pieces = zeros::split(at, &bytes, false);
            self.pieces.reverse();
        }
        Ok(self.pieces.pop())
    }
}

/// A regular file: its file system says where data is.
#[derive(Debug)]
struct Mapped {
    reader: Reader,
    /// The end of the extent of data that is being read.
    data_end: u64,
    /// Zeros are looked for in data too.
    zeros: bool,
    pieces: Vec<Piece>,
}

impl Mapped {
    /// The end of the file, or of what is wanted of it.
    fn end(&self) -> io::Result<u64> {
        Ok(self.reader.file.metadata()?.len().min(self.reader.end))
    }
}

impl Source for Mapped {
    fn next(&mut self) -> io::Result<Option<Piece>> {
        if let Some(piece) = self.pieces.pop() {
            return Ok(Some(piece));
        }
        let at = self.reader.at;
        if at >= self.data_end {
            let end = self.end()?;
            if at >= end {
                return Ok(None);
            }
            let (data, data_end) = data_after(&self.reader.file, at, end)?;
            self.data_end = data_end;
            if data > at {
                self.reader.at = data;
                return Ok(Some(Piece::Hole(data - at)));
            }
        }
        let bytes = self.reader.read_to(self.data_end)?;
        if bytes.is_empty() {
            // It was cut while it was read.
            return Ok(None);
        }
        if !self.zeros {
            return Ok(Some(Piece::Data(bytes)));
        }
        self.pieces = zeros::split(at, &bytes, self.reader.at == self.end()?);
        self.pieces.reverse();
        Ok(self.pieces.pop())
    }
}

/// Where the next data begins and ends, cut at `end`; both are `end` if there is none.
fn data_after(file: &File, at: u64, end: u64) -> io::Result<(u64, u64)> {
    let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.min(end),
        Err(Errno::NXIO) => return Ok((end, end)),
        // No map: all of it is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at, end)),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::seek(file, SeekFrom::Hole(data)) {
        Ok(hole) => Ok((data, hole.min(end))),
        Err(Errno::NXIO) => Ok((data, end)),
        Err(error) => Err(error.into()),
    }
}
