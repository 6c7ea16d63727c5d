//! Rescue files: what was written to a volume and could not be saved, because another client got the volume.
//!
//! For each such loss there are two files in the folder `rescue` of the state folder:
//!
//! * `NAME-SECONDS-N.img`: sparse, of the volume's size; the bytes that were written, at their offsets;
//! * `NAME-SECONDS-N.json`: which ranges those are, which were punched or zeroed, which of them the server had
//!   already taken, and why all this was refused.
//!
//! Bounded: all rescue files together hold [`RESCUE_BYTES_MAX`] of data; what has no room, or cannot be written, is
//! counted and named in the second file as left out. Nobody removes rescue files but a person.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lacuna_transport::range::ByteRange;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::overlay::Content;

/// Most bytes of data in all rescue files of a state folder: a few times what is dirty by default.
pub const RESCUE_BYTES_MAX: u64 = 4 << 30;
/// How long the end of a mount waits for rescue files: as long as a slow disk may take for all of it.
pub const RESCUE_TIMEOUT: Duration = Duration::from_secs(120);
/// Reports kept for `lacuna status`: the latest.
const REPORTS_MAX: usize = 16;
/// Letters of a volume's name in that of its rescue file.
const NAME_LETTERS: usize = 80;
/// Names tried for one rescue file: of as many losses in one second.
const NAMES_TRIED_MAX: u32 = 1000;

/// A change that could not be saved.
#[derive(Clone, Debug)]
pub struct Piece {
    pub range: ByteRange,
    pub content: Content,
    /// The server took it, and may not have it on stable storage.
    pub is_taken: bool,
}

/// What is left of a volume's changes.
#[derive(Debug)]
pub struct Salvage {
    pub volume: String,
    pub size: u64,
    /// In ascending order.
    pub pieces: Vec<Piece>,
    pub why: String,
}

impl Salvage {
    /// Bytes of data in it.
    pub fn data_bytes(&self) -> u64 {
        let data = |piece: &&Piece| matches!(piece.content, Content::Data(_));
        let data = self.pieces.iter().filter(data);
        data.map(|piece| piece.range.len()).sum()
    }
}

/// What became of a loss, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueReport {
    pub volume: String,
    pub why: String,
    /// Absent if it could not be written, or is not written yet.
    pub file: Option<PathBuf>,
    /// Bytes of data in the file, and of those that had no room.
    pub bytes: u64,
    pub left_out_bytes: u64,
}

/// The losses of a mount, and where they are kept.
#[derive(Debug, Default)]
pub struct Rescue {
    /// Without one nothing is kept.
    folder: Mutex<Option<PathBuf>>,
    reports: Mutex<Vec<RescueReport>>,
    under_way: watch::Sender<usize>,
    /// Held while a file is written: the bound is of all of them.
    writing: Mutex<()>,
}

/// The second file.
#[derive(Debug, Serialize)]
struct Notes<'a> {
    volume: &'a str,
    why: &'a str,
    unix_secs: u64,
    size: u64,
    changes: Vec<Note>,
}

#[derive(Debug, Serialize)]
struct Note {
    start: u64,
    end: u64,
    /// `data`, `zero` or `hole`.
    kind: &'static str,
    /// The server took it, and may not have it on stable storage.
    taken: bool,
    /// There was no room for its bytes, or they could not be written.
    left_out: bool,
}

impl Rescue {
    /// Keeps losses below this folder from now on.
    pub fn keep_in(&self, folder: PathBuf) {
        *self.folder.lock() = Some(folder);
    }

    /// The latest losses, oldest first.
    pub fn reports(&self) -> Vec<RescueReport> {
        self.reports.lock().clone()
    }

