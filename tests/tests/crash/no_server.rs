//! No server, for a while: what is known is served, everything else waits as long as the mount says and no longer,
//! `umount -f` frees whoever waits, and a server that comes back is noticed at once.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, ensure};
use lacuna_tests::direct::{aligned, open_direct};
use lacuna_tests::process::{MARK, Process, Suspended};
use lacuna_tests::rig::Rig;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::status::Status;
use lacuna_tests::{binaries, compare, samples, wait};
use rustix::fs::{FallocateFlags, copy_file_range, fallocate, statvfs};
use rustix::io::Errno;
use rustix::process::Signal;

const MIB: u64 = 1 << 20;

/// What a call in a thread of its own came to.
type Calls = Vec<(&'static str, mpsc::Receiver<io::Result<()>>)>;

/// Makes a call that may wait.
fn call(calls: &mut Calls, name: &'static str, work: impl FnOnce() -> io::Result<()> + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens any more once the test has failed.
        let _ = sender.send(work());
    });
    calls.push((name, receiver));
}

/// Waits for all of them, and hands out what each came to.
fn outcomes(calls: Calls) -> Result<Vec<(&'static str, io::Result<()>)>> {
    let outcome = |(name, receiver): (&'static str, mpsc::Receiver<_>)| {
        let outcome = receiver.recv_timeout(wait::LIMIT);
        Ok((name, outcome.with_context(|| format!("{name} hangs"))?))
    };
    calls.into_iter().map(outcome).collect()
}

/// Runs command lines. A process that a test starts itself has copies of the test's descriptors, and its exec closes
/// them: that waits for the server, with `-o hard` for ever. So this is started before anything is opened.
struct Shell {
    child: Child,
    lines: mpsc::Receiver<String>,
    mountpoint: String,
}

