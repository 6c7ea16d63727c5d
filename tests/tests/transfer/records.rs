//! `--format=lacuna`: sparse through a pipe or a file.

use std::fs;

use anyhow::{Result, ensure};
use lacuna_tests::command;

use crate::{SAMPLE_DATA, Stage, TALK_BYTES, b3sum, moved, refused, same};

#[test]
fn holes_pass_through_a_pipe() -> Result<()> {
    let stage = Stage::with_sample()?;
    let script = "\"$lacuna\" pull \"$at/v\" - --format=lacuna | tee records |
        \"$lacuna\" push - \"$at/copy\" --format=lacuna --verify";
    command::run(&mut stage.shell(script)?)?;
    same(&stage.original("v"), &stage.original("copy"))?;
    let data: u64 = SAMPLE_DATA.iter().map(|(start, end)| end - start).sum();
    let length = fs::metadata(stage.local("records"))?.len();
    ensure!(
        length < data + TALK_BYTES,
        "{length} bytes of records for {data} of data"
    );
    Ok(())
}

#[test]
fn a_range_becomes_a_file_and_comes_back() -> Result<()> {
    let stage = Stage::with_sample()?;
    let (records, part) = (stage.local("records"), stage.local("part"));
    let range = ["--offset", "2M", "--length", "40M"];
    moved(&mut stage.pull("v", &part, &range)?)?;
    let options = [&range[..], &["--format=lacuna"]].concat();
    // What was in the file is gone.
    fs::write(&records, vec![1; 20 << 20])?;
    let pulled = moved(&mut stage.pull("v", &records, &options)?)?;
    let pushed = moved(&mut stage.push(&records, "copy", &["--format=lacuna"])?)?;
    ensure!(
        pulled.digest == Some(b3sum(&part)?) && pulled.digest == pushed.digest,
        "{pushed:?}"
    );
    same(&part, &stage.original("copy"))
}

/// A stream is one whole thing: no part of it is taken for all of it.
#[test]
fn what_was_cut_or_damaged_is_refused() -> Result<()> {
    let stage = Stage::with_sample()?;
    let records = stage.local("records");
    moved(&mut stage.pull("v", &records, &["--format=lacuna"])?)?;
    let whole = fs::read(&records)?;
    let push = |bytes: &[u8], words: &[&str]| -> Result<()> {
        fs::write(&records, bytes)?;
        refused(&mut stage.push(&records, "copy", &["--format=lacuna"])?, words)
    };
    for cut in [0, 10, 1000, whole.len() / 2, whole.len() - 1] {
        push(&whole[..cut], &["records", "cut"])?;
    }
    let mut damaged = whole.clone();
    damaged[1 << 20] ^= 1;
    push(&damaged, &["records", "damaged"])?;
    push(b"not a stream", &["records", "not a stream of lacuna records"])?;
    push(&[&whole[..], b"x"].concat(), &["records", "more bytes"])
}
