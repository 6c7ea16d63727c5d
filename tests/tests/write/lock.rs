//! flock(2) and fcntl(2) through two mounts of two clients: they hold across hosts, as on one.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use lacuna_tests::locker::{INTERRUPTED, Locker, REFUSED};
use lacuna_tests::mount::{Client, Mount};
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, host, wait};
use rustix::process::Signal;

use crate::MIB;

/// A second host, and the server with the first one. Ends before it.
struct Hosts {
    other: Mount,
    rig: Rig,
}

impl Hosts {
    fn with(options: &[&str]) -> Result<Self> {
        host::require_programs(&["perl"])?;
        let rig = Rig::filled_with(options, |dir| {
            Ok(std::fs::File::create(dir.join("v"))?.set_len(MIB)?)
        })?;
        let client = Client::new(&rig.sandbox, "other-client")?;
        rig.server.allow(&rig.sandbox, &client.key()?)?;
        client.trust(&rig.server)?;
        let mountpoint = rig.sandbox.join("other");
        let other = Mount::new(&client, &rig.server, OsStr::new(""), mountpoint, options)?;
        Ok(Self { other, rig })
    }

    fn start() -> Result<Self> {
        Self::with(&[])
    }

    /// A process of the first host, which may write.
    fn here(&self) -> Result<Locker> {
        Locker::with(&self.rig.sandbox, "rw", &self.rig.volume("v"))
    }

    /// One of the second host, which may not: one host writes at a time.
    fn there(&self) -> Result<Locker> {
        Locker::with(&self.rig.sandbox, "r", &self.other.join("v"))
    }
}

#[test]
fn flock_holds_across_hosts() -> Result<()> {
    let hosts = Hosts::start()?;
    let (mut one, mut two, mut near) = (hosts.here()?, hosts.there()?, hosts.here()?);
    one.does("flock v sh")?;
    two.does("flock v sh")?;
    two.is_refused("flock v ex")?;
    near.is_refused("flock v ex")?;
    // Taking another kind gives up the first, on Linux too.
    two.does("flock v un")?;
    one.does("flock v ex")?;
    two.is_refused("flock v sh")?;
    near.is_refused("flock v sh")?;
    one.does("flock v un")?;
    two.does("flock v ex")?;
    one.is_refused("flock v sh")?;
    // fcntl(2) is another matter, as on one host.
    one.does("posix v ex 0 0")?;
    two.does("close v")?;
    // The kernel tells of a close that gives up a flock a moment after it.
    wait::until("the lock that a close gave up", wait::LIMIT, || {
        Ok(one.does("flock v ex").is_ok())
    })
}

#[test]
fn ranges_of_fcntl_hold_across_hosts() -> Result<()> {
    let hosts = Hosts::start()?;
    let (mut one, mut two) = (hosts.here()?, hosts.there()?);
    for call in ["posix", "ofd"] {
        one.does(&format!("{call} v ex 0 100"))?;
        two.is_refused(&format!("{call} v sh 99 1"))?;
        two.does(&format!("{call} v sh 100 1"))?;
        // Split, and joined again.
        one.does(&format!("{call} v un 40 20"))?;
        two.does(&format!("{call} v sh 40 20"))?;
        two.is_refused(&format!("{call} v sh 39 1"))?;
        two.is_refused(&format!("{call} v sh 60 1"))?;
        one.is_refused(&format!("{call} v ex 0 100"))?;
        two.does(&format!("{call} v un 40 20"))?;
        one.does(&format!("{call} v ex 0 100"))?;
        one.does(&format!("{call} v sh 0 100"))?;
        two.does(&format!("{call} v sh 0 0"))?;
        one.is_refused(&format!("{call} v ex 1000 1"))?;
        for locker in [&mut one, &mut two] {
            locker.does(&format!("{call} v un 0 0"))?;
        }
    }
    Ok(())
}

