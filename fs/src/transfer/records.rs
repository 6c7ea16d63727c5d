//! A volume as a stream of records: sparse through a pipe, a file, or another program.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};

use bytes::{Bytes, BytesMut};
use lacuna_transport::digest::{Digest, DigestKind, InOrder};
use lacuna_transport::limits::RECORD_BYTES_MAX;
use lacuna_transport::records::{self, Decoder, Encoder, RecordError};

use super::source::Source;
use super::target::{self, Target};
use crate::zeros::Piece;

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

fn bad(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Writes records.
#[derive(Debug)]
pub struct RecordTarget {
    out: BufWriter<File>,
    /// `None` once the end is written.
    encoder: Option<Encoder>,
    digest: InOrder,
    may_block: bool,
}

impl RecordTarget {
    /// Begins a stream of `size` logical bytes.
    pub fn new(out: File, size: u64) -> io::Result<Self> {
        let may_block = !out.metadata()?.is_file();
        let encoder = Encoder::new(Some(size)).map_err(bad)?;
        let mut out = BufWriter::new(out);
        out.write_all(&encoder.head())?;
        Ok(Self {
            out,
            encoder: Some(encoder),
            digest: InOrder::new(DigestKind::Tree),
            may_block,
        })
    }

    fn encoder(&mut self) -> io::Result<&mut Encoder> {
        self.encoder.as_mut().ok_or_else(|| bad(RecordError::Trailing))
    }
}

impl Target for RecordTarget {
    fn put(&mut self, piece: &Piece) -> io::Result<()> {
        match piece {
            Piece::Data(bytes) => {
                self.digest.data(bytes);
                for part in bytes.chunks(usize::try_from(RECORD_BYTES_MAX).unwrap_or(usize::MAX)) {
                    let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
                    let head = self.encoder()?.data(len).map_err(bad)?;
                    self.out.write_all(&head)?;
                    self.out.write_all(part)?;
                }
            }
            Piece::Hole(0) => {}
            Piece::Hole(len) => {
                self.digest.zeros(*len);
                let record = self.encoder()?.hole(*len).map_err(bad)?;
                self.out.write_all(&record)?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, _: u64) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn finish(&mut self) -> io::Result<()> {
        let digest = std::mem::replace(&mut self.digest, InOrder::new(DigestKind::Tree)).finish();
        let encoder = self.encoder.take().ok_or_else(|| bad(RecordError::Trailing))?;
        let end = encoder.end(records::Digest::Tree(digest.bytes)).map_err(bad)?;
        self.out.write_all(&end)?;
        self.out.flush()?;
        target::sync(self.out.get_ref())
    }

    /// Without an end record, so that who reads it knows.
    fn break_off(&mut self) -> io::Result<()> {
        self.out.flush()?;
        target::sync(self.out.get_ref())
    }

    fn may_block(&self) -> bool {
        self.may_block
    }
}

/// What comes out of a stream of records.
#[derive(Debug)]
enum Found {
    Head,
    Piece(Piece),
}

/// Reads records. A stream that is cut, damaged or of another digest than it says is an error.
#[derive(Debug)]
pub struct RecordSource {
    file: File,
    decoder: Decoder,
    input: Bytes,
    spare: BytesMut,
    size: Option<u64>,
    digest: InOrder,
}

impl RecordSource {
    /// Reads the head.
    pub fn open(file: File) -> io::Result<Self> {
        let mut source = Self {
            file,
            decoder: Decoder::default(),
            input: Bytes::new(),
            spare: BytesMut::new(),
            size: None,
            digest: InOrder::new(DigestKind::Tree),
        };
        source.found()?;
        Ok(source)
    }

    /// Logical bytes, if the stream says so at its head.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    fn fill(&mut self) -> io::Result<()> {
        self.spare.reserve(READ_BYTES);
        self.spare.resize(READ_BYTES, 0);
        let count = loop {
            match self.file.read(&mut self.spare) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                count => break count?,
            }
        };
        self.spare.truncate(count);
        self.input = self.spare.split().freeze();
        Ok(())
    }

    fn check(&mut self, told: records::Digest) -> io::Result<()> {
        let made = std::mem::replace(&mut self.digest, InOrder::new(DigestKind::Tree)).finish();
        match told {
            records::Digest::Tree(bytes) if bytes != made.bytes => {
                let told = Digest {
                    kind: DigestKind::Tree,
                    bytes,
                };
                let text = format!("the records are damaged: they come to {made}, but their end says {told}");
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
            // Of another kind or none: nothing to compare with.
            _ => Ok(()),
        }
    }
}

impl RecordSource {
    /// The next of the head and the pieces; `None` at the end.
    fn found(&mut self) -> io::Result<Option<Found>> {
        loop {
            if self.input.is_empty() {
                self.fill()?;
                if self.input.is_empty() {
                    self.decoder.finish().map_err(bad)?;
                    return Ok(None);
                }
            }
            let mut rest = &self.input[..];
            let found = self.decoder.next(&mut rest).map_err(bad)?;
            let found = match found {
                Some(records::Piece::Data(data)) => {
                    self.digest.data(data);
                    Some(Found::Piece(Piece::Data(self.input.slice_ref(data))))
                }
                Some(records::Piece::Hole(len) | records::Piece::Zero(len)) => {
                    self.digest.zeros(len);
                    Some(Found::Piece(Piece::Hole(len)))
                }
                Some(records::Piece::Head { size }) => {
                    self.size = size;
                    Some(Found::Head)
                }
                Some(records::Piece::End { digest, .. }) => {
                    self.input = self.input.slice_ref(rest);
                    self.check(digest)?;
                    continue;
                }
                None => None,
            };
            self.input = self.input.slice_ref(rest);
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}

impl Source for RecordSource {
    fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            match self.found()? {
                Some(Found::Piece(piece)) => return Ok(Some(piece)),
                Some(Found::Head) => {}
                None => return Ok(None),
            }
        }
    }
}
