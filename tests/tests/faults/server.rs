//! The server is killed at random moments under each tool, and comes back: no tool notices.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::wait;

use crate::tools::{self, Place, Tool};
use crate::{kills, seed};

/// From one start of the server to its end: some under way with the first handshake, some with a flush.
const LIFE_MS: (u64, u64) = (20, 900);

/// How long it is dead.
const DEATH_MS: (u64, u64) = (0, 300);

/// Runs `tool` again and again until the server was killed often enough.
fn killed_under(tool: Tool) -> Result<()> {
    let (seed, kills) = (seed()?, kills()?);
    let outcome = under_kills(tool, seed, kills);
    outcome.with_context(|| format!("replay: LACUNA_SEED={seed} LACUNA_KILLS={kills}"))
}

fn under_kills(tool: Tool, seed: u64, kills: u64) -> Result<()> {
    let mut rig = Rig::filled(|_| Ok(()))?;
    let place = Place::of(&rig)?;
    let mut random = Random::new(seed);
    let mut killed = 0;
    while killed < kills {
        thread::scope(|scope| -> Result<()> {
            let work = scope.spawn(|| tool(&place));
            let mut broken = Ok(());
            while broken.is_ok() && !work.is_finished() && killed < kills {
                broken = kill_once(&mut rig, &mut random, || work.is_finished());
                killed += 1;
            }
            let worked = work.join().map_err(|_| anyhow!("the tool panicked"))?;
            broken.with_context(|| format!("kill {killed}"))?;
            worked.with_context(|| format!("the tool failed after kill {killed}"))
        })?;
    }
    let status = rig.mount.status()?;
    ensure!(status.reconnects > 0, "no reconnect was counted");
    // It found all right; nothing of it is left.
    let left = std::fs::read_dir(&rig.dir)?.count();
    ensure!(left == 0, "{left} names are left at the server");
    Ok(())
}

/// Lets the server live for a while, or until there is nothing more to disturb, and kills it.
fn kill_once(rig: &mut Rig, random: &mut Random, finished: impl Fn() -> bool) -> Result<()> {
    let (life, death) = (
        Duration::from_millis(random.between(LIFE_MS.0, LIFE_MS.1)),
        Duration::from_millis(random.between(DEATH_MS.0, DEATH_MS.1)),
    );
    wait::at_most(life, finished);
    rig.server.kill()?;
    wait::for_as_long_as(death);
    rig.server.start_again()
}

#[test]
fn cp() -> Result<()> {
    killed_under(tools::cp)
}

#[test]
fn rsync() -> Result<()> {
    killed_under(tools::rsync)
}

#[test]
fn fio_verify() -> Result<()> {
    killed_under(tools::fio)
}

#[test]
fn qemu_img() -> Result<()> {
    killed_under(tools::qemu_img)
}

#[test]
fn an_ext4_on_a_loop_device() -> Result<()> {
    killed_under(tools::ext4)
}
