//! Where the commands under test and the working space of the tests lie.
//!
//! Cargo puts the test executables into `TARGET/PROFILE/deps` and the commands into `TARGET/PROFILE`.
//! `LACUNA_BIN_DIR` names another folder of commands, `LACUNA_TEST_DIR` another working space.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The client command.
pub fn lacuna() -> Result<PathBuf> {
    find("lacuna")
}

/// The server command.
pub fn lacunad() -> Result<PathBuf> {
    find("lacunad")
}

/// The folder of samples and sandboxes: inside the target folder, on a real file system.
pub fn work_dir() -> Result<PathBuf> {
    let dir = match env::var_os("LACUNA_TEST_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => profile_dir()?
            .parent()
            .context("the target folder has no parent")?
            .join("lacuna-tests"),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    dir.canonicalize()
        .with_context(|| format!("cannot resolve {}", dir.display()))
}

fn find(name: &str) -> Result<PathBuf> {
    let dir = match env::var_os("LACUNA_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => profile_dir()?,
    };
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "{} is missing: run `cargo build --workspace --bins` in the profile of the tests",
            path.display()
        );
    }
    Ok(path)
}

fn profile_dir() -> Result<PathBuf> {
    let executable = env::current_exe().context("cannot name the test executable")?;
    let deps = executable.parent().context("the test executable has no folder")?;
    Ok(if deps.ends_with("deps") {
        deps.parent().context("no profile folder")?.to_owned()
    } else {
        deps.to_owned()
    })
}
