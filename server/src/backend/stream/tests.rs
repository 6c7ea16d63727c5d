//! Streams with a spool on disk and a real pipe.

mod conformance;

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::thread;

use lacuna_transport::path::NodeName;
use lacuna_transport::records::{Decoder, Piece};
use tempfile::TempDir;

use super::options::Format;
use super::*;
use crate::backend::export::NamedVolume;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 8 * MIB + 1000;

/// A stream in a folder of its own.
struct Bed {
    folder: TempDir,
    options: StreamOptions,
}

impl Bed {
    fn new(spool_bytes_max: Option<u64>, window_bytes: u64, format: Format) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = StreamOptions {
            name: NodeName::new(b"s").unwrap(),
            fifo: folder.path().join("pipe"),
            size: SIZE,
            spool_bytes_max,
            window_bytes,
            format,
            finish_on_umount: false,
            map_bytes: 1 << 20,
        };
        Self { folder, options }
    }

    fn start(&self) -> Open {
        self.start_with(PATIENCE)
    }

    fn start_with(&self, patience: Patience) -> Open {
        let stream = Stream::start_with(self.options.clone(), self.folder.path(), patience).unwrap();
        let volume = StreamVolume(Arc::clone(&stream)).open().unwrap();
        Open { stream, volume }
    }

    fn spool(&self) -> PathBuf {
        self.folder.path().join("streams/s.spool")
    }

    /// Reads the pipe to its end.
    fn reader(&self) -> thread::JoinHandle<Vec<u8>> {
        let path = self.options.fifo.clone();
        thread::spawn(move || fs::read(path).unwrap())
    }
}

struct Open {
    stream: Arc<Stream>,
    volume: Arc<dyn OpenVolume>,
}

impl Open {
    fn until(&self, what: impl Fn(&StreamReport) -> bool) -> StreamReport {
        loop {
            let report = self.stream.report();
            if what(&report) {
                return report;
            }
            let mut state = self.stream.shared.state.lock();
            let moment = Instant::now() + Duration::from_millis(10);
            self.stream.shared.changed.wait_until(&mut state, moment);
        }
    }

    fn finished(&self) -> StreamReport {
        self.stream.finish();
        self.until(|report| report.state == StreamState::Finished)
    }
}

/// What the volume should be.
struct Model(Vec<u8>);

impl Model {
    fn new() -> Self {
        Self(vec![0; SIZE.try_into().unwrap()])
    }

    fn write(&mut self, open: &Open, offset: u64, length: u64, byte: u8) -> Result<()> {
        let bytes = vec![byte; length.try_into().unwrap()];
        open.volume.write_at(&bytes, offset)?;
        let (start, end) = (offset.try_into().unwrap(), (offset + length).try_into().unwrap());
        self.0[start..end].copy_from_slice(&bytes);
        Ok(())
    }
}

fn byte_at(open: &Open, offset: u64) -> Result<u8> {
    let mut byte = [0];
    open.volume.read_at(&mut byte, offset)?;
    Ok(byte[0])
}

#[test]
fn what_was_written_comes_out_once_it_is_finished() {
    let bed = Bed::new(None, 0, Format::Raw);
    let (open, mut model) = (bed.start(), Model::new());
    model.write(&open, SIZE - 5, 5, 1).unwrap();
    model.write(&open, 0, 100, 2).unwrap();
    model.write(&open, MIB + 1, 2 * MIB, 3).unwrap();
    model.write(&open, 50, 100, 4).unwrap();
    open.volume
        .punch(ByteRange::new(2 * MIB, 2 * MIB + 8192).unwrap())
        .unwrap();
    model.0[2 << 20..(2 << 20) + 8192].fill(0);
    assert_eq!(open.stream.report().position, 0, "nothing goes out early");
    let reader = bed.reader();
    let report = open.finished();
    assert_eq!(reader.join().unwrap(), model.0);
    assert_eq!((report.position, report.refused_bytes), (SIZE, 0));
    assert!(!bed.spool().exists(), "the spool is left behind");
    let late = open.volume.write_at(b"x", SIZE - 1).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Refused);
    assert!(late.to_string().contains("is finished"), "{late}");
}

