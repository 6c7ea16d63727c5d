//! A daemon that is suspended for longer than a session lives without a packet, and goes on: no process notices more
//! than the wait.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use lacuna_tests::compare::{self, Reading};
use lacuna_tests::process::Process;
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::{samples, variable, wait};

use crate::MIB;

const SIZE: u64 = 24 * MIB;
const BLOCK_BYTES: usize = 64 << 10;

/// One process reads what nobody has read, another one writes and flushes, while `daemon` is suspended.
fn suspended(daemon: impl FnOnce(&Rig) -> Result<Process>) -> Result<()> {
    let seconds = variable::number_or("LACUNA_SUSPENDED", 18)?;
    // A wait that is longer than the fault: the default is for shorter ones than the long run makes.
    let patience = format!("timeout={}", seconds + 12);
    let rig = Rig::filled_with(&[&patience, "cache=16M"], |dir| {
        samples::write_sparse(&dir.join("read"), SIZE, 85, [(0, SIZE)])
    })?;
    let written = rig.mount.create("written")?;
    written.write_all_at(&[1; 4096], 0)?;
    written.sync_all()?;
    let content = Random::new(86).bytes(BLOCK_BYTES);
    let blocks = SIZE / u64::try_from(BLOCK_BYTES)?;
    let fault = daemon(&rig)?.suspend()?;
    thread::scope(|scope| -> Result<()> {
        let reader = scope
            .spawn(|| compare::same_bytes(&rig.original("read"), &rig.volume("read"), Reading::Everything));
        let writer = scope.spawn(|| -> Result<()> {
            for number in 0..blocks / 4 {
                written.write_all_at(&content, number * u64::try_from(BLOCK_BYTES)?)?;
            }
            Ok(written.sync_all()?)
        });
        wait::at_most(Duration::from_secs(seconds), || false);
        let early = reader.is_finished() || writer.is_finished();
        drop(fault);
        for process in [reader, writer] {
            process.join().map_err(|_| anyhow!("a process panicked"))??;
        }
        ensure!(!early, "a process ended while the daemon was suspended");
        Ok(())
    })?;
    let original = File::open(rig.original("written"))?;
    for number in 0..blocks / 4 {
        let mut found = vec![0; BLOCK_BYTES];
        original.read_exact_at(&mut found, number * u64::try_from(BLOCK_BYTES)?)?;
        ensure!(found == content, "block {number} differs at the server");
    }
    let status = rig.mount.status()?;
    ensure!(status.connected, "not connected: {status:?}");
    Ok(())
}

#[test]
fn the_server() -> Result<()> {
    suspended(|rig| rig.server.process())
}

#[test]
fn the_client() -> Result<()> {
    suspended(|rig| rig.mount.daemon())
}
