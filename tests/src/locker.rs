//! A process that opens volumes and locks them, told what to do line by line.
//!
//! Written in Perl: each lock call of Linux with the arguments that a test gives, by a process that can be killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::Signal;

use crate::process::Process;
use crate::sandbox::Sandbox;
use crate::wait;

/// `struct flock` of 64-bit Linux, and the numbers of fcntl.h.
const PROGRAM: &str = r#"
use strict; use Fcntl qw(:DEFAULT :flock); $| = 1;
my (%files, %kinds) = ();
%kinds = (sh => 0, ex => 1, un => 2);
my %calls = (posix => 6, 'posix-wait' => 7, ofd => 37, 'ofd-wait' => 38);
$SIG{USR1} = sub {};
while (<STDIN>) {
    chomp; my ($call, $name, @rest) = split / /, $_, -1; my $said = 'ok';
    if ($call eq 'open') {
        my ($mode, $path) = @rest;
        sysopen($files{$name}, $path, $mode eq 'rw' ? O_RDWR : O_RDONLY) or $said = $! + 0;
    } elsif ($call eq 'close') {
        close(delete $files{$name}) or $said = $! + 0;
    } elsif ($call eq 'flock') {
        my %flags = (sh => LOCK_SH | LOCK_NB, ex => LOCK_EX | LOCK_NB, un => LOCK_UN, 'ex-wait' => LOCK_EX);
        flock($files{$name}, $flags{$rest[0]}) or $said = $! + 0;
    } elsif ($calls{$call}) {
        my $lock = pack('s s x4 q q i x4', $kinds{$rest[0]}, 0, $rest[1], $rest[2], 0);
        fcntl($files{$name}, $calls{$call}, $lock) or $said = $! + 0;
    } elsif ($call eq 'test') {
        my $lock = pack('s s x4 q q i x4', $kinds{$rest[0]}, 0, $rest[1], $rest[2], 0);
        if (fcntl($files{$name}, 5, $lock)) {
            my ($kind, $whence, $start, $length, $process) = unpack('s s x4 q q i', $lock);
            $said = $kind == 2 ? 'free' : "$kind $start $length $process";
        } else { $said = $! + 0; }
    }
    print "$said\n";
}
"#;

/// `EAGAIN`: somebody else has it.
pub const REFUSED: &str = "11";
/// `EINTR`
pub const INTERRUPTED: &str = "4";

/// See the module.
#[derive(Debug)]
pub struct Locker {
    child: Child,
    input: ChildStdin,
    lines: Mutex<Receiver<String>>,
}

impl Locker {
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        let mut child = sandbox
            .command("perl")
            .args(["-e", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start perl")?;
        let input = child.stdin.take().context("no input")?;
        let output = child.stdout.take().context("no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Self {
            child,
            input,
            lines: Mutex::new(lines),
        })
    }

    /// One that has opened `path` as `v`.
    pub fn with(sandbox: &Sandbox, mode: &str, path: &Path) -> Result<Self> {
        let mut locker = Self::start(sandbox)?;
        locker.open("v", mode, path)?;
        Ok(locker)
    }

    pub fn open(&mut self, name: &str, mode: &str, path: &Path) -> Result<()> {
        self.does(&format!("open {name} {mode} {}", path.display()))
    }

    /// Tells it to do something; what it says is asked for later.
    pub fn begin(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").context("the locker is gone")
    }

    /// What came of the last thing that was begun.
    pub fn said(&self) -> Result<String> {
        let lines = self.lines.lock().map_err(|_| anyhow!("a reader panicked"))?;
        lines.recv_timeout(wait::LIMIT).context("the locker says nothing")
    }

    /// `ok`, or the number of an error.
    pub fn says(&mut self, line: &str) -> Result<String> {
        self.begin(line)?;
        self.said()
    }

    pub fn does(&mut self, line: &str) -> Result<()> {
        let said = self.says(line)?;
        ensure!(said == "ok", "{line}: {said}");
        Ok(())
    }

    pub fn is_refused(&mut self, line: &str) -> Result<()> {
        let said = self.says(line)?;
        ensure!(said == REFUSED, "{line}: {said}");
        Ok(())
    }

    pub fn process(&self) -> Result<Process> {
        let number = i32::try_from(self.child.id()).context("not a process")?;
        Process::new(number).context("not a process")
    }

    /// Waits until it waits for an answer of the file system.
    pub fn until_it_waits(&self) -> Result<()> {
        let file = format!("/proc/{}/wchan", self.child.id());
        wait::until("the locker to wait for a lock", wait::LIMIT, || {
            Ok(std::fs::read_to_string(&file)?.contains("request_wait_answer"))
        })
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(mut self) -> Result<()> {
        self.process()?.send(Signal::KILL)?;
        let mut left = None;
        wait::until("the locker to end", wait::LIMIT, || {
            left = self.child.try_wait()?;
            Ok(left.is_some())
        })?;
        match left.and_then(|status| status.code()) {
            None => Ok(()),
            Some(code) => bail!("the locker ended with {code}"),
        }
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
