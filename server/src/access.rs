//! Who may connect: the file `allow` of the state folder.
//!
//! One client a line: `sha256:<64 hex digits> <rw|ro> <name>`; empty lines and lines that start with `#`
//! are kept and mean nothing. Keys and names are unique.
//!
//! **Invariants**
//!
//! * A file that does not parse is an error that names file and line; nobody is admitted by what was
//!   understood of it, and it is never overwritten.
//! * The file changes by rename under a lock: whoever reads it sees all of one version, and two changes
//!   at once both happen.
//!
//! The daemon reads it for every connection: there is no copy that could be out of date.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use lacuna_transport::quic::identity::KeyId;
use rustix::fs::FlockOperation;

use crate::error::{Error, ErrorKind, Result};

const FILE_NAME: &str = "allow";
const LOCK_NAME: &str = "allow.lock";
/// About ten thousand clients.
const FILE_BYTES_MAX: u64 = 1 << 20;
const NAME_BYTES_MAX: usize = 64;

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadWrite,
    ReadOnly,
}

impl Access {
    /// As in the file.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ReadWrite => "rw",
            Self::ReadOnly => "ro",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        match word {
            "rw" => Some(Self::ReadWrite),
            "ro" => Some(Self::ReadOnly),
            _ => None,
        }
    }
}

/// A client that may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: KeyId,
    pub access: Access,
    pub name: String,
}

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Comment(String),
    Entry(Entry),
}

impl AllowList {
    /// The list of a state folder; empty if there is no file.
    pub fn load(state: &Path) -> Result<Self> {
        let path = state.join(FILE_NAME);
        let read = |error| Error::io(format!("cannot read {}", path.display()), error);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(read(error)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(read)?;
        if u64::try_from(bytes.len()).is_ok_and(|len| len > FILE_BYTES_MAX) {
            return Err(corrupt(
                &path,
                None,
                &format!("it is larger than {FILE_BYTES_MAX} bytes"),
            ));
        }
        let text = String::from_utf8(bytes).map_err(|_| corrupt(&path, None, "it is not text"))?;
        Self::parse(&text).map_err(|(line, why)| corrupt(&path, Some(line), &why))
    }

    /// Applies `change` to the list of a state folder and stores it, or changes nothing.
    pub fn change<T>(state: &Path, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let _lock = lock(state)?;
        let mut list = Self::load(state)?;
        let result = change(&mut list)?;
        list.store(state)?;
        Ok(result)
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.lines.iter().filter_map(|line| match line {
            Line::Entry(entry) => Some(entry),
            Line::Comment(_) => None,
        })
    }

    pub fn find(&self, key: KeyId) -> Option<&Entry> {
        self.entries().find(|entry| entry.key == key)
    }

    /// Admits a key, or changes what is said of it. Without a name it keeps its own, or gets one.
    pub fn allow(&mut self, key: KeyId, name: Option<&str>, access: Access) -> Result<Entry> {
        let old = self.find(key).map(|entry| entry.name.clone());
        let name = match name.map(str::to_owned).or(old) {
            Some(name) => name,
            None => key.to_string().chars().skip("sha256:".len()).take(12).collect(),
        };
        check_name(&name).map_err(|why| Error::new(ErrorKind::Invalid, why))?;
        if let Some(other) = self
            .entries()
            .find(|entry| entry.name == name && entry.key != key)
        {
            let why = format!(
                "the name {name} belongs to {}; choose another with --name",
                other.key
            );
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let entry = Entry { key, access, name };
        let place = self
            .lines
            .iter_mut()
            .find(|line| matches!(line, Line::Entry(old) if old.key == key));
        match place {
            Some(line) => *line = Line::Entry(entry.clone()),
            None => self.lines.push(Line::Entry(entry.clone())),
        }
        Ok(entry)
    }

    /// Removes the client of this key or name.
    pub fn revoke(&mut self, who: &str) -> Result<Entry> {
        let key = who.parse::<KeyId>().ok();
        let at = self.lines.iter().position(
            |line| matches!(line, Line::Entry(entry) if entry.name == who || Some(entry.key) == key),
        );
        match at.map(|at| self.lines.remove(at)) {
            Some(Line::Entry(entry)) => Ok(entry),
            Some(Line::Comment(_)) | None => {
                let why = format!("no client {who} is allowed; 'lacunad clients' lists them");
                Err(Error::new(ErrorKind::NotFound, why))
            }
        }
    }

    /// The number of the first bad line, and what is wrong with it.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut list = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() || line.starts_with('#') {
                list.lines.push(Line::Comment(line.to_owned()));
                continue;
            }
            let entry = parse_entry(line).map_err(|why| (number, why))?;
            if list.entries().any(|other| other.key == entry.key) {
                return Err((number, "this key is listed twice".to_owned()));
            }
            if list.entries().any(|other| other.name == entry.name) {
                return Err((number, format!("the name {} is listed twice", entry.name)));
            }
            list.lines.push(Line::Entry(entry));
        }
        Ok(list)
    }

    fn render(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let written = match line {
                Line::Comment(comment) => writeln!(text, "{comment}"),
                Line::Entry(Entry { key, access, name }) => writeln!(text, "{key} {} {name}", access.word()),
            };
            written.expect("a String takes any text");
        }
        text
    }

    fn store(&self, state: &Path) -> Result<()> {
        let path = state.join(FILE_NAME);
        let aside = state.join(format!("{FILE_NAME}.new"));
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&aside)?;
            file.write_all(self.render().as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            File::open(state)?.sync_all()
        };
        write().map_err(|error| Error::io(format!("cannot write {}", path.display()), error))
    }
}

fn parse_entry(line: &str) -> Result<Entry, String> {
    let form = "expected: sha256:<64 hex digits> <rw|ro> <name>";
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [key, access, name] = words[..] else {
        return Err(form.to_owned());
    };
    let key = key.parse::<KeyId>().map_err(|_| form.to_owned())?;
    let access = Access::parse(access).ok_or_else(|| form.to_owned())?;
    check_name(name)?;
    Ok(Entry {
        key,
        access,
        name: name.to_owned(),
    })
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = name.chars().all(|c| !c.is_whitespace() && !c.is_control());
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !plain || name.starts_with('#') {
        return Err(format!(
            "a name has 1 to {NAME_BYTES_MAX} bytes, no white space, and no # in front"
        ));
    }
    if name.parse::<KeyId>().is_ok() {
        return Err("a name must not look like a key".to_owned());
    }
    Ok(())
}

fn corrupt(path: &Path, line: Option<usize>, why: &str) -> Error {
    let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
    let text = format!(
        "{}{line}: {why}; correct the file by hand, it was left as it is",
        path.display()
    );
    Error::new(ErrorKind::Corrupt, text)
}

fn lock(state: &Path) -> Result<File> {
    let path: PathBuf = state.join(LOCK_NAME);
    let failed = |error| Error::io(format!("cannot lock {}", path.display()), error);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