#[test]
fn getlk_names_what_stands_in_the_way() -> Result<()> {
    let hosts = Hosts::start()?;
    let (mut one, mut near, mut two) = (hosts.here()?, hosts.here()?, hosts.there()?);
    one.does("posix v ex 10 20")?;
    one.does("posix v sh 50 0")?;
    let process = one.process()?.number();
    ensure!(near.says("test v ex 0 0")? == format!("1 10 20 {process}"));
    ensure!(near.says("test v ex 60 1")? == format!("0 50 0 {process}"));
    ensure!(near.says("test v sh 60 1")? == "free");
    // A process of another host has no number here.
    ensure!(two.says("test v sh 0 0")? == "1 10 20 0");
    ensure!(one.says("test v ex 0 0")? == "free");
    Ok(())
}

/// POSIX locks go with any descriptor of the process, those of flock(2) and of open files with the last one.
#[test]
fn locks_go_with_the_descriptor_and_with_the_process() -> Result<()> {
    let hosts = Hosts::start()?;
    let (mut one, mut two) = (hosts.here()?, hosts.there()?);
    one.open("w", "rw", &hosts.rig.volume("v"))?;
    one.does("posix v ex 0 10")?;
    one.does("close w")?;
    two.does("posix v sh 0 10")?;
    two.does("posix v un 0 10")?;
    one.open("w", "rw", &hosts.rig.volume("v"))?;
    one.does("ofd v ex 0 10")?;
    one.does("flock v ex")?;
    one.does("close w")?;
    two.is_refused("ofd v sh 0 10")?;
    two.is_refused("flock v sh")?;
    one.does("close v")?;
    until_it_is_free(&mut two, "ofd v sh 0 10")?;
    until_it_is_free(&mut two, "flock v sh")?;
    for line in ["flock v ex", "ofd v ex 5 5", "posix v ex 5 5"] {
        let mut three = hosts.here()?;
        three.open("w", "rw", &hosts.rig.volume("v"))?;
        for free in ["flock v un", "ofd v un 0 0", "posix v un 0 0"] {
            two.does(free)?;
        }
        three.does(line)?;
        let tried = line.replace("ex", "sh");
        two.is_refused(&tried)?;
        three.kill()?;
        until_it_is_free(&mut two, &tried).with_context(|| format!("{line}, killed"))?;
    }
    Ok(())
}

/// The kernel closes files in the background.
fn until_it_is_free(locker: &mut Locker, line: &str) -> Result<()> {
    wait::until(
        "a lock to be free",
        wait::LIMIT,
        || Ok(locker.says(line)? == "ok"),
    )
}

#[test]
fn who_waits_gets_the_lock_when_it_is_given_up() -> Result<()> {
    let hosts = Hosts::start()?;
    let (mut one, mut near, mut two) = (hosts.here()?, hosts.here()?, hosts.there()?);
    one.does("flock v ex")?;
    one.does("ofd v ex 7 1")?;
    two.begin("flock v ex-wait")?;
    near.begin("ofd-wait v ex 0 0")?;
    two.until_it_waits()?;
    near.until_it_waits()?;
    one.does("flock v un")?;
    ensure!(two.said()? == "ok", "the other host does not get it");
    one.kill()?;
    ensure!(near.said()? == "ok", "a process of the same host does not get it");
    Ok(())
}

#[test]
fn a_signal_ends_a_wait_and_a_deadline_does() -> Result<()> {
    let hosts = Hosts::with(&["timeout=3"])?;
    let (mut one, mut two, mut three) = (hosts.here()?, hosts.there()?, hosts.there()?);
    one.does("flock v ex")?;
    for (locker, line) in [(&mut two, "flock v ex-wait"), (&mut three, "flock v ex-wait")] {
        locker.begin(line)?;
        locker.until_it_waits()?;
    }
    // A handler without SA_RESTART.
    two.process()?.send(Signal::USR1)?;
    ensure!(two.said()? == INTERRUPTED, "a signal does not end the wait");
    three.kill()?;
    let said = two.says("flock v ex-wait")?;
    ensure!(said == REFUSED, "after the deadline: {said}");
    Ok(())
}

#[test]
fn unmounting_gives_up_what_was_held() -> Result<()> {
    let hosts = Hosts::start()?;
    let mut one = hosts.here()?;
    let mut two = hosts.there()?;
    two.does("flock v ex")?;
    one.is_refused("flock v ex")?;
    two.kill()?;
    let ended = hosts.other.try_unmount(&[])?;
    ensure!(ended.success(), "{}", ended.stderr);
    one.does("flock v ex")
}

