//! Transfers that are ended, or lose their server, in the middle.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileTypeExt;

use anyhow::{Result, ensure};
use lacuna_tests::{compare, wait};
use rustix::process::Signal;

use crate::{MIB, Running, Stage, make_fifo, moved, said, same, write_data};

#[test]
fn an_interrupted_pull_is_taken_up() -> Result<()> {
    const BYTES: u64 = 256 * MIB;
    let stage = Stage::new()?;
    write_data(&stage.original("v"), BYTES)?;
    let copy = stage.local("copy");
    let pull = Running::start(&mut stage.pull("v", &copy, &[])?)?;
    crate::wait_for_bytes(&copy, 4 * MIB)?;
    stage.server.process()?.send(Signal::STOP)?;
    pull.process()?.send(Signal::INT)?;
    let ended = pull.ended();
    stage.server.process()?.send(Signal::CONT)?;
    let ended = ended?;
    ensure!(ended.code == Some(1) && ended.stdout.is_empty(), "{ended:?}");
    said(&ended, &["interrupted", "copy", "--resume"])?;
    let kept = fs::metadata(&copy)?.len();
    ensure!((4 * MIB..BYTES).contains(&kept), "{kept} bytes were kept");
    let moved = moved(&mut stage.pull("v", &copy, &["--resume", "--verify"])?)?;
    ensure!(
        moved.same_bytes >= kept / MIB * MIB && moved.data_bytes < BYTES,
        "{moved:?}"
    );
    ensure!(moved.wire_bytes < BYTES - moved.same_bytes + 2 * MIB, "{moved:?}");
    same(&stage.original("v"), &copy)
}

/// A push from a FIFO, which goes as far as the test writes.
struct Slow {
    push: Running,
    input: File,
    content: Vec<u8>,
}

const SLOW_BYTES: u64 = 24 * MIB;

impl Slow {
    /// Half of it is at the server.
    fn half(stage: &Stage) -> Result<Self> {
        let (fifo, source) = (stage.local("fifo"), stage.local("source"));
        make_fifo(&fifo)?;
        write_data(&source, SLOW_BYTES)?;
        let content = fs::read(&source)?;
        let push = Running::start(&mut stage.push(&fifo, "v", &["--length", &SLOW_BYTES.to_string()])?)?;
        let mut input = File::options().write(true).open(&fifo)?;
        input.write_all(&content[..content.len() / 2])?;
        let file = stage.original("v");
        wait::until("half of it to arrive", wait::LIMIT, || {
            let allocated = compare::allocated_bytes(&file).unwrap_or(0);
            Ok(allocated >= SLOW_BYTES / 2 - 2 * MIB)
        })?;
        Ok(Self { push, input, content })
    }
}

#[test]
fn an_interrupted_push_is_taken_up() -> Result<()> {
    let stage = Stage::new()?;
    let slow = Slow::half(&stage)?;
    slow.push.process()?.send(Signal::INT)?;
    let ended = slow.push.ended()?;
    drop(slow.input);
    ensure!(ended.code == Some(1), "{ended:?}");
    said(&ended, &["interrupted", &stage.location("v"), "--resume"])?;
    let moved = moved(&mut stage.push(&stage.local("source"), "v", &["--resume", "--verify"])?)?;
    ensure!(moved.same_bytes >= SLOW_BYTES / 2 - 2 * MIB, "{moved:?}");
    ensure!(
        moved.wire_bytes < SLOW_BYTES - moved.same_bytes + MIB,
        "{moved:?}"
    );
    same(&stage.local("source"), &stage.original("v"))
}

#[test]
fn a_second_interrupt_waits_for_nothing() -> Result<()> {
    let stage = Stage::new()?;
    let mut slow = Slow::half(&stage)?;
    stage.server.process()?.send(Signal::STOP)?;
    // Not sent to a server that stands still, so that there is something to wait for.
    slow.input
        .write_all(&slow.content[slow.content.len() / 2..][..4 << 20])?;
    let process = slow.push.process()?;
    process.send(Signal::INT)?;
    let limit = wait::LIMIT / 2;
    wait::until("the second interrupt to end it", limit, || {
        // Two that come at once are one.
        let _ = process.send(Signal::INT);
        Ok(!process.lives())
    })?;
    let ended = slow.push.ended();
    stage.server.process()?.send(Signal::CONT)?;
    let ended = ended?;
    ensure!(
        ended.code == Some(1) && ended.stderr.contains("interrupted"),
        "{ended:?}"
    );
    Ok(())
}

#[test]
fn a_server_that_is_killed_in_the_middle_of_a_push_costs_nothing() -> Result<()> {
    let mut stage = Stage::new()?;
    let mut slow = Slow::half(&stage)?;
    let half = slow.content.len() / 2;
    stage.server.kill()?;
    // What the page cache of a lost machine would have lost.
    let file = File::options().write(true).open(stage.original("v"))?;
    rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        0,
        SLOW_BYTES / 2,
    )?;
    drop(file);
    stage.server.start_again()?;
    slow.input.write_all(&slow.content[half..])?;
    drop(slow.input);
    let ended = slow.push.ended()?;
    ensure!(ended.success(), "{ended:?}");
    same(&stage.local("source"), &stage.original("v"))
}

/// A hole that becomes zeros would take for ever.
#[test]
fn a_long_hole_into_a_pipe_can_be_interrupted() -> Result<()> {
    let stage = Stage::new()?;
    File::create_new(stage.original("v"))?.set_len(1 << 43)?;
    let mut pull = Running::start(&mut stage.pull("v", "/dev/null".as_ref(), &["--progress=json"])?)?;
    pull.says_something()?;
    pull.process()?.send(Signal::INT)?;
    let ended = pull.ended()?;
    ensure!(ended.code == Some(1), "{ended:?}");
    let last = ended.stderr.lines().last().unwrap_or_default();
    ensure!(
        last.contains("interrupted") && last.contains("/dev/null"),
        "{last}"
    );
    Ok(())
}

#[test]
fn nothing_is_interrupted_that_was_not_begun() -> Result<()> {
    let stage = Stage::with_sample()?;
    let fifo = stage.local("fifo");
    make_fifo(&fifo)?;
    let pull = Running::start(&mut stage.pull("v", &fifo, &[])?)?;
    let connected = || -> Result<bool> {
        Ok(stage
            .server
            .run(&stage.sandbox, &["clients"])?
            .text()?
            .contains("127.0.0.1"))
    };
    wait::until("the pull to connect", wait::LIMIT, connected)?;
    pull.process()?.send(Signal::TERM)?;
    let ended = pull.ended()?;
    ensure!(ended.code != Some(0) && ended.stdout.is_empty(), "{ended:?}");
    ensure!(
        fs::metadata(&fifo)?.file_type().is_fifo(),
        "the FIFO was replaced"
    );
    Ok(())
}