impl Shell {
    fn start(rig: &Rig) -> Result<Self> {
        let mut child = Command::new("sh")
            .args([
                "-c",
                r#"while read -r line; do eval "$line" 2>&1; echo "; $?"; done"#,
            ])
            .env(MARK, rig.sandbox.path())
            .env("LACUNA_STATE", rig.mount.client().state())
            .env("LACUNA", binaries::lacuna()?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(io::Result::ok) {
                // Nobody listens any more at the end of the test.
                let _ = sender.send(line);
            }
        });
        Ok(Self {
            child,
            lines,
            mountpoint: rig.mount.path().display().to_string(),
        })
    }

    /// The exit code of a command on the mountpoint, and what it said.
    fn run(&mut self, command: &str) -> Result<(i32, String)> {
        let input = self.child.stdin.as_mut().context("no input")?;
        writeln!(input, "{command} '{}'", self.mountpoint)?;
        let mut text = String::new();
        loop {
            let line = self.lines.recv_timeout(wait::LIMIT);
            let line = line.with_context(|| format!("{command} says nothing more: {text}"))?;
            if let Some(code) = line.strip_prefix("; ") {
                return Ok((code.parse()?, text));
            }
            text.push_str(&line);
            text.push('\n');
        }
    }

    fn status(&mut self) -> Result<Status> {
        let (code, text) = self.run("\"$LACUNA\" status --json")?;
        ensure!(code == 0, "{text}");
        Status::parse(text.as_bytes())
    }

    fn until(&mut self, what: &str, reached: impl Fn(&Status) -> bool) -> Result<()> {
        wait::until(what, wait::LIMIT, || Ok(reached(&self.status()?)))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It may have ended with its input already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with much in it, and a mount of it.
fn rig(options: &[&str]) -> Result<Rig> {
    Rig::filled_with(options, |dir| {
        samples::write_sparse(&dir.join("volume"), 64 * MIB, 1, [(0, MIB), (32 * MIB, 40 * MIB)])?;
        for name in ["known", "fresh", "a", "b", "c", "d", "e", "e/empty"] {
            fs::create_dir(dir.join(name))?;
        }
        for name in ["known/one", "known/two", "fresh/one", "c/gone", "d/old"] {
            fs::write(dir.join(name), name)?;
        }
        for number in 0..8 {
            fs::write(dir.join(format!("file{number}")), vec![1; 100_000])?;
        }
        Ok(())
    })
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(path)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// A file whose name is known, for writing.
fn writable(rig: &Rig, number: usize) -> Result<File> {
    rig.mount.open_for_writing(format!("file{number}"))
}

/// Every call that needs the server, each where no other one is in its way.
fn calls_that_wait(rig: &Rig, files: Vec<File>, [folder, direct, unread]: [File; 3]) -> Result<Calls> {
    let root = rig.mount.path().to_owned();
    let at = |name: &str| root.join(name);
    let mut calls = Calls::new();
    let all = &mut calls;
    call(all, "read", move || unread.read_exact_at(&mut [0; 4096], 0));
    let path = at("fresh/one");
    call(all, "lookup", move || fs::metadata(path).map(drop));
    let path = at("fresh");
    call(all, "readdir", move || names(&path).map(drop));
    let path = at("file7");
    call(all, "open", move || File::open(path).map(drop));
    let path = at("known/one");
    call(all, "open to write", move || {
        File::options().write(true).open(path).map(drop)
    });
    let path = at("a/new");
    call(all, "create", move || File::create_new(path).map(drop));
    let path = at("b/new");
    call(all, "mkdir", move || fs::create_dir(path));
    let path = at("c/gone");
    call(all, "unlink", move || fs::remove_file(path));
    let (from, to) = (at("d/old"), at("d/new"));
    call(all, "rename", move || fs::rename(from, to));
    let path = at("e/empty");
    call(all, "rmdir", move || fs::remove_dir(path));
    let path = root.clone();
    call(all, "statfs", move || Ok(statvfs(&path).map(drop)?));
    let path = at("known/two");
    call(all, "chmod", move || {
        fs::set_permissions(path, Permissions::from_mode(0o600))
    });
    call(all, "fsync of a folder", move || folder.sync_all());
    let mut files = files.into_iter();
    let mut file = || files.next().context("too few files");
    let one = file()?;
    call(all, "write and fsync", move || {
        one.write_all_at(b"kept", 0)?;
        one.sync_all()
    });
    let one = file()?;
    call(all, "ftruncate", move || one.set_len(5));
    let one = file()?;
    call(all, "punch", move || {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&one, punch, 0, 4096)?)
    });
    let one = file()?;
    call(all, "fallocate", move || {
        Ok(fallocate(&one, FallocateFlags::empty(), 0, MIB)?)
    });
    let (one, other) = (file()?, file()?);
    call(all, "copy_file_range", move || {
        let copied = copy_file_range(&one, Some(&mut 0), &other, Some(&mut 0), 4096);
        Ok(copied.map(drop)?)
    });
    call(all, "direct read", move || {
        let mut buffer = aligned(4096).map_err(io::Error::other)?;
        direct.read_exact_at(&mut buffer, 0)
    });
    Ok(calls)
}

/// Known: names, attributes, listings, holes, cached data, and what this client wrote.
fn ensure_known(rig: &Rig, volume: &File, cached: &[u8], map: &SeekMap) -> Result<()> {
    let file0 = fs::metadata(rig.volume("file0")).context("attributes of a name")?;
    assert_eq!(file0.len(), 100_000);
    ensure!(fs::metadata(rig.volume("known"))?.is_dir());
    assert_eq!(names(&rig.volume("known"))?, ["one", "two"], "a listing");
    let missing = fs::metadata(rig.volume("known/three"));
    let missing = missing.err().map(|error| error.kind());
    assert_eq!(missing, Some(io::ErrorKind::NotFound), "it is not in the listing");
    compare::all_zero(volume, MIB, 32 * MIB)?;
    let mut bytes = vec![0; cached.len()];
    volume.read_exact_at(&mut bytes, 0)?;
    ensure!(bytes == cached, "cached bytes changed");
    assert_eq!(SeekMap::of(volume)?, *map);
    let again = rig.mount.open("volume");
    again.context("what is open can be opened again")?;
    assert_eq!(volume.metadata()?.len(), 64 * MIB);
    let path = CString::new(rig.volume("volume").to_string_lossy().into_owned())?;
    rustix::fs::getxattr(&path, c"user.lacuna.path", &mut [0_u8; 64])?;
    Ok(())
}

