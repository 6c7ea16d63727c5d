//! `umount -l` of a mount that is in use.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::{command, mount_table, samples, wait};

use crate::MIB;

const BLOCK_BYTES: usize = 64 << 10;

fn rig(options: &[&str]) -> Result<Rig> {
    Rig::filled_with(options, |dir| {
        samples::write_sparse(&dir.join("volume"), 8 * MIB, 87, [(0, 8 * MIB)])
    })
}

/// Nothing of the mount is left, and its daemon has ended.
fn ensure_gone(rig: &Rig, daemon: lacuna_tests::process::Process) -> Result<()> {
    wait::until("the daemon to end", wait::LIMIT, || Ok(!daemon.lives()))?;
    mount_table::detach_below(rig.mount.path());
    ensure!(!rig.mount.is_mounted()?, "still mounted");
    // The same place can be used again.
    rig.mount.mount_again(&rig.server, &[])?;
    ensure!(rig.volume("volume").exists(), "the new mount shows nothing");
    Ok(())
}

/// The name is gone at once; who has it open works on, and the last close ends the daemon, with every byte saved.
#[test]
fn lazily_under_load() -> Result<()> {
    let rig = rig(&[])?;
    let daemon = rig.mount.daemon()?;
    let (volume, written) = (rig.mount.open("volume")?, rig.mount.create("written")?);
    let content = Random::new(88).bytes(BLOCK_BYTES);
    let (stop, blocks) = (AtomicBool::new(false), AtomicU64::new(0));
    let going_on = |more: u64| -> Result<()> {
        let target = blocks.load(Ordering::Acquire) + more;
        wait::until("the processes to go on", wait::LIMIT, || {
            Ok(blocks.load(Ordering::Acquire) >= target)
        })
    };
    thread::scope(|scope| -> Result<()> {
        let load = scope.spawn(|| -> Result<()> {
            let original = std::fs::File::open(rig.original("volume"))?;
            let mut number = 0;
            while !stop.load(Ordering::Acquire) {
                let at = number * u64::try_from(BLOCK_BYTES)?;
                written.write_all_at(&content, at)?;
                let part = at % (8 * MIB);
                lacuna_tests::compare::same_range(&original, &volume, part, part + 4096)?;
                number += 1;
                blocks.store(number, Ordering::Release);
            }
            Ok(())
        });
        let unmounted = going_on(20).and_then(|()| {
            command::tool("umount", ["-l".as_ref(), rig.mount.path()])?;
            ensure!(!rig.mount.is_mounted()?, "still mounted");
            going_on(20)
        });
        stop.store(true, Ordering::Release);
        load.join().map_err(|_| anyhow!("the load panicked"))??;
        unmounted
    })?;
    ensure!(daemon.lives(), "the daemon ended while volumes are open");
    drop((volume, written));
    ensure_gone(&rig, daemon)?;
    let found = std::fs::read(rig.original("written"))?;
    ensure!(
        found == content.repeat(usize::try_from(blocks.load(Ordering::Acquire))?),
        "the server's file differs"
    );
    Ok(())
}
