//! Pipes, FIFOs and what a shell redirects.

use std::fs::{self, File};

use anyhow::{Result, ensure};
use lacuna_tests::command;
use lacuna_tests::compare::{self, Reading, allocated_bytes};

use crate::{MIB, Running, SAMPLE_BYTES, Stage, make_fifo, refused, said, write_data, write_sample};

/// Holes are zeros in a pipe, and are found again.
#[test]
fn bytes_pass_through_pipes() -> Result<()> {
    let stage = Stage::with_sample()?;
    let script = "\"$lacuna\" pull \"$at/v\" - | \"$lacuna\" push - \"$at/copy\" --verify";
    let ended = command::run(&mut stage.shell(script)?)?;
    ensure!(
        ended.text()?.starts_with("pushed") && ended.stderr.starts_with("pulled"),
        "{ended:?}"
    );
    compare::same_bytes(&stage.original("v"), &stage.original("copy"), Reading::Everything)?;
    let taken = allocated_bytes(&stage.original("copy"))?;
    ensure!(taken < 5 * MIB, "zeros took space: {taken}");
    Ok(())
}

#[test]
fn fifos_are_waited_for() -> Result<()> {
    let stage = Stage::with_sample()?;
    let fifo = stage.local("fifo");
    make_fifo(&fifo)?;
    let pull = Running::start(&mut stage.pull("v", &fifo, &[])?)?;
    let push = Running::start(&mut stage.push(&fifo, "copy", &["--sparse=never"])?)?;
    let (pulled, pushed) = (pull.ended()?, push.ended()?);
    ensure!(pulled.success() && pushed.success(), "{pulled:?} {pushed:?}");
    compare::same_bytes(&stage.original("v"), &stage.original("copy"), Reading::Everything)?;
    ensure!(
        allocated_bytes(&stage.original("copy"))? >= SAMPLE_BYTES,
        "a hole was made"
    );
    Ok(())
}

/// What a shell has open goes on where it stands: nothing that is there is lost, and what follows follows.
#[test]
fn a_redirected_output_goes_on_where_it_stands() -> Result<()> {
    let stage = Stage::with_sample()?;
    let volume = fs::read(stage.original("v"))?;
    for (script, head, tail) in [
        ("\"$lacuna\" pull \"$at/v\" - > out", "", ""),
        ("{ \"$lacuna\" pull \"$at/v\" -; printf tail; } > out", "", "tail"),
        (
            "{ printf head; \"$lacuna\" pull \"$at/v\" -; printf tail; } > out",
            "head",
            "tail",
        ),
        (
            "printf head > out; \"$lacuna\" pull \"$at/v\" - >> out",
            "head",
            "",
        ),
        ("\"$lacuna\" pull \"$at/v\" /dev/stdout | cat > out", "", ""),
    ] {
        command::run(&mut stage.shell(script)?)?;
        let expected = [head.as_bytes(), &volume, tail.as_bytes()].concat();
        ensure!(
            fs::read(stage.local("out"))? == expected,
            "{script}: the file differs"
        );
    }
    let taken = {
        command::run(&mut stage.shell("\"$lacuna\" pull \"$at/v\" - > sparse")?)?;
        allocated_bytes(&stage.local("sparse"))?
    };
    ensure!(taken < 5 * MIB, "a file has its holes: {taken}");
    Ok(())
}

#[test]
fn a_redirected_input_goes_on_where_it_stands() -> Result<()> {
    let stage = Stage::new()?;
    write_sample(&stage.local("source"), 5)?;
    let script = "{ dd bs=1000 count=1 of=front status=none; \"$lacuna\" push - \"$at/v\"; } < source";
    command::run(&mut stage.shell(script)?)?;
    let expected = fs::read(stage.local("source"))?.split_off(1000);
    ensure!(fs::read(stage.original("v"))? == expected, "the volume differs");
    Ok(())
}

#[test]
fn a_source_that_ends_early_is_an_error_with_both_numbers() -> Result<()> {
    let stage = Stage::new()?;
    write_data(&stage.local("source"), 3 * MIB)?;
    let script = "cat source | \"$lacuna\" push - \"$at/v\" --length 4M";
    refused(&mut stage.shell(script)?, &["3145728", "4194304"])?;
    ensure!(
        fs::metadata(stage.original("v"))?.len() == 4 * MIB,
        "the size changed"
    );
    Ok(())
}

#[test]
fn a_pipe_does_not_go_beyond_the_volume() -> Result<()> {
    let stage = Stage::new()?;
    write_data(&stage.local("source"), 3 * MIB)?;
    File::create_new(stage.original("v"))?.set_len(2 * MIB)?;
    let push = "cat source | \"$lacuna\" push - \"$at/v\"";
    refused(&mut stage.shell(push)?, &["2097152", "--resize"])?;
    ensure!(
        fs::metadata(stage.original("v"))?.len() == 2 * MIB,
        "the size changed"
    );
    command::run(&mut stage.shell(&format!("{push} --resize"))?)?;
    compare::same_bytes(&stage.local("source"), &stage.original("v"), Reading::Everything)
}

#[test]
fn a_reader_that_goes_away_ends_it() -> Result<()> {
    let stage = Stage::with_sample()?;
    let ended = command::finish(&mut stage.shell("\"$lacuna\" pull \"$at/v\" - | head -c 1 > front")?)?;
    said(&ended, &["whoever read it went away"])
}
