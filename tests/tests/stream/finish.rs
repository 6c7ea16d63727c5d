//! The end of a stream, and what can come in between.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::thread;

use anyhow::{Context, Result, ensure};
use lacuna_tests::{command, wait};

use crate::{MIB, Stage, ensure_equal, joined};

/// A stage on which `bytes` were written at 1 MiB, and what the volume is then.
fn written(options: &str, serve: &[&str], bytes: &[u8]) -> Result<(Stage, Vec<u8>)> {
    let stage = Stage::new(options, serve)?;
    let file = stage.mount.open_for_writing("disk")?;
    file.write_all_at(bytes, MIB)?;
    file.sync_all()?;
    let mut expected = vec![0; 4 << 20];
    expected[1 << 20..][..bytes.len()].copy_from_slice(bytes);
    Ok((stage, expected))
}

#[test]
fn nobody_reads_is_said_and_it_goes_on_with_a_reader() -> Result<()> {
    let (stage, expected) = written("size=4M", &[], b"here")?;
    let ended = stage.lacuna("finish", &["--timeout", "1"])?;
    ensure!(ended.code == Some(1), "{ended:?}");
    ensure!(
        ended.stderr.contains("nobody reads the pipe") && ended.stderr.contains("stands still at 0"),
        "{}",
        ended.stderr
    );
    let reader = stage.reader();
    let ended = stage.lacuna("finish", &["--json"])?;
    ensure!(ended.success(), "{}", ended.stderr);
    let said: serde_json::Value = serde_json::from_str(ended.text()?)?;
    ensure!(
        said["state"] == "finished" && said["position"] == 4 * MIB,
        "{said}"
    );
    ensure_equal(&joined(reader)?, &expected)
}

#[test]
fn a_reader_that_goes_away_is_an_error_and_the_spool_stays() -> Result<()> {
    let (stage, _) = written("size=4M", &[], b"here")?;
    let pipe = stage.pipe();
    let reader = thread::spawn(move || Ok(File::open(pipe)?.read_exact(&mut [0; 100])?));
    let ended = stage.lacuna("finish", &[])?;
    joined(reader)?;
    ensure!(ended.code == Some(1), "{ended:?}");
    ensure!(ended.stderr.contains("went away after"), "{}", ended.stderr);
    ensure!(stage.spool().exists(), "the spool is gone");
    ensure!(
        stage.server.log().contains("went away after"),
        "the log is silent"
    );
    let report = stage.stream()?;
    ensure!(report["state"] == "failed", "{report}");
    let file = stage.mount.open_for_writing("disk")?;
    file.write_all_at(b"more", 3 * MIB)?;
    file.sync_all().context("the spool has room")
}

#[test]
fn umount_finishes_it_if_asked_to() -> Result<()> {
    for (options, serve) in [
        ("size=4M,finish-on-umount", &[][..]),
        ("size=4M", &["--finish-on-umount"][..]),
    ] {
        let (stage, expected) = written(options, serve, b"here")?;
        let reader = stage.reader();
        let report = stage.stream()?;
        ensure!(report["state"] == "open", "a look finished it: {report}");
        // Not flushed: the unmount does that.
        let file = stage.mount.open_for_writing("disk")?;
        file.write_all_at(b"last", 3 * MIB)?;
        drop(file);
        command::run(
            stage
                .mount
                .client()
                .command()?
                .arg("umount")
                .arg(stage.mount.path()),
        )?;
        let mut expected = expected;
        expected[3 << 20..][..4].copy_from_slice(b"last");
        ensure_equal(&joined(reader)?, &expected)?;
    }
    Ok(())
}

#[test]
fn a_client_that_is_killed_does_not_finish_it() -> Result<()> {
    let (stage, expected) = written("size=4M,finish-on-umount", &[], b"here")?;
    let daemon = stage.mount.daemon()?;
    daemon.send(rustix::process::Signal::KILL)?;
    wait::until("the client to end", wait::LIMIT, || Ok(!daemon.lives()))?;
    let report = stage.stream()?;
    ensure!(report["state"] == "open", "{report}");
    ensure_equal(&stage.finish(stage.reader())?, &expected)
}

