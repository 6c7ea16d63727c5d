//! No server, for a while: what is known is served, everything else waits as long as the mount says and no longer,
//! `umount -f` frees whoever waits, and a server that comes back is noticed at once.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, ensure};
use lacuna_tests::direct::{aligned, open_direct};
use lacuna_tests::process::Process;
use lacuna_tests::rig::Rig;
use lacuna_tests::seek_map::SeekMap;
use lacuna_tests::{command, compare, samples, wait};
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
fn calls_that_wait(rig: &Rig, files: Vec<File>, folder: File) -> Result<Calls> {
    let root = rig.mount.path().to_owned();
    let at = |name: &str| root.join(name);
    let volume = rig.mount.open("volume");
    let volume = volume.context("what is open can be opened again")?;
    let mut calls = Calls::new();
    let all = &mut calls;
    call(all, "read", move || {
        volume.read_exact_at(&mut [0; 4096], 33 * MIB)
    });
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
    let direct = open_direct(&at("volume"))?;
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
    assert_eq!(volume.metadata()?.len(), 64 * MIB);
    let path = CString::new(rig.volume("volume").to_string_lossy().into_owned())?;
    rustix::fs::getxattr(&path, c"user.lacuna.path", &mut [0_u8; 64])?;
    Ok(())
}

/// With the server away as `leave` has it: what is known is served, and every other call ends with EIO in time. When it
/// is back, all goes on.
fn without(
    leave: impl FnOnce(&mut Rig) -> Result<()>,
    back: impl FnOnce(&mut Rig) -> Result<()>,
) -> Result<()> {
    let mut rig = rig(&["timeout=2"])?;
    let volume = rig.mount.open("volume")?;
    let map = SeekMap::of(&volume)?;
    let mut cached = vec![0; usize::try_from(MIB)?];
    volume.read_exact_at(&mut cached, 0)?;
    for folder in ["", "known"] {
        names(&rig.volume(folder))?;
    }
    let files = (0..6)
        .map(|number| writable(&rig, number))
        .collect::<Result<_>>()?;
    let folder = File::open(rig.volume("a"))?;
    leave(&mut rig)?;
    ensure_known(&rig, &volume, &cached, &map).context("what is known")?;
    let calls = calls_that_wait(&rig, files, folder)?;
    let count = u64::try_from(calls.len())?;
    wait::until("all calls to be shown as waiting", wait::LIMIT, || {
        Ok(rig.mount.status()?.waiting_count >= count)
    })?;
    let waiting = rig.mount.status()?.waiting;
    let read = waiting.iter().find(|waiting| waiting.operation == "read");
    assert_eq!(read.and_then(|read| read.path.as_deref()), Some("volume"));
    for (name, outcome) in outcomes(calls)? {
        let errno = outcome.err().and_then(|error| error.raw_os_error());
        assert_eq!(errno, Some(Errno::IO.raw_os_error()), "{name}");
    }
    ensure_known(&rig, &volume, &cached, &map).context("what is known, later")?;
    back(&mut rig)?;
    wait::until("the server to be heard", wait::LIMIT, || {
        let status = rig.mount.status()?;
        Ok(status.connected && status.silent_secs.is_none())
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
fn a_stopped_server() -> Result<()> {
    let leave = |rig: &mut Rig| {
        rig.server.process()?.send(Signal::STOP)?;
        wait::until("the silence to be noticed", wait::LIMIT, || {
            Ok(rig.mount.status()?.silent_secs.is_some())
        })
    };
    without(leave, |rig| rig.server.process()?.send(Signal::CONT))
}

/// There is no session.
#[test]
fn a_server_that_has_ended() -> Result<()> {
    let leave = |rig: &mut Rig| {
        rig.server.process()?.send(Signal::TERM)?;
        wait::until("the end to be noticed", wait::LIMIT, || {
            let status = rig.mount.status()?;
            Ok(!status.connected && status.down_secs.is_some() && status.last_error.is_some())
        })
    };
    without(leave, |rig| {
        wait::until("the server to end", wait::LIMIT, || Ok(!rig.server.lives()?))?;
        rig.start_server()
    })
}

/// Calls that wait for a stopped server, of a mount with `-o hard`, and the rig.
fn waiting_hard() -> Result<(Rig, Calls)> {
    let rig = rig(&["hard"])?;
    let (volume, file) = (rig.mount.open("volume")?, writable(&rig, 0)?);
    names(rig.mount.path())?;
    rig.server.process()?.send(Signal::STOP)?;
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
    wait::until("all calls to wait", wait::LIMIT, || {
        Ok(rig.mount.status()?.waiting_count >= 4)
    })?;
    Ok((rig, calls))
}

#[test]
fn with_hard_they_wait_until_it_is_back() -> Result<()> {
    let (rig, calls) = waiting_hard()?;
    for (name, receiver) in &calls {
        ensure!(receiver.try_recv().is_err(), "{name} did not wait");
    }
    rig.server.process()?.send(Signal::CONT)?;
    for (name, outcome) in outcomes(calls)? {
        outcome.context(name)?;
    }
    ensure!(
        fs::read(rig.original("file0"))?.starts_with(b"kept"),
        "not flushed"
    );
    ensure!(fs::read(rig.original("a/one"))? == b"one", "not created");
    Ok(())
}

/// Nothing waits any more, nothing is mounted, and the daemon ends although something is left to save.
fn ensure_freed(rig: &Rig, calls: Calls, daemon: Process) -> Result<()> {
    for (name, outcome) in outcomes(calls)? {
        ensure!(outcome.is_err(), "{name} says that it was done");
    }
    wait::until("the daemon to end", wait::LIMIT, || Ok(!daemon.lives()))?;
    ensure!(!rig.mount.is_mounted()?, "still mounted");
    let log = client_log(rig)?;
    ensure!(log.contains("not known to be saved"), "nobody was told:\n{log}");
    Ok(())
}

#[test]
fn umount_by_force_frees_whoever_waits() -> Result<()> {
    let (rig, calls) = waiting_hard()?;
    let daemon = rig.mount.daemon()?;
    // It may say that it is busy: the users are being freed, and the daemon takes the name away.
    let ended = command::finish(
        std::process::Command::new("umount")
            .arg("-f")
            .arg(rig.mount.path()),
    )?;
    ensure!(ended.success() || ended.stderr.contains("busy"), "{ended:?}");
    ensure_freed(&rig, calls, daemon)
}

#[test]
fn lacuna_umount_by_force_frees_whoever_waits() -> Result<()> {
    let (rig, calls) = waiting_hard()?;
    let daemon = rig.mount.daemon()?;
    let ended = rig.mount.try_unmount(&["--force"])?;
    ensure!(
        ended.code == Some(1) && ended.stderr.contains("not known to be saved"),
        "{ended:?}"
    );
    ensure_freed(&rig, calls, daemon)
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