/// With a server that is away as `stopped` says: what is known is served, and every other call ends with EIO in time.
/// When it is back, all goes on.
fn without_a_server(stopped: bool) -> Result<()> {
    let mut rig = rig(&["timeout=2"])?;
    let mut shell = Shell::start(&rig)?;
    let volume = rig.mount.open("volume")?;
    let map = SeekMap::of(&volume)?;
    let mut cached = vec![0; usize::try_from(MIB)?];
    volume.read_exact_at(&mut cached, 0)?;
    for folder in ["", "known"] {
        names(&rig.volume(folder))?;
    }
    let direct = open_direct(&rig.volume("volume"))?;
    let unread = rig.mount.open("file6")?;
    let files = (0..6)
        .map(|number| writable(&rig, number))
        .collect::<Result<_>>()?;
    let folder = File::open(rig.volume("a"))?;
    let server = rig.server.process()?;
    let guard = if stopped {
        let guard = server.suspend()?;
        shell.until("the silence to be noticed", |status| status.silent_secs.is_some())?;
        Some(guard)
    } else {
        server.send(Signal::TERM)?;
        let down = |status: &Status| !status.connected && status.down_secs.is_some();
        shell.until("the end to be noticed", down)?;
        None
    };
    ensure_known(&rig, &volume, &cached, &map).context("what is known")?;
    let calls = calls_that_wait(&rig, files, [folder, direct, unread])?;
    let read = |status: &Status| {
        let mut waiting = status.waiting.iter();
        waiting.any(|waiting| waiting.operation == "read" && waiting.path.as_deref() == Some("file6"))
    };
    shell.until("a read to be shown as waiting", |status| {
        status.waiting_count > 0 && read(status)
    })?;
    for (name, outcome) in outcomes(calls)? {
        let errno = outcome.err().and_then(|error| error.raw_os_error());
        assert_eq!(errno, Some(Errno::IO.raw_os_error()), "{name}");
    }
    ensure_known(&rig, &volume, &cached, &map).context("what is known, later")?;
    if guard.is_none() {
        wait::until("the server to end", wait::LIMIT, || Ok(!server.lives()))?;
        rig.start_server()?;
    }
    drop(guard);
    shell.until("the server to be heard", |status| {
        status.connected && status.silent_secs.is_none()
    })?;
    writable(&rig, 0)?.sync_all()?;
    ensure!(
        fs::read(rig.original("file0"))?.starts_with(b"kept"),
        "the write is lost"
    );
    ensure!(names(&rig.volume("fresh"))? == ["one"], "not listed");
    Ok(())
}

/// There is a session, and nothing comes from it.
#[test]
fn calls_end_in_time_and_what_is_known_is_served_by_a_stopped_server() -> Result<()> {
    without_a_server(true)
}

/// There is no session.
#[test]
fn calls_end_in_time_and_what_is_known_is_served_after_its_end() -> Result<()> {
    without_a_server(false)
}

/// What a test with `-o hard` has: dropped in this order.
struct Hard {
    calls: Calls,
    stopped: Suspended,
    shell: Shell,
    rig: Rig,
}

/// Calls that wait for a stopped server.
fn waiting_hard() -> Result<Hard> {
    let rig = rig(&["hard"])?;
    let mut shell = Shell::start(&rig)?;
    let (volume, file) = (rig.mount.open("volume")?, writable(&rig, 0)?);
    names(rig.mount.path())?;
    let stopped = rig.server.process()?.suspend()?;
    let (fresh, one) = (rig.volume("fresh"), rig.volume("a/one"));
    let mut calls = Calls::new();
    let all = &mut calls;
    call(all, "read", move || {
        volume.read_exact_at(&mut [0; 4096], 33 * MIB)
    });
    call(all, "write and fsync", move || {
        file.write_all_at(b"kept", 0)?;
        file.sync_all()
    });
    call(all, "readdir", move || names(&fresh).map(drop));
    call(all, "create", move || fs::write(one, "one"));
    shell.until("all calls to wait", |status| status.waiting_count >= 4)?;
    Ok(Hard {
        calls,
        stopped,
        shell,
        rig,
    })
}