    /// Writes what is left of a volume, on a thread that may wait. Call it within the runtime.
    pub fn keep(self: &Arc<Self>, salvage: Salvage) {
        self.under_way.send_modify(|count| *count += 1);
        let rescue = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            rescue.keep_now(salvage);
            rescue.under_way.send_modify(|count| *count -= 1);
        });
    }

    /// Waits until all is written.
    pub async fn kept(&self) {
        // The sender is right here: this cannot fail.
        let _ = self.under_way.subscribe().wait_for(|count| *count == 0).await;
    }

    fn keep_now(&self, salvage: Salvage) {
        let folder = self.folder.lock().clone();
        let mut report = RescueReport {
            volume: salvage.volume.clone(),
            why: salvage.why.clone(),
            file: None,
            bytes: 0,
            left_out_bytes: salvage.data_bytes(),
        };
        let _one = self.writing.lock();
        match folder.map(|folder| write(&folder, &salvage, RESCUE_BYTES_MAX)) {
            Some(Ok((file, bytes))) => {
                report.bytes = bytes;
                report.left_out_bytes -= bytes.min(report.left_out_bytes);
                let left_out_bytes = report.left_out_bytes;
                tracing::error!(volume = report.volume, file = %file.display(), bytes, left_out_bytes,
                    "what was not saved is kept in a rescue file; the file .json beside it names the ranges");
                report.file = Some(file);
            }
            Some(Err(error)) => {
                tracing::error!(volume = report.volume, %error, bytes = report.left_out_bytes, "cannot write a rescue file");
            }
            None => tracing::warn!(volume = report.volume, "there is no folder for rescue files"),
        }
        let mut reports = self.reports.lock();
        if reports.len() == REPORTS_MAX {
            reports.remove(0);
        }
        reports.push(report);
    }
}

/// Writes both files; returns the first one and how many bytes of data are in it.
fn write(folder: &Path, salvage: &Salvage, bytes_max: u64) -> io::Result<(PathBuf, u64)> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let unix_secs = now.map_or(0, |now| now.as_secs());
    let room = bytes_max.saturating_sub(used_bytes(folder)?);
    let (path, image) = create(folder, &format!("{}-{unix_secs}", plain(&salvage.volume)))?;
    if image.set_len(salvage.size).is_err() {
        // Larger than this file system's files: it ends with what was written.
        tracing::debug!(file = %path.display(), size = salvage.size, "the rescue file is shorter than the volume");
    }
    let mut bytes = 0;
    let mut changes = Vec::with_capacity(salvage.pieces.len());
    for piece in &salvage.pieces {
        let (kind, left_out) = match &piece.content {
            Content::Zero => ("zero", false),
            Content::Hole => ("hole", false),
            Content::Data(slice) => {
                let has_room = bytes + piece.range.len() <= room;
                let is_kept = has_room && is_written(&image, &path, slice.as_ref(), piece.range);
                if is_kept {
                    bytes += piece.range.len();
                }
                ("data", !is_kept)
            }
        };
        changes.push(Note {
            start: piece.range.start(),
            end: piece.range.end(),
            kind,
            taken: piece.is_taken,
            left_out,
        });
    }
    image.sync_all()?;
    let notes = Notes {
        volume: &salvage.volume,
        why: &salvage.why,
        unix_secs,
        size: salvage.size,
        changes,
    };
    let mut text = serde_json::to_vec_pretty(&notes).map_err(io::Error::other)?;
    text.push(b'\n');
    let mut file = new_file(&path.with_extension("json"))?;
    file.write_all(&text)?;
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok((path, bytes))
}

/// A full disk, or a volume that is larger than files here can be: the rest may still be written.
fn is_written(image: &File, path: &Path, bytes: &[u8], range: ByteRange) -> bool {
    let written = image.write_all_at(bytes, range.start());
    if let Err(error) = &written {
        tracing::warn!(file = %path.display(), %range, %error, "a part of what was lost is not in the rescue file");
    }
    written.is_ok()
}