/// Through a server that is killed and comes back; nobody gets in between.
#[test]
fn locks_outlive_the_session_and_the_server() -> Result<()> {
    let mut hosts = Hosts::start()?;
    let (mut one, mut two) = (hosts.here()?, hosts.there()?);
    one.does("flock v ex")?;
    one.does("ofd v ex 5 5")?;
    hosts.rig.server.process()?.send(Signal::STOP)?;
    two.begin("flock v sh")?;
    two.until_it_waits()?;
    hosts.rig.server.process()?.send(Signal::CONT)?;
    ensure!(two.said()? == REFUSED);
    for _ in 0..2 {
        hosts.rig.restart_server()?;
        two.is_refused("flock v sh")?;
        two.is_refused("ofd v sh 0 0")?;
    }
    one.does("flock v un")?;
    one.does("ofd v un 0 0")?;
    // Once those who held locks had the time to come back.
    two.does("flock v ex")?;
    two.does("ofd v sh 0 0")
}

/// What was written under a lock is read under the next one.
#[test]
fn a_lock_passes_on_what_was_written_under_it() -> Result<()> {
    let hosts = Hosts::start()?;
    let mut counter = hosts.rig.mount.open_for_writing("v")?;
    let mut reader = hosts.there()?;
    let other = hosts.other.join("v");
    let lock = |file: &std::fs::File, operation| rustix::fs::flock(file, operation);
    use rustix::fs::FlockOperation::{LockExclusive, Unlock};
    for round in 1..=50_u8 {
        lock(&counter, LockExclusive)?;
        std::io::Seek::rewind(&mut counter)?;
        counter.write_all(&[round; 16])?;
        lock(&counter, Unlock)?;
        reader.does("flock v sh")?;
        let mut bytes = [0; 16];
        std::fs::File::open(&other)?.read_exact(&mut bytes)?;
        ensure!(bytes == [round; 16], "round {round}: {bytes:?}");
        reader.does("flock v un")?;
    }
    Ok(())
}

/// QEMU keeps an image that is open for writing from others, on another host as on its own.
#[test]
fn qemu_protects_an_image_as_it_does_locally() -> Result<()> {
    host::require_programs(&["qemu-img", "qemu-io"])?;
    let hosts = Hosts::start()?;
    let local = hosts.rig.sandbox.join("local");
    // In a raw one QEMU lets others write, too.
    for image in [&local, &hosts.rig.original("image")] {
        let mut create = hosts.rig.sandbox.command("qemu-img");
        command::run(create.args(["create", "-q", "-f", "qcow2"]).arg(image).arg("1M"))?;
    }
    let volume = hosts.rig.volume("image");
    let said = |image: &Path, options: &[&str]| {
        let mut info = hosts.rig.sandbox.command("qemu-img");
        command::finish(info.arg("info").args(options).arg(image))
    };
    let mut refusals = Vec::new();
    for (open, looked_at) in [
        (&local, local.clone()),
        (&volume, volume.clone()),
        (&volume, hosts.other.join("image")),
    ] {
        let mut writer = hosts.rig.sandbox.command("qemu-io");
        let mut writer = writer
            .args(["-f", "qcow2"])
            .arg(open)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let mut refused = None;
        let locked = wait::until("QEMU to lock the image", wait::LIMIT, || {
            let ended = said(&looked_at, &[])?;
            refused = (!ended.success()).then_some(ended.stderr);
            Ok(refused.is_some())
        });
        let shared = said(&looked_at, &["-U"]);
        drop(writer.stdin.take());
        writer.wait()?;
        locked?;
        ensure!(shared?.success(), "--force-share is refused");
        let text = refused.unwrap_or_default();
        refusals.push(text.replace(&looked_at.display().to_string(), "IMAGE"));
        ensure!(said(&looked_at, &[])?.success(), "still locked");
    }
    ensure!(
        refusals[0].contains("Failed to get shared \"write\" lock"),
        "{refusals:?}"
    );
    ensure!(refusals.iter().all(|text| *text == refusals[0]), "{refusals:?}");
    Ok(())
}