#[test]
fn with_hard_calls_wait_until_the_server_is_back() -> Result<()> {
    let hard = waiting_hard()?;
    for (name, receiver) in &hard.calls {
        ensure!(receiver.try_recv().is_err(), "{name} did not wait");
    }
    drop(hard.stopped);
    for (name, outcome) in outcomes(hard.calls)? {
        outcome.context(name)?;
    }
    let (rig, _shell) = (hard.rig, hard.shell);
    ensure!(
        fs::read(rig.original("file0"))?.starts_with(b"kept"),
        "not flushed"
    );
    ensure!(fs::read(rig.original("a/one"))? == b"one", "not created");
    Ok(())
}

/// Nothing waits any more, nothing is mounted, and the daemon ends although something is left to save.
fn ensure_freed(hard: Hard, daemon: Process) -> Result<()> {
    for (name, outcome) in outcomes(hard.calls)? {
        ensure!(outcome.is_err(), "{name} says that it was done");
    }
    wait::until("the daemon to end", wait::LIMIT, || Ok(!daemon.lives()))?;
    ensure!(!hard.rig.mount.is_mounted()?, "still mounted");
    let log = client_log(&hard.rig)?;
    ensure!(log.contains("not known to be saved"), "nobody was told:\n{log}");
    Ok(())
}

#[test]
fn umount_by_force_frees_whoever_waits() -> Result<()> {
    let mut hard = waiting_hard()?;
    let daemon = hard.rig.mount.daemon()?;
    // It may say that it is busy: the users are being freed, and the daemon takes the name away.
    let (code, said) = hard.shell.run("umount -f")?;
    ensure!(code == 0 || said.contains("busy"), "{said}");
    ensure_freed(hard, daemon)
}

#[test]
fn lacuna_umount_by_force_frees_whoever_waits() -> Result<()> {
    let mut hard = waiting_hard()?;
    let daemon = hard.rig.mount.daemon()?;
    let (code, said) = hard.shell.run("\"$LACUNA\" umount --force")?;
    ensure!(
        code == 1 && said.contains("not known to be saved"),
        "{code}: {said}"
    );
    ensure_freed(hard, daemon)
}

fn client_log(rig: &Rig) -> Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir(rig.mount.client().state().join("mounts"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            text.push_str(&fs::read_to_string(path)?);
        }
    }
    Ok(text)
}

/// The new server's reset told, not the end of the client's patience.
fn ensure_reset(rig: &Rig) -> Result<()> {
    wait::until("a reconnect", wait::LIMIT, || {
        Ok(rig.mount.status()?.reconnects == 1)
    })?;
    let log = client_log(rig)?;
    ensure!(
        log.contains("reset by peer") && !log.contains("timed out"),
        "it was not a reset:\n{log}"
    );
    Ok(())
}

#[test]
fn an_idle_client_learns_of_a_restart_from_a_reset() -> Result<()> {
    let mut rig = rig(&[])?;
    rig.restart_server()?;
    ensure_reset(&rig)
}

/// The same when the server was away for so long that QUIC hardly sends any more.
#[test]
fn a_client_that_hears_nothing_learns_of_a_restart_from_a_reset() -> Result<()> {
    let mut rig = rig(&[])?;
    let volume = rig.mount.open("volume")?;
    rig.server.kill()?;
    wait::until("the silence to be noticed", wait::LIMIT, || {
        Ok(rig.mount.status()?.silent_secs.is_some_and(|secs| secs >= 1))
    })?;
    rig.start_server()?;
    ensure_reset(&rig)?;
    volume.read_exact_at(&mut [0; 4096], 33 * MIB)?;
    Ok(())
}