#[test]
fn records_carry_the_holes() {
    let bed = Bed::new(None, 0, Format::Records);
    let (open, mut model) = (bed.start(), Model::new());
    model.write(&open, 4 * MIB, 3 * MIB / 2, 1).unwrap();
    model.write(&open, SIZE - 5, 5, 2).unwrap();
    let reader = bed.reader();
    open.finished();
    let stream = reader.join().unwrap();
    assert!(
        stream.len() < 2 << 20,
        "{} bytes: the holes came along",
        stream.len()
    );
    let (mut decoder, mut input, mut out) = (Decoder::default(), &stream[..], Vec::new());
    while let Some(piece) = decoder.next(&mut input).unwrap() {
        match piece {
            Piece::Head { size } => assert_eq!(size, Some(SIZE)),
            Piece::Data(bytes) => out.extend_from_slice(bytes),
            Piece::Hole(length) | Piece::Zero(length) => {
                out.resize(out.len() + usize::try_from(length).unwrap(), 0);
            }
            Piece::End { total, .. } => assert_eq!(total, SIZE),
        }
    }
    decoder.finish().unwrap();
    assert!(out == model.0, "the records are of other bytes");
}

#[test]
fn a_tight_spool_lets_the_lowest_out_and_refuses_what_comes_too_late() {
    let bed = Bed::new(Some(2 * MIB), MIB / 4, Format::Raw);
    let (open, mut model) = (bed.start(), Model::new());
    let reader = bed.reader();
    for at in 0..6 {
        model.write(&open, at * MIB, MIB, 1).unwrap();
    }
    let report = open.until(|report| report.held_bytes <= 2 * MIB);
    assert!(report.position >= 4 * MIB, "{report:?}");
    let late = model.write(&open, 10, 10, 2).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Refused);
    model.write(&open, 6 * MIB, 10, 3).unwrap();
    // The window behind the position is readable, what is before it is not.
    let report = open.stream.report();
    assert_eq!(byte_at(&open, report.position - MIB / 4).unwrap(), 1);
    let gone = byte_at(&open, report.readable_from - 1).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Io);
    let map = open.volume.extents(ByteRange::ALL, 100).unwrap();
    assert_eq!(map[0].kind, ExtentKind::Data);
    assert_eq!(map[0].range.start(), 0);
    assert!(map[0].range.end() >= 6 * MIB, "{map:?}");
    assert!(open.volume.attr().unwrap().allocated_bytes >= 6 * MIB);
    let enough = report.enough_bytes.unwrap();
    assert!(late.to_string().contains(&format!("spool={enough}")), "{late}");
    let report = open.finished();
    assert!(reader.join().unwrap() == model.0);
    assert_eq!(report.refused_bytes, 4096);

    let again = Bed::new(Some(enough), MIB / 4, Format::Raw);
    let (open, mut model) = (again.start(), Model::new());
    let reader = again.reader();
    for at in 0..6 {
        model.write(&open, at * MIB, MIB, 1).unwrap();
    }
    model.write(&open, 10, 10, 2).unwrap();
    open.finished();
    assert!(reader.join().unwrap() == model.0);
}

#[test]
fn a_write_without_room_is_told_that_nobody_reads() {
    let bed = Bed::new(Some(2 * MIB), 0, Format::Raw);
    let short = Patience {
        stall: Duration::from_millis(300),
        all: Duration::from_secs(1),
    };
    let (open, mut model) = (bed.start_with(short), Model::new());
    model.write(&open, 0, 2 * MIB, 1).unwrap();
    let error = model.write(&open, 2 * MIB, MIB, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.to_string().contains("nobody reads the pipe"), "{error}");
    // It can be sent again.
    let reader = bed.reader();
    open.until(|report| report.note.is_none());
    model.write(&open, 2 * MIB, MIB, 1).unwrap();
    open.finished();
    assert!(reader.join().unwrap() == model.0);
}

#[test]
fn a_reader_that_goes_away_leaves_the_spool() {
    let bed = Bed::new(Some(4 * MIB), 0, Format::Raw);
    let (open, mut model) = (bed.start(), Model::new());
    model.write(&open, 4 * MIB, 3 * MIB, 1).unwrap();
    let path = bed.options.fifo.clone();
    let reader = thread::spawn(move || File::open(path).unwrap().read_exact(&mut [0; 10]).unwrap());
    open.stream.finish();
    reader.join().unwrap();
    let report = open.until(|report| report.state == StreamState::Failed);
    let note = report.note.unwrap();
    assert!(note.contains("went away after"), "{note}");
    assert!(note.contains("s.spool"), "{note}");
    assert_eq!(byte_at(&open, 5 * MIB).unwrap(), 1);
    // As far as there is room.
    model.write(&open, 7 * MIB, MIB, 2).unwrap();
    let full = model.write(&open, 3 * MIB, MIB, 2).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Refused);
    assert!(bed.spool().exists());
}

