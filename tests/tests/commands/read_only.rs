//! A server, or an admission, for reading alone: every command that changes something says so.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lacuna_tests::mount::Client;
use lacuna_tests::sandbox::Sandbox;
use lacuna_tests::server::Server;

use crate::{MIB, Stage, data};

fn ensure_all_refused(stage: &Stage) -> Result<()> {
    fs::write(stage.path("volume"), data(MIB)?)?;
    fs::create_dir(stage.path("folder"))?;
    let changes: [(&str, &str, &[&str]); 8] = [
        ("create", "other", &["1M"]),
        ("resize", "volume", &["2M"]),
        ("resize", "volume", &["0", "--shrink"]),
        ("rm", "volume", &[]),
        ("rm", "folder", &["--folder"]),
        ("punch", "volume", &["--offset", "0", "--length", "1M"]),
        ("wipe", "volume", &[]),
        ("wipe", "volume", &["--zero"]),
    ];
    let server = stage.server.address().to_string();
    for (command, name, arguments) in changes {
        stage.refused(command, name, arguments, &[&server, "takes no changes"])?;
    }
    stage.ensure_unchanged(MIB)?;
    ensure!(stage.path("folder").exists(), "the folder is gone");
    ensure!(!stage.path("other").exists(), "something was made");
    Ok(())
}

#[test]
fn a_read_only_server() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let dir = sandbox.folder("served")?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start_with(&sandbox, &dir, listen, &["--read-only"])?;
    let client = Client::admitted(&sandbox, &server)?;
    ensure_all_refused(&Stage {
        client,
        server,
        sandbox,
        dir,
    })
}

#[test]
fn a_client_admitted_for_reading() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let dir = sandbox.folder("served")?;
    let server = Server::start(&sandbox, &dir)?;
    let client = Client::new(&sandbox, "reader")?;
    server.run(&sandbox, &["allow", &client.key()?, "--read-only"])?;
    client.trust(&server)?;
    ensure_all_refused(&Stage {
        client,
        server,
        sandbox,
        dir,
    })
}
