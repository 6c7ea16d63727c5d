//! Keys: unknown servers, wrong pins, clients that are not admitted or no longer.

use anyhow::{Result, ensure};
use lacuna_tests::command;
use lacuna_tests::mount::{Client, Mount};
use lacuna_tests::wait;

use crate::{Stage, ensure_nothing_left, ensure_refused};

#[test]
fn a_server_that_is_not_trusted_yet() -> Result<()> {
    let stage = Stage::new()?;
    let stranger = Client::new(&stage.sandbox, "stranger")?;
    stage.server.allow(&stage.sandbox, &stranger.key()?)?;
    let ended = stranger.try_mount(stage.spec().as_ref(), &stage.mountpoint, &[])?;
    stage.ensure_refused(&ended, &["lacuna trust"])
}

#[test]
fn a_server_with_another_key() -> Result<()> {
    let stage = Stage::new()?;
    let wrong = format!("sha256:{}", "0a".repeat(32));
    // A pin is not lost by accident.
    let trust = ["trust", &stage.spec(), &wrong];
    ensure_refused(
        &command::finish(stage.client.command()?.args(trust))?,
        &[stage.server.identity(), "--replace"],
    )?;
    command::run(stage.client.command()?.args(trust).arg("--replace"))?;
    stage.ensure_refused(&stage.mount(stage.spec())?, &[&stage.spec()])
}

#[test]
fn a_client_that_is_not_admitted() -> Result<()> {
    let stage = Stage::new()?;
    let stranger = Client::new(&stage.sandbox, "stranger")?;
    stranger.trust(&stage.server)?;
    let ended = stranger.try_mount(stage.spec().as_ref(), &stage.mountpoint, &[])?;
    stage.ensure_refused(&ended, &["lacunad allow", &stranger.key()?])?;
    // `allow` takes effect at once, without a restart.
    stage.server.allow(&stage.sandbox, &stranger.key()?)?;
    ensure!(
        stranger
            .try_mount(stage.spec().as_ref(), &stage.mountpoint, &[])?
            .success(),
        "not admitted after allow"
    );
    Ok(())
}

#[test]
fn a_client_that_is_revoked() -> Result<()> {
    let stage = Stage::new()?;
    let spec = stage.spec();
    ensure!(stage.mount(&spec)?.success(), "cannot mount before it is revoked");
    let key = stage.client.key()?;
    stage.server.run(&stage.sandbox, &["revoke", &key])?;
    let second = stage.sandbox.folder("mnt-2")?;
    let ended = stage.client.try_mount(spec.as_ref(), &second, &[])?;
    ensure_refused(&ended, &["lacunad allow", &key])?;
    ensure_nothing_left(&stage.sandbox, &second)?;
    // The live session is closed too.
    wait::until("the live session to be closed", wait::LIMIT, || {
        let ended = command::run(
            stage
                .client
                .command()?
                .arg("status")
                .arg(&stage.mountpoint)
                .arg("--json"),
        )?;
        Ok(!lacuna_tests::status::Status::parse(&ended.stdout)?.connected)
    })
}

#[test]
fn keys_that_are_none() -> Result<()> {
    let stage = Stage::new()?;
    for key in [
        "",
        "sha256:",
        "sha256:zz",
        "md5:00",
        &format!("sha256:{}", "0a".repeat(33)),
    ] {
        let ended = command::finish(stage.client.command()?.args(["trust", &stage.spec(), key]))?;
        ensure!(
            ended.code == Some(2) && ended.stderr.starts_with("error: "),
            "`{key}`: {ended:?}"
        );
        ensure!(
            stage.server.run(&stage.sandbox, &["allow", key]).is_err(),
            "`{key}` was allowed"
        );
    }
    // The pin that was there is still there.
    stage.ensure_serves()
}

/// Two clients at once, each with its own key; one of them is not admitted and does not disturb the other.
#[test]
fn a_refused_client_disturbs_nobody() -> Result<()> {
    let stage = Stage::new()?;
    let mountpoint = stage.sandbox.join("mnt-1");
    let mount = Mount::new(&stage.client, &stage.server, "".as_ref(), mountpoint, &[])?;
    let stranger = Client::new(&stage.sandbox, "stranger")?;
    stranger.trust(&stage.server)?;
    for _ in 0..5 {
        let ended = stranger.try_mount(stage.spec().as_ref(), &stage.mountpoint, &[])?;
        stage.ensure_refused(&ended, &["lacunad allow"])?;
    }
    let status = mount.status()?;
    ensure!(
        status.connected && status.reconnects == 0,
        "disturbed: {status:?}"
    );
    Ok(())
}
