//! `lacunad serve` with what it cannot serve.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;

use anyhow::{Result, ensure};
use lacuna_tests::command::{self, Ended};
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::{binaries, random::Random};

use crate::ensure_refused;

fn serve(sandbox: &Sandbox, dir: &Path, state: &Path, listen: &str) -> Result<Ended> {
    let mut server = sandbox.command(binaries::lacunad()?);
    server
        .arg("serve")
        .arg(dir)
        .args(["--listen", listen, "--state"])
        .arg(state);
    // A server that does start would run for ever.
    let mut bounded = sandbox.command("timeout");
    bounded
        .args(["--signal=KILL", "20"])
        .arg(server.get_program())
        .args(server.get_args());
    command::finish(&mut bounded)
}

#[test]
fn a_folder_that_is_missing_or_none() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let state = sandbox.folder("state")?;
    fs::write(sandbox.join("a-file"), "")?;
    for name in ["not-there", "a-file"] {
        ensure_refused(
            &serve(&sandbox, &sandbox.join(name), &state, "127.0.0.1:0")?,
            &[name],
        )?;
    }
    Ok(())
}

#[test]
fn a_port_in_use() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (dir, state) = (sandbox.folder("served")?, sandbox.folder("state")?);
    let taken = UdpSocket::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    ensure_refused(&serve(&sandbox, &dir, &state, &address)?, &[&address])
}

#[test]
fn an_address_that_is_none() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (dir, state) = (sandbox.folder("served")?, sandbox.folder("state")?);
    let ended = serve(&sandbox, &dir, &state, "not an address")?;
    ensure!(ended.code.is_some_and(|code| code != 0), "{ended:?}");
    ensure!(ended.stderr.contains("not an address"), "{ended:?}");
    Ok(())
}

/// Each file of the state, one at a time, is replaced by rubbish: the server refuses to start, names the file
/// and leaves it as it is.
#[test]
fn corrupt_state_is_refused_and_kept() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (dir, state) = (sandbox.folder("served")?, sandbox.folder("state")?);
    let lacunad = |arguments: &[&str]| -> Result<Ended> {
        command::finish(
            sandbox
                .command(binaries::lacunad()?)
                .env("LACUNA_STATE", &state)
                .args(arguments),
        )
    };
    ensure!(lacunad(&["key"])?.success(), "no key");
    ensure!(
        lacunad(&["allow", &format!("sha256:{}", "0a".repeat(32))])?.success(),
        "cannot allow"
    );
    let mut tried = 0;
    for entry in fs::read_dir(&state)? {
        let path = entry?.path();
        let good = fs::read(&path)?;
        // A lock file has no content to lose.
        if good.is_empty() {
            continue;
        }
        for rubbish in [Random::new(71).bytes(200), good[..good.len() / 2].to_vec()] {
            fs::write(&path, &rubbish)?;
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            ensure_refused(&serve(&sandbox, &dir, &state, "127.0.0.1:0")?, &[&name])?;
            ensure!(fs::read(&path)? == rubbish, "{name} was overwritten");
        }
        fs::write(&path, good)?;
        tried += 1;
    }
    ensure!(tried >= 2, "only {tried} files of state");
    Ok(())
}
