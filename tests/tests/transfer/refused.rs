//! What is refused, before anything is made or changed.

use std::fs::{self, File};

use anyhow::{Result, ensure};
use lacuna_tests::command;

use crate::{MIB, SAMPLE_BYTES, Stage, make_fifo, refused, same, write_data, write_sample};

#[test]
fn pulls_that_cannot_be_leave_the_target_alone() -> Result<()> {
    let stage = Stage::with_sample()?;
    let old = stage.local("old");
    write_data(&old, MIB)?;
    let before = fs::read(&old)?;
    let new = stage.local("new");
    fs::create_dir(stage.original("folder"))?;
    let size = SAMPLE_BYTES.to_string();
    for target in [&old, &new] {
        let pull = |volume: &str, options: &[&str], words: &[&str]| {
            refused(&mut stage.pull(volume, target, options)?, words)
        };
        pull("v", &["--length", "65M"], &["68157440", &size])?;
        pull("v", &["--offset", "65M"], &["68157440", &size])?;
        pull(
            "v",
            &["--offset", "64M", "--length", "1001"],
            &["67109865", &size],
        )?;
        pull("v", &["--window", "1M"], &["--window", "4 MiB"])?;
        pull("v", &["--resume", "--format=lacuna"], &["--resume"])?;
        pull("none", &[], &["none"])?;
        pull("folder", &[], &["folder", "not a volume"])?;
        pull("", &[], &["no volume is named"])?;
    }
    ensure!(fs::read(&old)? == before, "the target changed");
    ensure!(!new.exists(), "a target was made");
    refused(
        &mut stage.pull("v", &stage.local("none/new"), &[])?,
        &["none/new"],
    )?;
    refused(&mut stage.pull("v", stage.sandbox.path(), &[])?, &["directory"])?;
    refused(&mut stage.pull("v", "-".as_ref(), &["--delta"])?, &["--delta"])?;
    let full = stage.pull("v", "/dev/full".as_ref(), &[])?;
    refused(&mut { full }, &["/dev/full", "No space"])
}

#[test]
fn pushes_that_cannot_be_leave_the_volume_alone() -> Result<()> {
    let stage = Stage::with_sample()?;
    let copy = stage.local("copy");
    write_sample(&copy, 1)?;
    let source = stage.local("source");
    write_data(&source, MIB)?;
    let size = SAMPLE_BYTES.to_string();
    let push = |options: &[&str], words: &[&str]| refused(&mut stage.push(&source, "v", options)?, words);
    push(&["--offset", "64M"], &["68157440", &size, "--resize"])?;
    push(&["--length", "2M"], &["1048576", "2097152"])?;
    push(&["--offset", "16777215T", "--resize"], &["beyond any volume"])?;
    push(
        &["--format=lacuna"],
        &["source", "not a stream of lacuna records"],
    )?;
    push(&["--window", "4194303"], &["--window", "4 MiB"])?;
    refused(&mut stage.push(stage.sandbox.path(), "v", &[])?, &["is a folder"])?;
    refused(&mut stage.push(&stage.local("none"), "v", &[])?, &["none"])?;
    refused(&mut stage.push(&source, "none/v", &[])?, &["none"])?;
    refused(&mut stage.push(&stage.local("none"), "new", &[])?, &["none"])?;
    ensure!(!stage.original("new").exists(), "a volume was made");
    same(&copy, &stage.original("v"))
}

#[test]
fn wrong_usage_has_exit_code_2() -> Result<()> {
    let stage = Stage::with_sample()?;
    let copy = stage.local("copy");
    for options in [
        &["--sparse=sometimes"][..],
        &["--offset", "-1"],
        &["--length", "1X"],
        &["--format=qcow2"],
    ] {
        let ended = command::finish(&mut stage.pull("v", &copy, options)?)?;
        ensure!(ended.code == Some(2) && ended.stdout.is_empty(), "{ended:?}");
    }
    ensure!(!copy.exists(), "a target was made");
    Ok(())
}

/// A client that may only read is told before the source is opened, which would wait for a FIFO.
#[test]
fn a_client_that_may_only_read_pulls_and_does_not_push() -> Result<()> {
    let stage = Stage::with_sample()?;
    let key = stage.client.key()?;
    stage.server.run(&stage.sandbox, &["revoke", &key])?;
    stage
        .server
        .run(&stage.sandbox, &["allow", &key, "--read-only"])?;
    let fifo = stage.local("fifo");
    make_fifo(&fifo)?;
    refused(&mut stage.push(&fifo, "v", &[])?, &["takes no changes"])?;
    let copy = stage.local("copy");
    command::run(&mut stage.pull("v", &copy, &["--verify"])?)?;
    same(&stage.original("v"), &copy)
}

#[test]
fn a_server_without_space_is_told() -> Result<()> {
    let sandbox = lacuna_tests::sandbox::Sandbox::new()?;
    let backing = lacuna_tests::backing::Backing::tmpfs(&sandbox, 8 * MIB)?;
    let dir = backing.served().to_owned();
    let stage = Stage::over(sandbox, dir)?;
    let source = stage.local("source");
    write_data(&source, 16 * MIB)?;
    File::create_new(stage.original("v"))?.set_len(16 * MIB)?;
    let ended = command::finish(&mut stage.push(&source, "v", &[])?)?;
    let last = ended.stderr.lines().last().unwrap_or_default();
    ensure!(
        ended.code == Some(1) && last.contains("No space left"),
        "{ended:?}"
    );
    drop(stage);
    drop(backing);
    Ok(())
}