#[test]
fn a_reader_that_took_nothing_is_no_loss() {
    let bed = Bed::new(None, 0, Format::Raw);
    let (open, mut model) = (bed.start(), Model::new());
    model.write(&open, 0, MIB, 1).unwrap();
    drop(open);
    let open = bed.start();
    open.stream.finish();
    open.until(|report| report.note.is_some());
    let reader = bed.reader();
    open.finished();
    assert!(reader.join().unwrap() == model.0);
}

#[test]
fn a_stream_of_which_nothing_went_out_goes_on_after_a_restart() {
    let bed = Bed::new(None, 0, Format::Raw);
    let (open, mut model) = (bed.start(), Model::new());
    model.write(&open, MIB + 7, 100, 1).unwrap();
    let before = open.volume.attr().unwrap();
    drop(open);
    let open = bed.start();
    let after = open.volume.attr().unwrap();
    assert_eq!(
        (after.id, after.birth_ns, after.size),
        (before.id, before.birth_ns, SIZE)
    );
    assert!(after.changed > before.changed);
    model.write(&open, 3, 100, 2).unwrap();
    let reader = bed.reader();
    open.finished();
    assert!(reader.join().unwrap() == model.0);
}

#[test]
fn a_stream_of_which_some_went_out_has_failed_after_a_restart() {
    let mut bed = Bed::new(None, 0, Format::Raw);
    bed.options.size = 200 * MIB;
    let open = bed.start();
    open.volume.write_at(b"abc", 150 * MIB).unwrap();
    // A reader that takes a little and then nothing.
    let path = bed.options.fifo.clone();
    let reader = thread::spawn(move || {
        let mut pipe = File::open(path).unwrap();
        pipe.read_exact(&mut [0; 10]).unwrap();
        pipe
    });
    open.stream.finish();
    let pipe = reader.join().unwrap();
    open.until(|report| report.position > 0);
    drop(open);
    drop(pipe);
    let open = bed.start();
    let report = open.stream.report();
    assert_eq!(report.state, StreamState::Failed);
    let note = report.note.unwrap();
    assert!(
        note.contains("nobody knows how many") && note.contains("s.spool"),
        "{note}"
    );
    assert_eq!(
        byte_at(&open, 150 * MIB).unwrap(),
        b'a',
        "what is left can be saved"
    );
    assert_eq!(byte_at(&open, 0).unwrap_err().kind(), ErrorKind::Io);
    let late = open.volume.write_at(b"x", 0).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Refused);
    open.stream.finish();
    assert_eq!(open.stream.report().state, StreamState::Failed, "it cannot go on");
}

#[test]
fn the_last_writer_that_says_goodbye_finishes_it_if_asked_to() {
    for (finish_on_umount, expected) in [(false, StreamState::Open), (true, StreamState::Finishing)] {
        let mut bed = Bed::new(None, 0, Format::Raw);
        bed.options.finish_on_umount = finish_on_umount;
        let open = bed.start();
        let state = || open.stream.report().state;
        open.stream.writer_came(1);
        open.stream.writer_came(2);
        open.stream.writer_left(3, true);
        open.stream.writer_left(1, true);
        assert_eq!(state(), StreamState::Open, "one is left");
        open.stream.writer_left(2, false);
        assert_eq!(state(), StreamState::Open, "that one may come back");
        open.stream.writer_came(4);
        open.stream.writer_left(4, true);
        assert_eq!(state(), expected);
    }
}

#[test]
fn its_size_stays_and_space_cannot_be_reserved() {
    let bed = Bed::new(None, 0, Format::Raw);
    let open = bed.start();
    let volume = &open.volume;
    volume.resize(SIZE).unwrap();
    assert_eq!(volume.resize(0).unwrap_err().kind(), ErrorKind::Invalid);
    let beyond = volume.write_at(b"ab", SIZE - 1).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Refused);
    volume.punch(ByteRange::new(SIZE, SIZE + 10).unwrap()).unwrap();
    let all = ByteRange::up_to(SIZE);
    assert_eq!(
        volume.allocate(all, false).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    volume.write_at(b"ab", 10).unwrap();
    volume.zero(ByteRange::new(0, 11).unwrap(), false).unwrap();
    assert_eq!(
        (byte_at(&open, 10).unwrap(), byte_at(&open, 11).unwrap()),
        (0, b'b')
    );
}