fn create(folder: &Path, stem: &str) -> io::Result<(PathBuf, File)> {
    for number in 1..=NAMES_TRIED_MAX {
        let path = folder.join(format!("{stem}-{number}.img"));
        match new_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return Ok((path, made?)),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Space that rescue files take by now.
fn used_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    for entry in fs::read_dir(folder)? {
        bytes = bytes.saturating_add(entry?.metadata()?.blocks().saturating_mul(512));
    }
    Ok(bytes)
}

/// The end of a volume's path as part of a file name.
fn plain(volume: &str) -> String {
    let letters: Vec<char> = volume
        .chars()
        .map(|letter| {
            let is_plain = letter.is_ascii_alphanumeric() || "._-".contains(letter);
            if is_plain { letter } else { '-' }
        })
        .collect();
    let tail = letters.len().saturating_sub(NAME_LETTERS);
    letters[tail..]
        .iter()
        .collect::<String>()
        .trim_start_matches('.')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use lacuna_transport::limits::VOLUME_BYTES_MAX;

    use super::*;
    use crate::overlay::buffer::Slice;

    fn piece(start: u64, content: Content, len: u64) -> Piece {
        Piece {
            range: ByteRange::at(start, len).unwrap(),
            content,
            is_taken: start == 0,
        }
    }

    fn data(start: u64, bytes: &[u8]) -> Piece {
        let len = u64::try_from(bytes.len()).unwrap();
        piece(start, Content::Data(Slice::new(bytes, len, None)), len)
    }

    fn salvage(pieces: Vec<Piece>) -> Salvage {
        Salvage {
            volume: "../images/a b.img".to_owned(),
            size: 1 << 40,
            pieces,
            why: "fenced".to_owned(),
        }
    }

    #[test]
    fn a_person_finds_the_bytes_at_their_offsets_and_the_rest_in_the_notes() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("rescue");
        let pieces = vec![
            data(0, b"first"),
            piece(4096, Content::Hole, 4096),
            piece(8192, Content::Zero, 10),
            data(1 << 39, b"last"),
        ];
        let (file, bytes) = write(&folder, &salvage(pieces.clone()), 1 << 20).unwrap();
        assert_eq!(bytes, 9);
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("-images-a-b.img-"), "{name}");
        let image = File::open(&file).unwrap();
        let mut found = [0; 5];
        image.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"first");
        image.read_exact_at(&mut found[..4], 1 << 39).unwrap();
        assert_eq!(&found[..4], b"last");
        let meta = image.metadata().unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (1 << 40, 0o600));
        assert!(meta.blocks() * 512 < 1 << 20, "it is sparse");
        let notes = fs::read(file.with_extension("json")).unwrap();
        let notes: serde_json::Value = serde_json::from_slice(&notes).unwrap();
        let changes = notes["changes"].as_array().unwrap().iter();
        let kinds: Vec<_> = changes.map(|change| change["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["data", "hole", "zero", "data"]);
        assert_eq!(
            (&notes["changes"][0]["taken"], &notes["changes"][1]["taken"]),
            (&true.into(), &false.into())
        );
        // Another one at the same moment is another file.
        let (again, _) = write(&folder, &salvage(pieces), 1 << 20).unwrap();
        assert_ne!(file, again);
    }

    #[test]
    fn what_has_no_room_is_left_out_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let pieces = vec![data(0, &[1; 100]), data(1000, &[2; 100]), data(5000, b"small")];
        let (file, bytes) = write(folder.path(), &salvage(pieces), 105).unwrap();
        assert_eq!(bytes, 105);
        let notes = fs::read(file.with_extension("json")).unwrap();
        let notes: serde_json::Value = serde_json::from_slice(&notes).unwrap();
        let left_out: Vec<_> = (0..3)
            .map(|at| notes["changes"][at]["left_out"] == true)
            .collect();
        assert_eq!(left_out, [false, true, false]);
        // What earlier ones hold counts.
        let (_, bytes) = write(folder.path(), &salvage(vec![data(0, b"more")]), 105).unwrap();
        assert_eq!(bytes, 0);
    }

    /// The file system of the state folder may be full, or have smaller files than the volume.
    #[test]
    fn what_cannot_be_written_takes_nothing_else_along() {
        let folder = tempfile::tempdir().unwrap();
        let beyond = VOLUME_BYTES_MAX - 2;
        let pieces = vec![data(0, b"first"), data(5000, b"second"), data(beyond, b"far")];
        let (file, bytes) = write(folder.path(), &salvage(pieces), 1 << 20).unwrap();
        assert_eq!(bytes, 11);
        let mut found = [0; 6];
        let image = File::open(&file).unwrap();
        image.read_exact_at(&mut found, 5000).unwrap();
        assert_eq!(&found, b"second");
        let notes = fs::read(file.with_extension("json")).unwrap();
        let notes: serde_json::Value = serde_json::from_slice(&notes).unwrap();
        assert_eq!(notes["changes"][1]["left_out"], false);
        assert_eq!(notes["changes"][2]["left_out"], true);
    }
}
