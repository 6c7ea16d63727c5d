//! `lacuna status`: what was written, sent and lost.

use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use lacuna_tests::command;
use lacuna_tests::rig::Rig;
use serde_json::Value;

use crate::{MIB, data};

fn object(rig: &Rig) -> Result<Value> {
    let mut line = rig.mount.client().command()?;
    let ended = command::run(line.arg("status").arg(rig.mount.path()).arg("--json"))?;
    let list: Vec<Value> = serde_json::from_slice(&ended.stdout)?;
    list.into_iter().next().context("no mount")
}

#[test]
fn sent_and_lost_bytes_are_told() -> Result<()> {
    let rig = Rig::filled(|_| Ok(()))?;
    let before = object(&rig)?;
    assert_eq!(before["sent_bytes"], 0);
    assert_eq!(before["lost_bytes"], 0);
    let volume = rig.mount.create("volume")?;
    volume.write_all_at(&data(3 * MIB)?, 0)?;
    volume.sync_all()?;
    let after = object(&rig)?;
    assert_eq!(after["sent_bytes"], 3 * MIB);
    assert_eq!(after["dirty_bytes"], 0);
    assert_eq!(after["lost_bytes"], 0);
    Ok(())
}

#[test]
fn people_see_what_is_dirty() -> Result<()> {
    let mut rig = Rig::filled(|_| Ok(()))?;
    rig.mount.create("volume")?.write_all_at(&data(3 * MIB)?, 0)?;
    rig.server.kill()?;
    let mut line = rig.mount.client().command()?;
    let ended = command::run(line.arg("status").arg(rig.mount.path()))?;
    let text = ended.text()?;
    let written = text.lines().find(|line| line.contains("written"));
    let written = written.context("no line")?;
    ensure!(
        written.contains("3 MiB, 3 MiB sent, 3 MiB not flushed yet"),
        "{written}"
    );
    rig.start_server()
}
