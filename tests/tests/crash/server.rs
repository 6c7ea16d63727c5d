//! The server dies at random moments and comes back at the same place: the writer sees no error, and in the end
//! every name and every byte is as the model says, through the mount and at the server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use lacuna_tests::random::Random;
use lacuna_tests::rig::Rig;
use lacuna_tests::variable;
use lacuna_tests::wait;

use crate::writer::Writer;

/// One kill and the next: longer is a writer that stands still.
const LIMIT: Duration = Duration::from_secs(60);

fn under_a_writer(options: &[&str], seed: u64, kills: u64) -> Result<()> {
    let mut rig = Rig::filled_with(options, |_| Ok(()))?;
    let mut writer = Writer::new(rig.mount.path().to_owned(), seed);
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut random = Random::new(seed ^ 0xdead);
    let writer = thread::scope(|scope| -> Result<Writer> {
        let thread = scope.spawn(|| -> Result<Writer> {
            while !stop.load(Ordering::Acquire) {
                writer.step()?;
                done.fetch_add(1, Ordering::AcqRel);
            }
            Ok(writer)
        });
        let outcome = (0..kills).try_for_each(|kill| {
            let target = done.load(Ordering::Acquire) + random.between(1, 40);
            wait::until(&format!("the writer to go on before kill {kill}"), LIMIT, || {
                Ok(done.load(Ordering::Acquire) >= target || thread.is_finished())
            })?;
            ensure!(!thread.is_finished(), "the writer ended before kill {kill}");
            rig.restart_server()
        });
        stop.store(true, Ordering::Release);
        let writer = thread.join().map_err(|_| anyhow!("the writer panicked"))?;
        // What the writer met says more than that it ended.
        let writer = writer.context("the writer saw an error")?;
        outcome.map(|()| writer)
    })?;
    ensure!(rig.mount.status()?.reconnects > 0, "no reconnect was counted");
    writer
        .ensure_equal(rig.mount.path())
        .context("through the mount")?;
    let folder = rig.dir.clone();
    writer.close()?.ensure_equal(&folder).context("at the server")
}

#[test]
fn a_writer_sees_no_error_and_nothing_is_lost_or_done_twice() -> Result<()> {
    let seed = variable::number_or("LACUNA_SEED", 1)?;
    let kills = variable::number_or("LACUNA_KILLS", 100)?;
    under_a_writer(&[], seed, kills)
        .with_context(|| format!("replay: LACUNA_SEED={seed} LACUNA_KILLS={kills}"))
}

/// The same where the buffer is always full, so that the writer waits for the server all the time.
#[test]
fn a_small_buffer_loses_nothing_either() -> Result<()> {
    let seed = variable::number_or("LACUNA_SEED", 2)?;
    let kills = variable::number_or("LACUNA_KILLS", 100_u64)?.div_ceil(3);
    under_a_writer(&["dirty=4M"], seed, kills)
        .with_context(|| format!("replay: LACUNA_SEED={seed} LACUNA_KILLS={}", kills * 3))
}

/// Acknowledged bytes survive although the server was dead when they were written.
#[test]
fn what_was_written_while_the_server_was_dead_arrives() -> Result<()> {
    use std::os::unix::fs::FileExt;

    let mut rig = Rig::filled(|_| Ok(()))?;
    let volume = rig.mount.create("volume")?;
    volume.write_all_at(&[1; 100_000], 0)?;
    rig.server.kill()?;
    let content = Random::new(5).bytes(1 << 20);
    volume.write_all_at(&content, 50_000)?;
    let mut found = vec![0; content.len()];
    volume.read_exact_at(&mut found, 50_000)?;
    ensure!(
        found == content,
        "the bytes are not read back while the server is dead"
    );
    rig.server.start_again()?;
    volume.sync_all()?;
    let mut expected = vec![1; 50_000];
    expected.extend(&content);
    ensure!(
        std::fs::read(rig.original("volume"))? == expected,
        "the server's file differs after it came back"
    );
    Ok(())
}

/// What the server had taken, and not yet flushed, when it was killed is still covered by the next fsync.
#[test]
fn an_fsync_after_a_restart_covers_what_was_sent_before() -> Result<()> {
    use std::os::unix::fs::FileExt;

    let mut rig = Rig::filled(|_| Ok(()))?;
    let volume = rig.mount.create("volume")?;
    for round in 0..5 {
        let content = Random::new(round).bytes(300_000);
        volume.write_all_at(&content, round * 100_000)?;
        wait::until("the bytes to be sent", wait::LIMIT, || {
            Ok(rig.mount.status()?.dirty_bytes == 0
                || std::fs::metadata(rig.original("volume"))?.len() >= round * 100_000 + 300_000)
        })?;
        rig.restart_server()?;
        volume.sync_all()?;
        let mut found = vec![0; content.len()];
        std::fs::File::open(rig.original("volume"))?.read_exact_at(&mut found, round * 100_000)?;
        ensure!(
            found == content,
            "round {round}: the server's file differs after the fsync"
        );
    }
    Ok(())
}

/// A volume that is open goes on after a restart under the name that it has now, and so does one below a folder.
#[test]
fn an_open_volume_with_another_name_goes_on() -> Result<()> {
    use std::fs;
    use std::os::unix::fs::FileExt;

    let mut rig = Rig::filled(|_| Ok(()))?;
    fs::create_dir(rig.volume("folder"))?;
    let (volume, below) = (rig.mount.create("volume")?, rig.mount.create("folder/volume")?);
    for file in [&volume, &below] {
        file.write_all_at(&[1; 10_000], 0)?;
        file.sync_all()?;
    }
    fs::rename(rig.volume("volume"), rig.volume("renamed"))?;
    fs::rename(rig.volume("folder"), rig.volume("elsewhere"))?;
    rig.restart_server()?;
    for (name, file) in [("renamed", &volume), ("elsewhere/volume", &below)] {
        let go_on = || -> Result<()> {
            file.write_all_at(&[2; 1000], 5000)?;
            file.set_len(8000)?;
            lacuna_tests::reshape::punch(file, 0, 4096)?;
            Ok(file.sync_all()?)
        };
        go_on().with_context(|| format!("{name} after the restart"))?;
        let mut expected = vec![0; 4096];
        expected.resize(5000, 1);
        expected.resize(6000, 2);
        expected.resize(8000, 1);
        ensure!(
            fs::read(rig.original(name))? == expected,
            "{name}: the server's file differs"
        );
    }
    Ok(())
}
