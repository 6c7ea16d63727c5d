//! Where a volume is pulled to. Blocking, in order.

use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use lacuna_transport::bulk_write::BulkWrites;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::Sparse;
use super::early_sync::EarlySync;
use super::local::{Kind, Local, fallocate};
use crate::zeros::{self, BLOCK_BYTES, Piece};

/// Whatever a transfer writes is not read again soon; less than this at once is too slow without the page cache.
const UNCACHED_BYTES_MIN: usize = 64 << 10;

/// Takes pieces in order, from its beginning on.
pub trait Target: Send {
    fn put(&mut self, piece: &Piece) -> io::Result<()>;

    /// Data, one piece behind the other.
    fn put_run(&mut self, run: &[Bytes]) -> io::Result<()> {
        run.iter()
            .try_for_each(|bytes| self.put(&Piece::Data(bytes.clone())))
    }

    /// What is there is what it should be.
    fn keep(&mut self, len: u64) -> io::Result<()>;

    /// All came: what was behind it goes, and what came is durable.
    fn finish(&mut self) -> io::Result<()>;

    /// No more will come: what came is made durable.
    fn break_off(&mut self) -> io::Result<()>;

    /// A write may wait for ever, for whoever reads a pipe.
    fn may_block(&self) -> bool {
        false
    }

    /// Holes are written as zeros, so that they take as long as data does.
    fn writes_holes(&self) -> bool {
        false
    }
}

/// The target for an open local file.
pub fn raw(local: Local, sparse: Sparse) -> Box<dyn Target> {
    match local.kind {
        Kind::Stream => Box::new(Stream(local.file)),
        kind @ (Kind::Regular | Kind::Device) => Box::new(Seekable {
            is_device: kind == Kind::Device,
            size_before: local.size,
            at: 0,
            sparse,
            early_sync: EarlySync::default(),
            writes: BulkWrites::from(UNCACHED_BYTES_MIN),
            file: local.file,
        }),
    }
}

/// A regular file or a block device.
#[derive(Debug)]
struct Seekable {
    file: File,
    is_device: bool,
    /// Beyond this there is no old data.
    size_before: u64,
    at: u64,
    sparse: Sparse,
    early_sync: EarlySync,
    writes: BulkWrites,
}

impl Seekable {
    fn data(&mut self, run: &[Bytes]) -> io::Result<()> {
        let mut slices: Vec<_> = run.iter().map(|bytes| IoSlice::new(bytes)).collect();
        self.writes
            .write_slices(self.file.as_fd(), &mut slices, self.at)?;
        let len = run.iter().map(Bytes::len).sum::<usize>();
        let len = u64::try_from(len).unwrap_or(0);
        self.at += len;
        self.early_sync.wrote(&self.file, len);
        Ok(())
    }

    fn hole(&mut self, len: u64) -> io::Result<()> {
        let (start, end) = (self.at, self.at + len);
        self.at = end;
        if self.sparse == Sparse::Never {
            return self.zero(start, end);
        }
        if start >= self.size_before {
            // A new file ends behind its last hole when it is finished.
            return Ok(());
        }
        let old_end = end.min(self.size_before);
        if !self.is_device {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Also beyond the old end: the last block is freed only as a whole.
            return match fallocate(&self.file, punch, start, end - start)? {
                true => Ok(()),
                false => self.write_zeros(start, old_end),
            };
        }
        let end = old_end;
        // The kernel discards only where the device then reads zeros; it takes whole blocks.
        let (from, to) = (
            start.next_multiple_of(BLOCK_BYTES),
            end / BLOCK_BYTES * BLOCK_BYTES,
        );
        if from >= to {
            return self.write_zeros(start, end);
        }
        self.write_zeros(start, from)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if !fallocate(&self.file, punch, from, to - from)? {
            self.zero(from, to)?;
        }
        self.write_zeros(to, end)
    }

    /// Zeros that take space.
    fn zero(&self, start: u64, end: u64) -> io::Result<()> {
        if start >= end || fallocate(&self.file, FallocateFlags::ZERO_RANGE, start, end - start)? {
            return Ok(());
        }
        self.write_zeros(start, end)
    }

    fn write_zeros(&self, start: u64, end: u64) -> io::Result<()> {
        let mut at = start;
        while at < end {
            let len = zeros::at_hand(end - at);
            self.file.write_all_at(len, at)?;
            at += u64::try_from(len.len()).unwrap_or(0);
        }
        Ok(())
    }
}

impl Target for Seekable {
    fn put(&mut self, piece: &Piece) -> io::Result<()> {
        match piece {
            Piece::Hole(len) => self.hole(*len),
            Piece::Data(bytes) => self.data(std::slice::from_ref(bytes)),
        }
    }

    fn put_run(&mut self, run: &[Bytes]) -> io::Result<()> {
        self.data(run)
    }

    fn keep(&mut self, len: u64) -> io::Result<()> {
        if self.sparse == Sparse::Never && !self.is_device {
            // Zeros may be the same as a hole that is there. One that cannot be filled stays, and reads the same.
            fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.at, len)?;
        }
        self.at += len;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        if !self.is_device {
            self.file.set_len(self.at)?;
        }
        // What others write to the same open file, as a shell does after `-`, follows.
        (&self.file).seek(SeekFrom::Start(self.at))?;
        self.early_sync.finish()?;
        self.file.sync_all()
    }

    fn break_off(&mut self) -> io::Result<()> {
        self.early_sync.finish()?;
        self.file.sync_all()
    }

    fn writes_holes(&self) -> bool {
        self.sparse == Sparse::Never
    }
}

/// Something that is written once, in order: holes become zeros.
#[derive(Debug)]
struct Stream(File);

impl Target for Stream {
    fn put(&mut self, piece: &Piece) -> io::Result<()> {
        match piece {
            Piece::Data(bytes) => self.0.write_all(bytes),
            Piece::Hole(len) => {
                let mut left = *len;
                while left > 0 {
                    let zeros = zeros::at_hand(left);
                    self.0.write_all(zeros)?;
                    left -= u64::try_from(zeros.len()).unwrap_or(left);
                }
                Ok(())
            }
        }
    }

    fn keep(&mut self, _: u64) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn finish(&mut self) -> io::Result<()> {
        sync(&self.0)
    }

    fn break_off(&mut self) -> io::Result<()> {
        sync(&self.0)
    }

    fn may_block(&self) -> bool {
        true
    }

    fn writes_holes(&self) -> bool {
        true
    }
}

/// Makes what was written durable; a pipe keeps nothing, and says so.
pub(super) fn sync(file: &File) -> io::Result<()> {
    match rustix::fs::fsync(file) {
        Err(error) if error != Errno::INVAL => Err(error.into()),
        _ => Ok(()),
    }
}
