//! The rules of the house that a program can hold: size and names of files, the arrows between the crates,
//! no test that is switched off, and no promise in docs/SEMANTICS.md without a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

mod promises;

const LINES_MAX: usize = 800;
const BANNED_NAMES: [&str; 4] = ["mod.rs", "utils.rs", "common.rs", "helpers.rs"];

/// A file of Rust, its path relative to the workspace.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn is_below(&self, dir: &str) -> bool {
        self.path.starts_with(dir)
    }

    /// Its lines without comments.
    fn code(&self) -> impl Iterator<Item = &str> {
        self.text
            .lines()
            .map(|line| line.split("//").next().unwrap_or(line))
    }
}

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the crate has no parent folder")
}

fn sources() -> Result<Vec<Source>> {
    let root = root()?;
    let mut sources = Vec::new();
    let mut folders: Vec<_> = ["transport", "fs", "server", "tests", "fuzz"]
        .map(|dir| root.join(dir))
        .into_iter()
        .filter(|d| d.is_dir())
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path)?;
                sources.push(Source {
                    path: path.strip_prefix(root)?.to_owned(),
                    text,
                });
            }
        }
    }
    ensure!(sources.len() > 50, "only {} sources found", sources.len());
    Ok(sources)
}

/// No source breaks a rule: `broken` says how one does.
fn ensure_none(mut broken: impl FnMut(&Source) -> Option<String>) -> Result<()> {
    let lines: Vec<_> = sources()?
        .iter()
        .filter_map(|source| Some(format!("{}: {}", source.path.display(), broken(source)?)))
        .collect();
    ensure!(lines.is_empty(), "{}", lines.join("\n"));
    Ok(())
}

#[test]
fn files_are_short() -> Result<()> {
    ensure_none(|source| {
        let lines = source.text.lines().count();
        (lines > LINES_MAX).then(|| format!("{lines} lines"))
    })
}

#[test]
fn files_are_named_after_what_they_own() -> Result<()> {
    ensure_none(|source| {
        BANNED_NAMES
            .iter()
            .find(|name| source.path.ends_with(name))
            .map(|name| format!("a file named {name}"))
    })
}

#[test]
fn files_open_with_what_they_own() -> Result<()> {
    ensure_none(|source| (!source.text.starts_with("//!")).then(|| "does not open with `//!`".to_owned()))
}

#[test]
fn no_test_is_switched_off() -> Result<()> {
    let attribute = concat!("#[", "ignore");
    ensure_none(|source| {
        source
            .code()
            .find(|line| line.contains(attribute))
            .map(str::to_owned)
    })
}

#[test]
fn the_arrows_point_one_way() -> Result<()> {
    for (manifest, forbidden) in [
        ("transport/Cargo.toml", &["lacuna", "lacuna-server"][..]),
        ("fs/Cargo.toml", &["lacuna-server"]),
        ("server/Cargo.toml", &["lacuna", "fuser"]),
    ] {
        let text = fs::read_to_string(root()?.join(manifest))?;
        let keys: BTreeSet<_> = text
            .lines()
            .filter_map(|line| {
                line.split(['=', '.', ' '])
                    .next()
                    .filter(|key| !key.is_empty() && !line.starts_with('['))
            })
            // `[package] name = "…"` names the crate itself.
            .filter(|key| *key != "name")
            .collect();
        for name in forbidden {
            ensure!(!keys.contains(name), "{manifest} depends on {name}");
        }
    }
    ensure_none(|source| {
        let forbidden = match () {
            () if source.is_below("transport") => &["lacuna::", "lacuna_server::"][..],
            () if source.is_below("fs") => &["lacuna_server::"],
            () if source.is_below("server") => &["lacuna::", "fuser::"],
            () => &[],
        };
        source
            .code()
            .find(|line| forbidden.iter().any(|word| line.contains(word)))
            .map(str::to_owned)
    })
}

/// The core of `fs` knows neither FUSE nor QUIC; only the folders named here do.
#[test]
fn the_core_of_the_client_is_pure() -> Result<()> {
    let allowed = [
        "fs/src/fuse",
        "fs/src/fuse.rs",
        "fs/src/remote",
        "fs/src/command",
        "fs/src/command.rs",
        "fs/src/main.rs",
    ];
    ensure_none(|source| {
        if !source.is_below("fs/src") || allowed.iter().any(|path| source.is_below(path)) {
            return None;
        }
        let names = |line: &&str| {
            line.contains("fuser::") || line.contains("quinn::") || line.contains("quinn_proto::")
        };
        source.code().find(names).map(str::to_owned)
    })
}

/// Waiting for a time instead of a state hides a race; the harness polls in one place.
#[test]
fn no_test_sleeps() -> Result<()> {
    let call = concat!("thread::", "sleep(");
    ensure_none(|source| {
        let allowed = source.path.ends_with("tests/src/wait.rs") || !source.is_below("tests");
        source
            .code()
            .find(|line| !allowed && line.contains(call))
            .map(str::to_owned)
    })
}
