//! The client's key and pins, corrupt or unreadable: refused, named, never overwritten.

use std::fs;

use anyhow::{Result, ensure};
use lacuna_tests::random::Random;

use crate::Stage;

#[test]
fn corrupt_state_is_refused_and_kept() -> Result<()> {
    let stage = Stage::new()?;
    let mut tried = 0;
    for entry in fs::read_dir(stage.client.state())? {
        let path = entry?.path();
        if !path.is_file() || fs::metadata(&path)?.len() == 0 {
            continue;
        }
        let good = fs::read(&path)?;
        for rubbish in [Random::new(72).bytes(200), good[..good.len() / 2].to_vec()] {
            fs::write(&path, &rubbish)?;
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            stage.ensure_refused(&stage.mount(stage.spec())?, &[&name])?;
            ensure!(fs::read(&path)? == rubbish, "{name} was overwritten");
        }
        fs::write(&path, good)?;
        tried += 1;
    }
    ensure!(tried >= 2, "only {tried} files of state");
    stage.ensure_serves()
}

/// A private key that others may read is not used.
#[test]
fn keys_are_private() -> Result<()> {
    use std::os::unix::fs::MetadataExt;

    let stage = Stage::new()?;
    let mut state: Vec<_> = fs::read_dir(stage.client.state())?.collect::<Result<_, _>>()?;
    state.extend(fs::read_dir(stage.sandbox.join("server-state"))?.collect::<Result<Vec<_>, _>>()?);
    let keys: Vec<_> = state
        .iter()
        .filter(|entry| entry.file_name().to_string_lossy().contains("key"))
        .collect();
    ensure!(keys.len() >= 2, "only {} files of keys in {state:?}", keys.len());
    for key in keys {
        let mode = key.metadata()?.mode() & 0o777;
        ensure!(mode & 0o077 == 0, "{:?} has mode {mode:o}", key.path());
    }
    Ok(())
}
