//! Listening to the daemon of a mount, and showing meanwhile what it has left to save.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::status;
use crate::control::SAVED;
use crate::size::human;
use crate::status::MountStatus;

/// How often the daemon is asked how far it is.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Longest answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Takes what was written in this line off the terminal.
const CLEAR: &str = "\r\x1b[K";

/// How long to wait for the daemon.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    Until(Instant),
    /// For as long as something is sent, and so long after that.
    Idle(Duration),
}

/// What the daemon said.
#[derive(Debug)]
pub(super) enum Heard {
    Saved,
    /// What could not be saved, and why.
    Unsaved(String),
    /// It ended without a word.
    Silence,
    TimedOut,
}

#[derive(Debug)]
pub(super) struct Progress {
    socket: PathBuf,
    patience: Patience,
    /// When something was last seen to go on.
    moved: Instant,
    looked: Instant,
    left_bytes: u64,
    sent_bytes: u64,
    /// A line is on the terminal, or was printed.
    shown: bool,
}

impl Progress {
    /// `status` is what the daemon said at first.
    pub(super) fn new(socket: &Path, status: &MountStatus, patience: Patience) -> Self {
        Self {
            socket: socket.to_owned(),
            patience,
            moved: Instant::now(),
            looked: Instant::now(),
            left_bytes: status.dirty_bytes,
            sent_bytes: status.sent_bytes,
            shown: false,
        }
    }

    /// What was left to save when the daemon was last asked.
    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// Waits for the answer on `stream`.
    pub(super) fn hear(&mut self, stream: &mut UnixStream) -> io::Result<Heard> {
        self.moved = Instant::now();
        let heard = self.hear_out(stream);
        if self.shown && io::stderr().is_terminal() {
            self.shown = false;
            write!(io::stderr(), "{CLEAR}").ok();
        }
        heard
    }

    fn hear_out(&mut self, stream: &mut UnixStream) -> io::Result<Heard> {
        let mut said = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let end = match self.patience {
                Patience::Until(end) => end,
                Patience::Idle(pause) => self.moved + pause,
            };
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() && !said.ends_with(b"\n") {
                return Ok(Heard::TimedOut);
            }
            stream.set_read_timeout(Some(left.clamp(Duration::from_millis(1), LOOK_PAUSE)))?;
            match stream.read(&mut piece) {
                Ok(read) if read > 0 && said.len() < ANSWER_BYTES_MAX => said.extend(&piece[..read]),
                Ok(_) => return Ok(heard(&said)),
                // It said all it has to say; what is left is that its process ends.
                Err(error) if is_timeout(&error) && left.is_zero() => return Ok(heard(&said)),
                Err(error) if is_timeout(&error) => self.look(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(heard(&said)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks the daemon how far it is, and shows it.
    fn look(&mut self) {
        // One that does not answer just now shows nothing new.
        let Ok(Some(status)) = status::ask(&self.socket, LOOK_PAUSE) else {
            return;
        };
        let now = Instant::now();
        if (status.dirty_bytes, status.sent_bytes) != (self.left_bytes, self.sent_bytes) {
            self.moved = now;
        }
        let sent = status.sent_bytes.saturating_sub(self.sent_bytes);
        let millis = now.duration_since(self.looked).as_millis().max(1);
        let rate = u128::from(sent) * 1000 / millis;
        (self.left_bytes, self.sent_bytes, self.looked) = (status.dirty_bytes, status.sent_bytes, now);
        self.show(u64::try_from(rate).unwrap_or(u64::MAX), &status);
    }

    fn show(&mut self, rate: u64, status: &MountStatus) {
        if self.left_bytes == 0 {
            return;
        }
        let mut error = io::stderr();
        let left = human(self.left_bytes);
        let down = if status.connected { "" } else { ", no connection" };
        // That nobody reads it must not stop the unmount.
        if error.is_terminal() {
            write!(error, "{CLEAR}{left} left to save, {}/s{down}", human(rate)).ok();
            error.flush().ok();
        } else if !self.shown {
            writeln!(error, "lacuna: {left} left to save{down}").ok();
        }
        self.shown = true;
    }
}

fn heard(said: &[u8]) -> Heard {
    match String::from_utf8_lossy(said).trim() {
        "" => Heard::Silence,
        SAVED => Heard::Saved,
        text => Heard::Unsaved(text.to_owned()),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