#[test]
fn a_mount_that_lost_something_does_not_finish_it() -> Result<()> {
    let stage = Stage::new("size=64M,spool=33M,finish-on-umount", &[])?;
    let reader = stage.reader();
    let file = stage.mount.open_for_writing("disk")?;
    let mut expected = vec![1; 48 << 20];
    file.write_all_at(&expected, 0)?;
    file.sync_all()?;
    file.write_all_at(&[2; 4096], 0)?;
    drop(file);
    let mut umount = stage.mount.client().command()?;
    let ended = command::finish(umount.arg("umount").arg(stage.mount.path()))?;
    ensure!(
        ended.code == Some(1) && ended.stderr.contains("disk"),
        "what was lost is not told: {ended:?}"
    );
    wait::until("the client to end", wait::LIMIT, || {
        Ok(!stage.mount.is_mounted()?)
    })?;
    let report = stage.stream()?;
    ensure!(report["state"] == "open", "{report}");
    expected.resize(64 << 20, 0);
    ensure_equal(&stage.finish(reader)?, &expected)
}

#[test]
fn a_server_that_is_killed_before_anything_went_out_goes_on() -> Result<()> {
    let (mut stage, mut expected) = written("size=4M", &[], b"here")?;
    let file = stage.mount.open_for_writing("disk")?;
    file.write_all_at(b"unflushed", 2 * MIB)?;
    stage.server.kill()?;
    stage.server.start_again()?;
    file.write_all_at(b"after", 3 * MIB)?;
    file.sync_all()?;
    expected[2 << 20..][..9].copy_from_slice(b"unflushed");
    expected[3 << 20..][..5].copy_from_slice(b"after");
    ensure_equal(&stage.finish(stage.reader())?, &expected)
}

#[test]
fn a_server_that_is_killed_after_that_says_what_is_left() -> Result<()> {
    let (mut stage, expected) = written("size=4M", &[], &[7; 1 << 20])?;
    let pipe = stage.pipe();
    // A reader that takes a little and then nothing, until the server is gone.
    let reader = thread::spawn(move || {
        let mut pipe = File::open(pipe)?;
        pipe.read_exact(&mut [0; 100])?;
        Ok(pipe)
    });
    ensure!(
        !stage.lacuna("finish", &["--timeout", "1"])?.success(),
        "it is finished"
    );
    let taken = joined(reader)?;
    stage.server.kill()?;
    drop(taken);
    stage.server.start_again()?;
    let report = stage.stream()?;
    ensure!(report["state"] == "failed", "{report}");
    let ended = stage.lacuna("finish", &[])?;
    ensure!(
        ended.code == Some(1) && ended.stderr.contains("nobody knows how many"),
        "{ended:?}"
    );
    let kept = fs::read(stage.spool())?;
    ensure!(kept.len() == expected.len(), "the spool is another one");
    Ok(())
}

#[test]
fn what_is_no_stream_has_no_end() -> Result<()> {
    let stage = Stage::new("size=1M", &[])?;
    let file = format!("{}/file", stage.server.address());
    let client = stage.mount.client();
    let ended = command::finish(client.command()?.args(["finish", &file]))?;
    ensure!(
        ended.code == Some(1) && ended.stderr.contains("'file' is not a stream"),
        "{ended:?}"
    );
    let stat = command::run(client.command()?.args(["stat", &file, "--json"]))?;
    let stat: serde_json::Value = serde_json::from_str(stat.text()?)?;
    ensure!(stat["size"] == 9 && stat.get("stream").is_none(), "{stat}");
    let mut writer = stage.mount.open_for_writing("file")?;
    writer.write_all(b"is a file")?;
    Ok(writer.sync_all()?)
}
